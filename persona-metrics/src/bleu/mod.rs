//! BLEU as the packages compute it, and the counts that its corpus forms share.

mod nltk;
mod nltk_smoothing;
mod parlai;
mod pycocoevalcap;
mod sacrebleu;
mod sacrebleu_settings;

use serde::{Deserialize, Serialize};

pub use self::nltk::{LastPair, NltkBleu, NltkCounts, NltkMeanBleu};
pub use self::nltk_smoothing::NltkSmoothing;
pub use self::parlai::ParlaiBleu;
pub use self::pycocoevalcap::CocoBleu;
pub use self::sacrebleu::{SacreBleu, SacreReport};
pub use self::sacrebleu_settings::{SacreSmoothing, SacreTokenizer};
use crate::error::{Result, same_length};
use crate::example::Example;
use crate::metric::Sums;
use crate::ngrams::ngrams;

/// BLEU (Papineni et al. 2002), by the package whose numbers are to be met.
#[derive(Debug, Clone, Copy)]
pub enum Bleu {}

impl Bleu {
    /// pycocoevalcap's `Bleu(4)`, which PAL's table uses.
    pub fn pycocoevalcap() -> CocoBleu {
        CocoBleu::default()
    }

    /// sacrebleu 2.6: `corpus_bleu`, and `sentence_bleu` with the effective order.
    pub fn sacrebleu() -> SacreBleu {
        SacreBleu::default()
    }

    /// NLTK 3.10: `corpus_bleu`, `sentence_bleu`, and the mean of the latter, on words or characters.
    pub fn nltk() -> NltkBleu {
        NltkBleu::default()
    }

    /// ParlAI 1.7's BLEU-1 to BLEU-4.
    pub fn parlai() -> ParlaiBleu {
        ParlaiBleu::new()
    }
}

/// What corpus BLEU is computed from: matched and proposed n-grams by order, and lengths in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BleuCounts {
    /// Matched n-grams, clipped by the reference that has most of each; entry n - 1 is for order n.
    pub matched: Vec<u64>,
    /// All n-grams of the hypotheses.
    pub proposed: Vec<u64>,
    /// Tokens of the hypotheses.
    pub hypothesis_tokens: u64,
    /// Tokens of the references, of several the one closest in length.
    pub reference_tokens: u64,
}

impl BleuCounts {
    fn new(orders: usize) -> Self {
        Self {
            matched: vec![0; orders],
            proposed: vec![0; orders],
            hypothesis_tokens: 0,
            reference_tokens: 0,
        }
    }

    fn count(&mut self, example: &mut Example) {
        let (length, closest) = (example.length(), example.closest_length());
        let matched = example.matches(self.matched.len());
        for (order, ((into, &from), proposed)) in
            (1..).zip(self.matched.iter_mut().zip(matched).zip(&mut self.proposed))
        {
            *into = into.saturating_add(from);
            *proposed = proposed.saturating_add(ngrams(length, order));
        }
        self.hypothesis_tokens = self.hypothesis_tokens.saturating_add(length as u64);
        self.reference_tokens = self.reference_tokens.saturating_add(closest as u64);
    }
}

impl Sums for BleuCounts {
    fn add(&mut self, other: &Self) -> Result<()> {
        same_length("orders", self.matched.len(), "orders", other.matched.len())?;
        let matched = self.matched.iter_mut().zip(&other.matched);
        for (into, from) in matched.chain(self.proposed.iter_mut().zip(&other.proposed)) {
            *into = into.saturating_add(*from);
        }
        self.hypothesis_tokens = self.hypothesis_tokens.saturating_add(other.hypothesis_tokens);
        self.reference_tokens = self.reference_tokens.saturating_add(other.reference_tokens);
        Ok(())
    }
}
