//! Preference pairs: building them from any generator of replies, checking, saving and loading them.

mod builder;
mod conversation;
mod files;
mod words;

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use self::builder::{PairBuilder, ReplyJudge};
pub use self::conversation::{ConversationPair, PreferenceRecord};
pub use self::files::{read_pairs, read_preferences, write_pairs, write_preferences};

/// A prompt with a better and a worse continuation, as text. A file of pairs holds one as JSON a line, in the shape that
/// TRL's `DPOTrainer` reads; the continuations stand as they follow the prompt, white space included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Where the pair comes from; not needed for training.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "id")]
    pub id: String,
    /// What both continue.
    pub prompt: String,
    /// The better continuation.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
}

/// An id, which is a text in some files and a number in others, and null where there is none.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(D::Error::custom(format!("`id` is {other}; it is a text or a number"))),
    }
}

/// What happens to pairs that teach little. Each kind is counted in the report whether it is kept or not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairOptions {
    /// Keep pairs whose rejected reply is empty.
    pub keep_empty: bool,
    /// Keep pairs whose replies are the same, case and white space aside.
    pub keep_identical: bool,
    /// Keep pairs whose replies are alike beyond `similarity`.
    pub keep_similar: bool,
    /// Replies are over-similar when the Dice coefficient of their words is at least this, in 0 to 1.
    pub similarity: f64,
    /// Keep pairs of examples to which no description applies: nothing is highlighted in their prompts, so how a persona
    /// is taken up cannot be learned from them. PAL keeps them.
    #[serde(skip_serializing_if = "is_true")]
    pub keep_none: bool,
}

// Whatever is kept under a hash of options from before there was this one stays valid.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            keep_empty: false,
            keep_identical: false,
            keep_similar: false,
            similarity: 0.8,
            keep_none: true,
        }
    }
}

/// What building pairs met.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PairReport {
    /// Examples given.
    pub examples: usize,
    /// Pairs made.
    pub pairs: usize,
    /// Examples left out because no description applies to them.
    #[serde(default)]
    pub none: usize,
    /// Rejected replies that were empty.
    pub empty: usize,
    /// Rejected replies equal to the gold one.
    pub identical: usize,
    /// Rejected replies over-similar to the gold one, without the identical.
    pub similar: usize,
    /// Mean words of the gold replies.
    pub chosen_words: f64,
    /// Mean words of the generated replies.
    pub rejected_words: f64,
    /// Distinct generated replies over all generated replies.
    pub distinct_rejected: f64,
    /// Examples whose oldest turns were left out, of both prompts, so that they fit.
    #[serde(default)]
    pub cut: usize,
    /// Where the rejected replies come from.
    #[serde(default)]
    pub rejected_from: RejectedFrom,
    /// Examples without a pair, because no other example has another persona.
    #[serde(default)]
    pub without_other: usize,
    /// What the judge said, where one chose the rejected replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

/// Where rejected replies come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectedFrom {
    /// The generator's reply to the prompt without the persona, as PAL (Li et al. 2025).
    #[default]
    HistoryOnly,
    /// The generator's reply with the persona of another example.
    SwappedPersona,
    /// The one of so many replies with the persona that a judge likes least.
    WorstOf(usize),
}

impl fmt::Display for RejectedFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HistoryOnly => f.write_str("from the history alone"),
            Self::SwappedPersona => f.write_str("with the persona of another example"),
            Self::WorstOf(samples) => write!(f, "the worst of {samples} under the judge"),
        }
    }
}

/// Mean scores of a judge over all examples.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Judged {
    /// Of the gold replies.
    pub chosen: f64,
    /// Of the replies that were taken as rejected.
    pub rejected: f64,
    /// Of the best generated replies.
    pub best: f64,
    /// Examples whose rejected reply the judge likes no less than the gold one; they are kept.
    pub not_worse: usize,
}

impl fmt::Display for PairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pairs of {} examples; rejected {}: {} empty, {} identical to gold, {} over-similar; words: chosen {:.1}, \
             rejected {:.1}; distinct rejected {:.0} %; {} with turns left out",
            self.pairs,
            self.examples,
            self.rejected_from,
            self.empty,
            self.identical,
            self.similar,
            self.chosen_words,
            self.rejected_words,
            100.0 * self.distinct_rejected,
            self.cut
        )?;
        if self.none > 0 {
            write!(f, "; {} to which no description applies left out", self.none)?;
        }
        if self.without_other > 0 {
            write!(f, "; {} without another persona", self.without_other)?;
        }
        if let Some(Judged { chosen, rejected, best, not_worse }) = self.judged {
            write!(
                f,
                "; judge: gold {chosen:.3}, rejected {rejected:.3}, best generated {best:.3}, {not_worse} rejected no \
                 worse than gold"
            )?;
        }
        Ok(())
    }
}
