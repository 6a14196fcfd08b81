//! The model card: its numbers are measured, its names are the recipe's; what it says of the text holds for dialogues such as
//! persona-mini's.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::corpus::SourceCounts;
use super::documents::DocumentCounts;
use super::measure::Perplexities;
use super::recipe::PretrainRecipe;
use crate::recipe::ModelRecipe;

/// What a finished run knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The call that made the model.
    pub command: String,
    /// Parameters.
    pub parameters: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Bytes of the weights' file.
    pub bytes: u64,
    /// What became of each source.
    pub sources: Vec<SourceCounts>,
    /// The training documents.
    pub train: DocumentCounts,
    /// The held-out documents.
    pub held_out: DocumentCounts,
    /// Steps taken.
    pub steps: u64,
    /// Tokens trained on, by the log.
    pub tokens: f64,
    /// Seconds of all steps, by the log.
    pub seconds: f64,
    /// Device and threads.
    pub machine: String,
    /// The loss in nats a token on the held-out documents.
    pub loss: f64,
    /// Perplexities per word.
    pub perplexities: Perplexities,
    /// Replies.
    pub replies: Vec<ShownReply>,
}

/// A greedy reply beside the gold one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownReply {
    /// The descriptions of the one who replies.
    pub persona: Vec<String>,
    /// The turns before, with their tags.
    pub history: Vec<String>,
    /// What was said.
    pub gold: String,
    /// What the model says.
    pub reply: String,
}

