//! Prompts as data: the wording of every task in one TOML file per language.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use minijinja::value::Value;
use minijinja::{Environment, context};
use sha2::{Digest, Sha256};

use crate::dialogue::{Role, Utterance};
use crate::error::{Error, Result};

mod chat;
mod chat_template;
mod file;
mod python;
mod selection;

pub use chat::ChatFormat;
pub use chat_template::{ChatMessage, ChatOptions, ChatTemplate, ChatValue};
use file::SetFile;
pub use selection::{MatchedBy, OVERLAP_BOUND, Selection};

/// What a generation prompt says about the selected description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Highlight<'a> {
    /// Nothing is said about a selection: plain fine-tuning, and PAL's Not-Select strategy.
    #[default]
    Absent,
    /// The phrase for "none": a selection was made and no description applies.
    None,
    /// The description at this index of the persona, as it stands in the prompt's list.
    Description(usize),
    /// A text of the caller's, a model's own selection as it came, for example.
    Text(&'a str),
}

/// Which prompt is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptKind<'a> {
    /// Which description matters for the next response.
    Selection,
    /// The next response from persona, history and highlight.
    Generation(Highlight<'a>),
    /// The next response from the history alone.
    HistoryOnly,
}

impl PromptKind<'_> {
    /// The name in files and errors.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::Generation(_) => "generation",
            Self::HistoryOnly => "history_only",
        }
    }
}

/// The prompts of one language, in one wording; training and inference use the same templates.
///
/// Three sets ship with the crate; [`PromptSet::from_file`] reads one of the user's own. A set is a TOML file:
///
/// ```toml
/// name = "mine"
/// language = "en"
/// none_phrase = "Nothing applies."   # the answer to a selection prompt when no description matters
/// number_mark = ". "                 # between a description's number and its text
/// target_prefix = " "                # what a target starts with, as the prompt ends without a space
/// chat = "none"                      # a built-in chat format (see ChatFormat), or chat_template = "..." instead
///
/// [tags]                             # the two speakers
/// agent = "person2"
/// partner = "person1"
///
/// [cues]                             # what every prompt ends in
/// selection = "Relevant:"
/// response = "person2:"
///
/// [templates]                        # minijinja, white space as in transformers' chat templates (see ChatFormat)
/// selection = "..."                  # persona, history, none_phrase, agent, partner
/// generation = "..."                 # these and highlight, which is `none` for Highlight::Absent
/// history_only = "..."               # history, none_phrase, agent, partner
/// ```
///
/// `persona` is a list of numbered descriptions ("1. I have a turtle."), `history` a list of turns with `tag`, `text`
/// and `role` (`agent` or `partner`). Every turn and every description is one line: line breaks inside become spaces.
/// White space around a rendered template is dropped; the chat format joins it with the cue.
///
/// ```
/// use persona_data::{Highlight, PromptSet, Role, Utterance};
///
/// let prompts = PromptSet::english()?;
/// let persona = ["I have a turtle.".to_owned()];
/// let history = [Utterance { role: Role::Partner, text: "Any pets?".into() }];
/// let prompt = prompts.generation(&persona, &history, Highlight::Description(0))?;
/// assert!(prompt.ends_with("person1: Any pets?\nRelevant: 1. I have a turtle.\nperson2:"));
/// assert_eq!(prompts.response_target("Yes, a turtle."), " Yes, a turtle.");
/// # Ok::<(), persona_data::Error>(())
/// ```
#[derive(Clone)]
pub struct PromptSet {
    file: SetFile,
    chat: ChatFormat,
    /// The templates under the keys of the file, and the chat format under `chat`.
    templates: Environment<'static>,
    /// Where the set came from, for errors.
    origin: String,
}

impl fmt::Debug for PromptSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptSet")
            .field("file", &self.file)
            .field("chat", &self.chat)
            .finish_non_exhaustive()
    }
}

