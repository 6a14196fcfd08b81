//! Examples as token ids: what a model is trained on, and what it is asked at inference.

use std::fmt;

use serde::{Deserialize, Serialize};

mod bpe;
mod encoder;
mod encoder_tokenizer;
mod labelled;
mod lines;
mod report;
mod thin;
mod tokenizer;
mod wordpiece;

pub use bpe::{BpeOptions, train_byte_level_bpe};
pub use encoder::{BadExamples, EncodeOptions, ExampleEncoder};
pub use encoder_tokenizer::{EncodedText, EncoderTokenizer};
pub use labelled::{LabelledText, PairReport};
pub use report::{EncodeReport, Lengths, TaskReport};
pub use thin::thin_none;
pub use tokenizer::{SpecialTokens, TextTokenizer};
pub use wordpiece::{WordPieceOptions, train_wordpiece};

/// What an example is trained for: which prompt it gets, and which target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Task {
    /// The selection prompt; the target is the first relevant description, or the phrase for "none".
    Selection,
    /// The generation prompt with the first relevant description highlighted; the target is the response.
    Generation,
    /// The generation prompt without a highlight: plain fine-tuning on persona, history and response.
    Plain,
    /// The history-only prompt; the target is the response.
    HistoryOnly,
}

impl Task {
    /// PAL's first stage: both tasks in one pool.
    pub const MIXED: [Self; 2] = [Self::Selection, Self::Generation];

    /// The name that files and logs use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::Generation => "generation",
            Self::Plain => "plain",
            Self::HistoryOnly => "history_only",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One training example as token ids. What is trained on is `target`, all of it, and nothing of `source`.
///
/// A decoder-only model reads both in a row, an encoder-decoder reads the source and writes the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedExample {
    /// The example's id.
    pub id: String,
    /// What it is trained for.
    pub task: Task,
    /// The prompt's ids.
    pub source: Vec<u32>,
    /// The target's ids; the last one is EOS, and no other one is.
    pub target: Vec<u32>,
}

/// One preference pair as token ids. What is scored is `chosen` and `rejected`, all of both, after the one `prompt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedPair {
    /// The pair's id.
    pub id: String,
    /// The prompt's ids.
    pub prompt: Vec<u32>,
    /// The preferred reply's ids; the last one is EOS.
    pub chosen: Vec<u32>,
    /// The other reply's ids; the last one is EOS, and the only one of an empty reply.
    pub rejected: Vec<u32>,
}

/// A prompt for inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// The prompt as text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
    /// How many turns, oldest first, were cut from the history.
    pub cut_turns: usize,
}
