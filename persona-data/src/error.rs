//! What can go wrong, with the place where it did.

use std::fmt;
use std::path::PathBuf;

/// `std::result::Result` with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A place in a data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the caller named it.
    pub file: String,
    /// The line, from 1, of the decompressed text.
    pub line: u64,
    /// The record within the file, from 1, in formats that keep many records on one line.
    pub record: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match self.record {
            Some(record) => write!(f, " (record {record})"),
            None => Ok(()),
        }
    }
}

/// Everything that the functions of this crate report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened.
    #[error("cannot open {}: {source}; check the path and its permissions", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Reading stopped part of the way.
    #[error("{place}: cannot read on: {source}")]
    Read {
        /// The last line that was reached.
        place: Place,
        /// The operating system's or the decompressor's reason.
        source: std::io::Error,
    },
    /// A gzip stream ends before its trailer.
    #[error(
        "{place}: the gzip stream ends too early; fetch the file again, what was read so far is not all of it"
    )]
    TruncatedGzip {
        /// The last line that was reached.
        place: Place,
    },
    /// A file could not be written; what stood under that name before is untouched.
    #[error("cannot write {}: {source}; the file that stood there before, if any, is unchanged", path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A line is not UTF-8.
    #[error("{place}: byte {byte} of the line is not UTF-8; convert the file to UTF-8 first")]
    NotUtf8 {
        /// The line.
        place: Place,
        /// The offending byte's number within the line, from 1.
        byte: usize,
    },
    /// A file is in UTF-16, as its byte order mark says.
    #[error("{file}:1: the file is UTF-16; convert it to UTF-8 first")]
    Utf16 {
        /// The file.
        file: String,
    },
    /// A file holds nothing.
    #[error("{file}:1: no dialogue in the file; is it the right one, and was it fetched whole?")]
    Empty {
        /// The file.
        file: String,
    },
    /// A line or record does not have the form that its format asks for.
    #[error("{place}: {problem}")]
    Malformed {
        /// Where.
        place: Place,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A piece of JSON is broken or has other fields than its format asks for.
    #[error("{place}: {source}; expected {expected}")]
    Json {
        /// Where.
        place: Place,
        /// The form that was expected.
        expected: &'static str,
        /// The parser's reason. Its line and column count from the record's start.
        source: serde_json::Error,
    },
    /// A table lacks a column.
    #[error("{file}:1: no column {column:?}; the header has {found:?}")]
    MissingColumn {
        /// The file.
        file: String,
        /// The column that was looked for.
        column: &'static str,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// A label points at no description.
    #[error(
        "{place}: label {label} is no index into a persona of {descriptions} descriptions; labels count from 0"
    )]
    LabelOutOfRange {
        /// Where.
        place: Place,
        /// The label.
        label: i64,
        /// How many descriptions the persona has.
        descriptions: usize,
    },
    /// A format's name is not known.
    #[error("unknown format {name:?}; the formats are {}", crate::Format::names())]
    UnknownFormat {
        /// The name.
        name: String,
    },
    /// A file looks like none of the formats.
    #[error(
        "{file}:1: the file looks like none of the known formats; name one of {}",
        crate::Format::names()
    )]
    UndetectedFormat {
        /// The file.
        file: String,
    },
    /// Two dialogues of one set have the same id.
    #[error(
        "two dialogues are called {id:?}: {first} and {second}. A split tells dialogues apart by their ids, and where a \
         file has none they begin with its name without folders: if the dialogues are of two files of one name in different \
         folders, rename a file, or give `read` another name for it; otherwise change one dialogue's id"
    )]
    DuplicateId {
        /// The id.
        id: String,
        /// Where the first one stands, as `dialogue 3`, or `train, dialogue 3` where the sets have names; from 1.
        first: String,
        /// Where the other one stands.
        second: String,
    },
    /// The parts asked for cannot be made.
    #[error("cannot split {dialogues} dialogues with {examples} examples: {problem}")]
    Split {
        /// How many dialogues there are.
        dialogues: usize,
        /// How many examples they give.
        examples: usize,
        /// What is wrong with the request.
        problem: String,
    },
    /// A record list and the dialogues it is applied to do not belong together.
    #[error("the record list does not fit the dialogues: {problem}")]
    RecordList {
        /// What differs.
        problem: String,
    },
    /// A labeller named a description that is not there.
    #[error(
        "turn {turn} of dialogue {dialogue:?}: the labeller chose description {index} of a persona of {descriptions}"
    )]
    LabellerIndex {
        /// The dialogue's id.
        dialogue: String,
        /// The turn's index.
        turn: usize,
        /// What the labeller returned.
        index: usize,
        /// How many descriptions the persona has.
        descriptions: usize,
    },
    /// A labeller was given nothing to learn word frequencies from.
    #[error("no text to learn word frequencies from; give the dialogues that are to be labelled")]
    NoText,
    /// No prompt set of this name ships with the crate.
    #[error("unknown prompt set {name:?}; the sets are {}, or give a file", crate::PromptSet::BUILTIN.join(", "))]
    UnknownPromptSet {
        /// The name.
        name: String,
    },
    /// No chat format of this name ships with the crate.
    #[error("unknown chat format {name:?}; the formats are none and llama3, or give a template")]
    UnknownChatFormat {
        /// The name.
        name: String,
    },
    /// A prompt set's file is broken TOML, lacks a key or has one that nothing reads.
    #[error("{file}: {source}")]
    PromptSetSyntax {
        /// The file.
        file: String,
        /// The parser's reason, with line and key.
        source: Box<toml::de::Error>,
    },
    /// A value of a prompt set cannot work.
    #[error("{file}: {key}: {problem}")]
    PromptSetKey {
        /// The file.
        file: String,
        /// The key, or `chat` for the chat format.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A template does not compile, or does not render.
    #[error("{file}: {key}, line {line} of the template: {source}")]
    Template {
        /// The prompt set's file.
        file: String,
        /// The template's key, or `chat` for the chat format.
        key: &'static str,
        /// The line within the template, from 1.
        line: usize,
        /// The template engine's reason.
        source: Box<minijinja::Error>,
    },
    /// A model folder has no chat template.
    #[error(
        "{folder}: no chat template: there is no chat_template.jinja, and no chat_template in tokenizer_config.json"
    )]
    NoChatTemplate {
        /// The folder.
        folder: String,
    },
    /// The last message of a chat cannot be left open for the model to go on with it.
    #[error("the last message cannot be continued: {problem}")]
    ContinueFinalMessage {
        /// What is wrong.
        problem: &'static str,
    },
    /// A description was named that the persona does not have.
    #[error("description {index} was chosen from a persona of {descriptions}; indexes count from 0")]
    HighlightIndex {
        /// The index, from 0.
        index: usize,
        /// How many descriptions the persona has.
        descriptions: usize,
    },
    /// A tokenizer could not be read, or broke down on a text.
    #[error("{tokenizer}: {source}; expected a tokenizer.json of the Hugging Face tokenizers library")]
    Tokenizer {
        /// The tokenizer's file, or a name for one that has none.
        tokenizer: String,
        /// The tokenizer's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A JSON file beside a tokenizer does not have its form.
    #[error("{}: {source}; fetch the file again, or correct it", path.display())]
    SideFile {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// Nothing says which token ends a text.
    #[error(
        "{tokenizer}: no end-of-text token: {looked}; give one, for example SpecialTokens {{ eos: Some(\"</s>\".into()), ..Default::default() }}"
    )]
    NoEos {
        /// The tokenizer's file or folder.
        tokenizer: String,
        /// Where it was looked for.
        looked: &'static str,
    },
    /// A special token is not in the vocabulary.
    #[error("{tokenizer}: the {role} token {token:?} is not in its vocabulary; name one that is")]
    UnknownToken {
        /// The tokenizer's file or folder.
        tokenizer: String,
        /// What the token is for: `eos`, `bos`, `pad`, or `chat format`.
        role: &'static str,
        /// The token, or its id.
        token: String,
    },
    /// A tokenizer has ids that the model has no embedding for.
    #[error(
        "the tokenizer does not match the checkpoint: its largest id is {largest} and the model embeds {rows} ids; \
         take the tokenizer that was saved with the model"
    )]
    VocabularyMismatch {
        /// The tokenizer's largest id.
        largest: usize,
        /// The rows of the model's embedding.
        rows: usize,
    },
    /// A tokenizer and a model's configuration give a special token different ids.
    #[error(
        "the tokenizer does not match the checkpoint: its {role} token is {token:?} with id {own}, and the model's \
         configuration says {role}_token_id {model}; take the tokenizer that was saved with the model, or name its {role} \
         token in SpecialTokens"
    )]
    SpecialTokenMismatch {
        /// What the token is for: `eos` or `bos`.
        role: &'static str,
        /// The tokenizer's token.
        token: String,
        /// Its id in the tokenizer.
        own: u32,
        /// The id in the model's configuration.
        model: u32,
    },
    /// An id is outside a tokenizer's vocabulary.
    #[error(
        "id {id} is outside the tokenizer's vocabulary of {vocabulary}; is it the tokenizer that made the ids?"
    )]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// A tokenizer cannot be trained as asked.
    #[error("cannot train a tokenizer: {problem}")]
    TokenizerTraining {
        /// What is wrong.
        problem: String,
    },
    /// Options of encoding that contradict each other.
    #[error("encoding options: {problem}")]
    EncodeOptions {
        /// What is wrong.
        problem: String,
    },
    /// An example has nothing to train on.
    #[error(
        "example {id:?}, task {task}: the target is empty; drop the example, there is nothing to train on"
    )]
    EmptyTarget {
        /// The example's id.
        id: String,
        /// The task's name.
        task: &'static str,
    },
    /// A prompt gives no token at all.
    #[error("example {id:?}: the prompt is empty; a model needs at least one token to go on from")]
    EmptyPrompt {
        /// The example's id.
        id: String,
    },
    /// An example does not fit even with all turns but the last cut away.
    #[error(
        "example {id:?}, task {task}: {source_len} source and {target_len} target tokens where {limit} are allowed, after \
         every turn that may be cut was cut; raise the limit or drop the example"
    )]
    TooLong {
        /// The example's id.
        id: String,
        /// The task's name.
        task: &'static str,
        /// Tokens of the shortest possible source.
        source_len: usize,
        /// Tokens of the target, or the room left for a reply.
        target_len: usize,
        /// The limit that was passed, with its name.
        limit: String,
    },
    /// A format of natural language inference is not known.
    #[error("unknown format {name:?}; the formats of pairs are {}", crate::NliFormat::names())]
    UnknownNliFormat {
        /// The name.
        name: String,
    },
    /// A judge has other classes than the three.
    #[error(
        "the judge's classes are {classes:?}; expected contradiction, neutral and entailment in any order: set id2label in \
         its config.json to what its logits are"
    )]
    JudgeClasses {
        /// The classes.
        classes: Vec<String>,
    },
    /// A judge gave something other than probabilities.
    #[error("{problem}")]
    JudgeProbabilities {
        /// What it gave for which pair.
        problem: String,
    },
    /// A pair is to be labelled that no judge has seen.
    #[error(
        "the description {description:?} was not judged with the reply {reply:?}; judge every description of a reply's \
         speaker before labelling"
    )]
    NotJudged {
        /// The description.
        description: String,
        /// The reply.
        reply: String,
    },
    /// A text that an encoder is to read has no words.
    #[error("pair {id:?}: the {part} is empty; remove the pair, there is nothing to read")]
    EmptyText {
        /// The pair's id.
        id: String,
        /// `premise` or `hypothesis`.
        part: &'static str,
    },
    /// A text holds one of the tokenizer's control tokens as text.
    #[error("example {id:?}: the text {text:?} holds the control token {token:?}; remove it from the data")]
    ControlToken {
        /// The example's id.
        id: String,
        /// The text.
        text: String,
        /// The token.
        token: String,
    },
    /// An example without labels was to be encoded for a task that needs them.
    #[error(
        "example {id:?}, task {task}: nobody labelled which descriptions its response uses; run a labeller first"
    )]
    Unlabelled {
        /// The example's id.
        id: String,
        /// The task's name.
        task: &'static str,
    },
    /// An example's label points at no description.
    #[error(
        "example {id:?}: label {index} is no index into a persona of {descriptions} descriptions; labels count from 0"
    )]
    ExampleLabel {
        /// The example's id.
        id: String,
        /// The label.
        index: usize,
        /// How many descriptions the persona has.
        descriptions: usize,
    },
}