impl PromptSet {
    /// The names that [`PromptSet::builtin`] knows.
    pub const BUILTIN: [&'static str; 3] = ["english", "chinese", "japanese"];

    /// The English set.
    ///
    /// # Errors
    /// None in practice: the tests load what ships.
    pub fn english() -> Result<Self> {
        Self::from_toml(include_str!("../templates/english.toml"), "english")
    }

    /// The Chinese set.
    ///
    /// # Errors
    /// As [`PromptSet::english`].
    pub fn chinese() -> Result<Self> {
        Self::from_toml(include_str!("../templates/chinese.toml"), "chinese")
    }

    /// The Japanese set.
    ///
    /// # Errors
    /// As [`PromptSet::english`].
    pub fn japanese() -> Result<Self> {
        Self::from_toml(include_str!("../templates/japanese.toml"), "japanese")
    }

    /// A shipped set by name.
    ///
    /// # Errors
    /// [`Error::UnknownPromptSet`] for a name that is not in [`PromptSet::BUILTIN`].
    pub fn builtin(name: &str) -> Result<Self> {
        match name {
            "english" => Self::english(),
            "chinese" => Self::chinese(),
            "japanese" => Self::japanese(),
            _ => Err(Error::UnknownPromptSet { name: name.to_owned() }),
        }
    }

    /// A set of the user's own. Its templates are compiled and rendered with made-up dialogues, so that what is wrong
    /// with them is known here and not in the middle of a run.
    ///
    /// # Errors
    /// [`Error::Open`] when the file cannot be read, [`Error::PromptSetSyntax`] for broken TOML, missing and unknown
    /// keys, [`Error::PromptSetKey`] for a value that cannot work (a template that shows no history, for example), and
    /// [`Error::Template`] with the template's line for one that does not compile or render: an undefined variable is an
    /// error, and so is a template that runs on without end.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Self::from_toml(&text, &path.display().to_string())
    }

    /// As [`PromptSet::from_file`], from the file's text; `origin` stands for the file's name in errors.
    ///
    /// # Errors
    /// As [`PromptSet::from_file`].
    pub fn from_toml(text: &str, origin: &str) -> Result<Self> {
        let file = SetFile::parse(text, origin)?;
        let chat = file.chat_format(origin)?;
        let templates = file::compile(&file, &chat, origin)?;
        let set = Self { file, chat, templates, origin: origin.to_owned() };
        set.check()?;
        Ok(set)
    }

    /// The same prompts in another chat format.
    ///
    /// # Errors
    /// [`Error::Template`] when the format does not compile or render, [`Error::PromptSetKey`] when it does not show
    /// both `prompt` and `cue` exactly once.
    pub fn with_chat(mut self, chat: ChatFormat) -> Result<Self> {
        self.templates = file::compile(&self.file, &chat, &self.origin)?;
        self.chat = chat;
        self.check()?;
        Ok(self)
    }

    /// The set's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// The set's language, as its file gives it.
    #[must_use]
    pub fn language(&self) -> &str {
        &self.file.language
    }

    /// The answer to a selection prompt when no description matters.
    #[must_use]
    pub fn none_phrase(&self) -> &str {
        &self.file.none_phrase
    }

    /// The tag of a speaker in the rendered history.
    #[must_use]
    pub fn tag(&self, role: Role) -> &str {
        match role {
            Role::Agent => &self.file.tags.agent,
            Role::Partner => &self.file.tags.partner,
        }
    }

    /// The chat format around every prompt.
    #[must_use]
    pub fn chat(&self) -> &ChatFormat {
        &self.chat
    }

    /// SHA-256, in hexadecimal, of everything that prompts and targets are made from: two sets that differ in it
    /// render differently, and a checkpoint can remember which one it was trained with.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let file = &self.file;
        let mut parts = vec![&file.none_phrase, &file.number_mark, &file.target_prefix];
        parts.extend([&file.tags.agent, &file.tags.partner, &file.cues.selection, &file.cues.response]);
        parts.extend([&file.templates.selection, &file.templates.generation, &file.templates.history_only]);
        let chat = self.chat.template().to_owned();
        parts.push(&chat);
        let mut digest = Sha256::new();
        for part in parts {
            // The length first: parts must not flow into each other.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        format!("{:x}", digest.finalize())
    }

    /// The prompt that asks which description matters; its target is [`PromptSet::selection_target`].
    ///
    /// # Errors
    /// [`Error::Template`] when the template fails on this input.
    pub fn selection(&self, persona: &[String], history: &[Utterance]) -> Result<String> {
        self.render(PromptKind::Selection, persona, history)
    }

    /// The prompt that asks for the next response; its target is [`PromptSet::response_target`].
    ///
    /// # Errors
    /// As [`PromptSet::render`].
    pub fn generation(
        &self,
        persona: &[String],
        history: &[Utterance],
        highlight: Highlight<'_>,
    ) -> Result<String> {
        self.render(PromptKind::Generation(highlight), persona, history)
    }

    /// The prompt that asks for the next response from the history alone.
    ///
    /// # Errors
    /// [`Error::Template`] when the template fails on this input.
    pub fn history_only(&self, history: &[Utterance]) -> Result<String> {
        self.render(PromptKind::HistoryOnly, &[], history)
    }