/// The card as Markdown.
///
/// # Errors
/// None in practice: a text can always be written to.
pub fn card(recipe: &PretrainRecipe, measured: &Measured) -> Result<String> {
    let mut text = String::new();
    let Measured { parameters, vocabulary, bytes, train, held_out, perplexities, .. } = measured;
    let ModelRecipe::Fresh { positions, hidden, layers, heads, .. } = &recipe.model else {
        anyhow::bail!("a card is of a model from scratch");
    };
    let megabytes = *bytes as f64 / 1e6;
    write!(
        text,
        "# {title}\n\n\
         A small language model of English small talk between two persons with a persona each: a GPT-2 of {parameters} \
         parameters ({layers} layers of {hidden}, {heads} heads, {positions} positions) with a byte-level BPE of \
         {vocabulary} entries, trained from scratch. `config.json`, `model.safetensors` (bfloat16, {megabytes:.1} MB), \
         `tokenizer.json` and `tokenizer_config.json` are in the Hugging Face layout.\n\n\
         It is a start for fine-tuning, PAL's stage 1 above all, and can be talked to as it is: `cargo run --release -p \
         persona-examples --example chat`. It has read documents like this one, which is the project's English prompt for a \
         reply, and writes the next line; a line break ends a reply, `</s>` a document:\n\n\
         ```text\nYou are person2. Give your next response.\nDescriptions: 1. I ski. 2. I have a dog.\nDialogue:\n\
         person1: Hi, how are you?\nperson2: Fine, thanks!</s>\n```\n\n",
        title = recipe.title
    )?;

    write!(
        text,
        "## How it was made\n\n```console\n$ {command}\n```\n\n\
         `recipe.toml` beside this card is the recipe, `log.jsonl` the training's log, `curves.svg` its curves. From the \
         same seed, files, libtorch and version of this project, on one kind of CPU with one number of threads, it is the same \
         bytes.\n\n\
         | source | dialogues | held out | turns | with brackets | alone | SHA-256 of the file |\n\
         |---|---|---|---|---|---|---|\n",
        command = measured.command
    )?;
    for source in &measured.sources {
        let SourceCounts { name, dialogues, held_out, turns, bracketed, alone, sha256, .. } = source;
        writeln!(
            text,
            "| {name} | {dialogues} | {held_out} | {turns} | {bracketed} | {alone} | `{sha256}` |"
        )?;
    }
    write!(
        text,
        "\n- **Text**: whole dialogues. Turns with a bracket (names that nobody filled in, stage directions) are left out, and \
         the dialogue goes on behind them as one of its own; so are turns that say nothing or then stand alone. All is written \
         one way: straight quotes, single spaces, punctuation joined to its word, contractions with their apostrophe (\"i m\" \
         is \"I'm\"; \"I am\" stays), \"I\" and sentences' first letters in upper case. Names in PERSONA-CHAT keep their \
         lower case.\n\
         - **Documents**: a dialogue gives one with each speaker's persona, which ends with that speaker; a speaker without a \
         persona gives none. {documents} documents of {tokens} tokens; {cut} were too long for {positions} positions and went \
         on, from a whole turn, in another document; {left} turns are in none (a partner's last words, mostly).\n\
         - **Vocabulary**: of the training documents.\n\
         - **Training**: all tokens; {steps} steps of {batch} documents, {epochs:.2} epochs, {read:.1} M tokens; AdamW with \
         learning rate {rate}, {schedule:?} schedule after {warmup} steps of warm-up, weight decay {decay} ({decayed:?}), \
         {precision:?} products; {seconds:.0} s on {machine}.\n\
         - **Held out**: {share} % of the dialogues, drawn before anything else: {held} documents of {held_tokens} tokens. \
         Their loss is {loss:.3} nats a token. Personas of PERSONA-CHAT stand in several dialogues, so a held-out dialogue's \
         may have been read in another.\n\n",
        documents = train.documents,
        epochs = recipe.epochs(measured.steps, train.documents),
        tokens = train.tokens,
        cut = train.cut,
        left = train.turns_left,
        steps = measured.steps,
        batch = recipe.train.batch_size,
        read = measured.tokens / 1e6,
        rate = recipe.train.learning_rate,
        schedule = recipe.train.schedule,
        warmup = recipe.train.warmup_steps,
        decay = recipe.train.optimizer.weight_decay,
        decayed = recipe.train.optimizer.decay,
        precision = recipe.train.precision,
        seconds = measured.seconds,
        machine = measured.machine,
        share = 100.0 * recipe.corpus.held_out,
        held = held_out.documents,
        held_tokens = held_out.tokens,
        loss = measured.loss,
    )?;

    let Perplexities { all, new, unknown, vocabulary, counted } = perplexities;
    write!(
        text,
        "## How well it knows held-out turns\n\n\
         Perplexity per word, of the shipped weights:\n\n\
         | model | all turns | turns of no training dialogue |\n|---|---|---|\n\
         | this model | {:.2} | {:.2} |\n\
         | 5-gram, interpolated Kneser-Ney | {:.2} | {:.2} |\n\
         | unigram | {:.1} | {:.1} |\n\n\
         One document a dialogue: {} turns, of which {} stand in no training dialogue word for word (the synthetic dialogues \
         repeat themselves). Words are runs of letters, digits and apostrophes, and single other marks, as they are written; the \
         end of a turn counts as one. Left aside for all three are {unknown} turns more with a word that no training turn has; \
         what is counted is {} words and ends, {} tokens of this model. The two others have counted the same training turns \
         ({counted} words and ends, {vocabulary} different words) and share their probability among these words alone, where \
         this model can write any text. The 5-gram has one discount an order and looks back to the beginning of the turn; this \
         model reads persona and dialogue.\n\n",
        all.model,
        new.model,
        all.ngram,
        new.ngram,
        all.unigram,
        new.unigram,
        all.turns,
        new.turns,
        all.events,
        all.tokens,
    )?;

    if !measured.replies.is_empty() {
        text.push_str("## Replies\n\nGreedy, to held-out dialogues as they were drawn:\n\n");
        for shown in &measured.replies {
            let ShownReply { persona, history, gold, reply } = shown;
            write!(
                text,
                "```text\n{}\n{}\ngold:  {gold}\nmodel: {reply}\n```\n\n",
                persona.join(" "),
                history.join("\n")
            )?;
        }
    }

    text.push_str(
        "## What it is not\n\n\
         - No assistant, and no source of facts: it knows small talk of crowd workers and of a language model, and what it \
         says of the world, of itself and of others is made up.\n\
         - Not aligned with a persona: it has read dialogues of speakers with personas, and was not trained to choose a \
         description or preferred for keeping to one. It contradicts its persona and itself.\n\
         - Not filtered: its data were not searched for what offends, and what it says is not either.\n\
         - English alone, and short turns.\n\n\
         ## Licences and attribution\n\n\
         The weights were trained on the following, each under its licence, changed as said above:\n\n",
    );
    for source in &recipe.corpus.sources {
        writeln!(
            text,
            "- {}: {}. {}.",
            source.name,
            source.attribution.trim_end_matches('.'),
            source.licence
        )?;
    }
    if recipe.corpus.sources.iter().any(|source| source.licence == "CC BY 4.0") {
        text.push_str("\nCC BY 4.0: https://creativecommons.org/licenses/by/4.0/.\n");
    }
    Ok(text)
}
