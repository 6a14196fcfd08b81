//! Labelled pairs as encoders read them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::report::Lengths;
use super::{EncodedText, EncoderTokenizer};
use crate::error::{Error, Result};
use crate::nli::{NliItem, NliLabel};

/// A text, or a pair of texts, with the index of its class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledText {
    /// The example's id.
    pub id: String,
    /// The text, or the pair.
    pub text: EncodedText,
    /// Which of the model's classes is right.
    pub label: usize,
}

/// What encoding pairs did. `Display` is one line.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PairReport {
    /// How many pairs were encoded.
    pub pairs: usize,
    /// Their lengths in tokens, special tokens included.
    pub lengths: Lengths,
    /// How many of them were longer than allowed, and were cut.
    pub cut: usize,
}

impl PairReport {
    /// The report of some encoded pairs.
    #[must_use]
    pub fn of<'a>(texts: impl Iterator<Item = &'a EncodedText> + Clone) -> Self {
        let lengths: Vec<usize> = texts.clone().map(|text| text.ids.len()).collect();
        let cut = texts.filter(|text| text.cut).count();
        Self { pairs: lengths.len(), lengths: Lengths::of(lengths), cut }
    }
}

impl fmt::Display for PairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, lengths: Lengths { mean, p50, p99, max }, cut } = self;
        write!(f, "{pairs} pairs of {mean:.1}/{p50}/{p99}/{max} tokens (mean/p50/p99/max), {cut} cut")
    }
}

impl EncoderTokenizer {
    /// Every item, on all cores, with the index of its label among a model's classes (see [`NliLabel::order_of`]): the
    /// premise is the first text, the hypothesis the second.
    ///
    /// # Errors
    /// [`Error::EmptyText`] for a text of white space, with the item's id; as [`encode_pair`](Self::encode_pair).
    pub fn encode_items(
        &self,
        items: &[NliItem],
        classes: &[NliLabel; 3],
    ) -> Result<(Vec<LabelledText>, PairReport)> {
        for item in items {
            for (part, text) in [("premise", &item.premise), ("hypothesis", &item.hypothesis)] {
                if text.trim().is_empty() {
                    return Err(Error::EmptyText { id: item.id.clone(), part });
                }
            }
        }
        let pairs: Vec<(&str, &str)> =
            items.iter().map(|item| (item.premise.as_str(), item.hypothesis.as_str())).collect();
        let texts = self.encode_pairs(&pairs)?;
        let report = PairReport::of(texts.iter());
        let labelled = items.iter().zip(texts).map(|(item, text)| LabelledText {
            id: item.id.clone(),
            text,
            label: classes.iter().position(|class| *class == item.label).unwrap_or(item.label.index()),
        });
        Ok((labelled.collect(), report))
    }
}