    /// Any prompt.
    ///
    /// # Errors
    /// [`Error::HighlightIndex`] for a highlight outside the persona, [`Error::Template`] when the template fails on
    /// this input.
    pub fn render(&self, kind: PromptKind<'_>, persona: &[String], history: &[Utterance]) -> Result<String> {
        let tags = &self.file.tags;
        let mut variables: BTreeMap<&str, Value> = BTreeMap::from([
            ("agent", Value::from(tags.agent.as_str())),
            ("partner", Value::from(tags.partner.as_str())),
            ("none_phrase", Value::from(self.file.none_phrase.as_str())),
            ("history", history.iter().map(|turn| self.turn(turn)).collect::<Vec<_>>().into()),
        ]);
        if kind != PromptKind::HistoryOnly {
            let numbered = |(index, text): (usize, &String)| Value::from(self.numbered(index, text));
            variables.insert("persona", persona.iter().enumerate().map(numbered).collect::<Vec<_>>().into());
        }
        if let PromptKind::Generation(highlight) = kind {
            let shown = match highlight {
                Highlight::Absent => Value::from(()),
                Highlight::None => Value::from(self.file.none_phrase.as_str()),
                Highlight::Description(index) => Value::from(self.description(persona, index)?),
                Highlight::Text(text) => Value::from(one_line(text)),
            };
            variables.insert("highlight", shown);
        }
        let prompt = self.fill(kind.key(), variables.into())?;
        let cue = match kind {
            PromptKind::Selection => &self.file.cues.selection,
            PromptKind::Generation(_) | PromptKind::HistoryOnly => &self.file.cues.response,
        };
        self.wrap(prompt.trim(), cue)
    }

    /// The target of a selection prompt: the numbered description or the phrase for "none", after the set's target
    /// prefix.
    ///
    /// # Errors
    /// [`Error::HighlightIndex`] for an index outside the persona.
    pub fn selection_target(&self, persona: &[String], choice: Option<usize>) -> Result<String> {
        let answer = match choice {
            Some(index) => self.description(persona, index)?,
            None => self.file.none_phrase.clone(),
        };
        Ok(format!("{}{answer}", self.file.target_prefix))
    }

    /// The target of a generation prompt: the response without white space around it, after the set's target prefix.
    /// Empty where the response is.
    #[must_use]
    pub fn response_target(&self, response: &str) -> String {
        match response.trim() {
            "" => String::new(),
            text => format!("{}{text}", self.file.target_prefix),
        }
    }

    /// Matches what a model answered to a selection prompt with the persona it was asked about. Only the first line
    /// that is not empty counts, and in this order:
    ///
    /// 1. it begins with the number of a description, whatever follows: that description. A number that no description
    ///    has is left aside, and the text after it counts;
    /// 2. it is the text of a description, but for case, punctuation and spacing: that description, the first among
    ///    equals. In the same way it may be the phrase for "none": no description;
    /// 3. the description with the largest word overlap of at least [`OVERLAP_BOUND`], the first among equals;
    /// 4. otherwise no description: with [`MatchedBy::NonePhrase`] where it begins with the words of the phrase for
    ///    "none", with [`MatchedBy::Nothing`] where it does not.
    #[must_use]
    pub fn match_selection(&self, generated: &str, persona: &[String]) -> Selection {
        selection::match_selection(generated, persona, &self.file.none_phrase)
    }

    /// The chat format around a prompt's text and its cue.
    pub(crate) fn wrap(&self, prompt: &str, cue: &str) -> Result<String> {
        self.fill("chat", context! { prompt, cue })
    }

    fn turn(&self, turn: &Utterance) -> Value {
        let role = match turn.role {
            Role::Agent => "agent",
            Role::Partner => "partner",
        };
        context! { role, tag => self.tag(turn.role), text => one_line(&turn.text) }
    }

    fn numbered(&self, index: usize, text: &str) -> String {
        format!("{}{}{}", index + 1, self.file.number_mark, one_line(text))
    }

    fn description(&self, persona: &[String], index: usize) -> Result<String> {
        match persona.get(index) {
            Some(text) => Ok(self.numbered(index, text)),
            None => Err(Error::HighlightIndex { index, descriptions: persona.len() }),
        }
    }

    fn fill(&self, key: &'static str, variables: Value) -> Result<String> {
        let rendered = self.templates.get_template(key).and_then(|template| template.render(variables));
        rendered.map_err(|source| file::template_error(source, key, &self.origin))
    }
}

/// A text as one line: white space around it dropped, line breaks inside (and the white space about them) one space.
fn one_line(text: &str) -> String {
    let breaks = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut line = String::with_capacity(text.len());
    for piece in text.split(breaks).map(str::trim).filter(|piece| !piece.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(piece);
    }
    line
}
