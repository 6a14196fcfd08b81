//! Weights by inverse document frequency.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::embedding::{TokenEmbedder, same_count};
use crate::error::{Error, Result};

/// Inverse document frequencies of tokens, as bert-score takes them from the references of a corpus:
/// `ln((N + 1) / (df + 1))` for N references of which df hold the token, and `ln(N + 1)` for a token that none holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idf {
    documents: u64,
    frequencies: BTreeMap<u32, u64>,
}

impl Idf {
    /// Texts that are tokenised at a time.
    const BATCH: usize = 4096;

    /// Counts in how many references each token stands. A text that is there twice counts twice.
    ///
    /// # Errors
    /// The embedder's tokenizer fails.
    pub fn of<E, R>(embedder: &E, references: &[R]) -> Result<Self>
    where
        E: TokenEmbedder + ?Sized,
        R: AsRef<str>,
    {
        let mut idf = Self { documents: 0, frequencies: BTreeMap::new() };
        for texts in references.chunks(Self::BATCH) {
            let texts: Vec<&str> = texts.iter().map(|text| crate::text::trim(text.as_ref())).collect();
            let name = || embedder.name();
            let metric = super::NAME;
            let ids = embedder.token_ids(&texts);
            let ids = ids.map_err(|source| Error::Model { metric, model: name(), source })?;
            same_count((metric, name), texts.len(), ids.len())?;
            ids.into_iter().for_each(|ids| idf.add(ids));
        }
        Ok(idf)
    }

    fn add(&mut self, mut ids: Vec<u32>) {
        self.documents += 1;
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            *self.frequencies.entry(id).or_default() += 1;
        }
    }

    /// The weight of a token.
    #[must_use]
    pub fn weight(&self, id: u32) -> f64 {
        let frequency = self.frequencies.get(&id).copied().unwrap_or(0);
        ((self.documents + 1) as f64 / (frequency + 1) as f64).ln()
    }

    /// The number of references.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// What tells these weights from others in a signature.
    pub(super) fn signature(&self) -> String {
        let mut hash = Xxh3::new();
        for (id, frequency) in &self.frequencies {
            hash.update(&id.to_le_bytes());
            hash.update(&frequency.to_le_bytes());
        }
        format!("{}-references-{:08x}", self.documents, hash.digest() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_once_a_reference() {
        let mut idf = Idf { documents: 0, frequencies: BTreeMap::new() };
        idf.add(vec![1, 7, 7, 2]);
        idf.add(vec![1, 2]);
        assert_eq!([idf.weight(1), idf.weight(7), idf.weight(9)], [0.0, 1.5_f64.ln(), 3.0_f64.ln()]);
        let other = Idf { documents: 2, frequencies: BTreeMap::from([(1, 2), (2, 2), (8, 1)]) };
        assert!(idf.signature().starts_with("2-references-"));
        assert_ne!(idf.signature(), other.signature());
    }
}
