//! Corpus BLEU.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::score::{Score, Scores, Signature, Unit};
use crate::statistics::{ReferenceRange, collect};
use crate::tokens::{PreTokenization, Preprocessing, Split, Texts};

const NAME: &str = "BLEU";
const ORDERS: usize = 4;

/// BLEU-1 to BLEU-4 (Papineni et al. 2002), as pycocoevalcap's `Bleu(4)` computes them.
///
/// BLEU-k is the geometric mean of the clipped precisions of orders 1 to k, `(correct + 1e-15) / (guess + 1e-9)`
/// each, times `exp(1 - 1/ratio)` where `ratio = (hypothesis tokens + 1e-15) / (reference tokens + 1e-9)` is below
/// one. Of several references the one closest in length counts, the shorter on ties. Tokens are those of `str.split()`.
///
/// The constants keep every value finite: a corpus of empty hypotheses has 0, and orders longer than all hypotheses
/// have a precision of 1e-6 and not none (a corpus of one-word replies can so have a BLEU-4 of 3e-5).
///
/// ```
/// use persona_metrics::{Bleu, PreTokenization};
///
/// let bleu = Bleu::pycocoevalcap().pre_tokenization(PreTokenization::SpacePunctuation).lowercase(true);
/// let mut statistics = bleu.statistics();
/// statistics.update("I love Florida.", "i love florida .")?;
/// statistics.update("Do you?", &["do you like it ?", "you do ?"])?;
/// assert_eq!(statistics.scores()?.get("BLEU-1").map(|score| format!("{:.2}", score.value())), Some("1.00".into()));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bleu {
    swapped: bool,
    preprocessing: Preprocessing,
}

impl Bleu {
    /// pycocoevalcap's `Bleu(4)` over texts as they are.
    pub fn pycocoevalcap() -> Self {
        Self { swapped: false, preprocessing: Preprocessing::new(Split::Whitespace) }
    }

    /// Hypothesis and reference in each other's place, as PAL's released code hands them to pycocoevalcap: precision
    /// is that of the gold reply, and replies longer than gold pay the brevity penalty. One reference a hypothesis.
    #[must_use]
    pub fn swapped(mut self, swapped: bool) -> Self {
        self.swapped = swapped;
        self
    }

    /// What happens to the texts before the split. The package does nothing.
    #[must_use]
    pub fn pre_tokenization(mut self, pre_tokenization: PreTokenization) -> Self {
        self.preprocessing.pre_tokenization = pre_tokenization;
        self
    }

    /// Whether texts are lower-cased. The package does not.
    #[must_use]
    pub fn lowercase(mut self, lowercase: bool) -> Self {
        self.preprocessing.lowercase = lowercase;
        self
    }

    /// Empty statistics under these settings.
    pub fn statistics(&self) -> BleuStats {
        BleuStats {
            settings: *self,
            pairs: 0,
            correct: [0; ORDERS],
            guess: [0; ORDERS],
            hypothesis_tokens: 0,
            reference_tokens: 0,
            references: ReferenceRange::default(),
        }
    }

    /// BLEU-1 to BLEU-4 of a corpus, on rayon's threads; the same bits for every number of threads.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, or an example with which [`BleuStats::update`] has no way to go.
    pub fn corpus<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<Scores>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        self.collect(hypotheses, references)?.scores()
    }

    /// Statistics of a corpus, on rayon's threads: one shard of a larger whole.
    ///
    /// # Errors
    /// As [`Bleu::corpus`], but an empty corpus has statistics.
    pub fn collect<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<BleuStats>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        same_length("hypotheses", hypotheses.len(), "lists of references", references.len())?;
        let pairs: Vec<_> = hypotheses.iter().zip(references).collect();
        collect(
            &pairs,
            || self.statistics(),
            |statistics, (hypothesis, references)| statistics.update(hypothesis.as_ref(), *references),
            BleuStats::merge,
        )
    }

    /// BLEU-1 to BLEU-4 of one hypothesis, which is a corpus of one.
    ///
    /// # Errors
    /// As [`BleuStats::update`].
    pub fn sentence<R: Texts + ?Sized>(&self, hypothesis: &str, references: &R) -> Result<Scores> {
        let mut statistics = self.statistics();
        statistics.update(hypothesis, references)?;
        statistics.scores()
    }

    fn signature(&self) -> String {
        let swap = if self.swapped { "yes" } else { "no" };
        format!("variant:pycocoevalcap|{}|swap:{swap}", self.preprocessing.signature())
    }
}

/// Counts that BLEU is computed from: matched and proposed n-grams, lengths. Shards of a corpus are merged in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BleuStats {
    settings: Bleu,
    pairs: u64,
    correct: [u64; ORDERS],
    guess: [u64; ORDERS],
    hypothesis_tokens: u64,
    reference_tokens: u64,
    references: ReferenceRange,
}

impl BleuStats {
    /// Counts one hypothesis with its reference or references. Empty texts are allowed.
    ///
    /// # Errors
    /// No reference; in the swapped order anything but one reference. Nothing is counted then.
    pub fn update<R: Texts + ?Sized>(&mut self, hypothesis: &str, references: &R) -> Result<()> {
        let references: Vec<&str> = references.texts().collect();
        if references.is_empty() {
            return Err(Error::NoReferences { metric: NAME });
        }
        match (self.settings.swapped, references.as_slice()) {
            (false, references) => self.count(hypothesis, references),
            (true, [reference]) => self.count(reference, &[hypothesis]),
            (true, references) => {
                return Err(Error::SwapNeedsOneReference { metric: NAME, references: references.len() });
            }
        }
        Ok(())
    }

    fn count(&mut self, hypothesis: &str, references: &[&str]) {
        let preprocessing = self.settings.preprocessing;
        let hypothesis = preprocessing.prepare(hypothesis);
        let hypothesis = preprocessing.split(&hypothesis);
        let references: Vec<_> = references.iter().map(|text| preprocessing.prepare(text)).collect();
        let references: Vec<_> = references.iter().map(|text| preprocessing.split(text)).collect();

        let closest = references
            .iter()
            .map(Vec::len)
            .min_by_key(|length| (length.abs_diff(hypothesis.len()), *length))
            .unwrap_or_default();
        let mut allowed: HashMap<&[&str], u64> = HashMap::new();
        for reference in &references {
            for (ngram, count) in ngrams(reference) {
                let most = allowed.entry(ngram).or_default();
                *most = count.max(*most);
            }
        }
        for (ngram, count) in ngrams(&hypothesis) {
            let matched = allowed.get(ngram).map_or(0, |most| count.min(*most));
            if let Some(correct) = self.correct.get_mut(ngram.len() - 1) {
                *correct = correct.saturating_add(matched);
            }
        }
        for (order, guess) in (1..).zip(&mut self.guess) {
            *guess = guess.saturating_add((hypothesis.len() + 1).saturating_sub(order) as u64);
        }
        self.hypothesis_tokens = self.hypothesis_tokens.saturating_add(hypothesis.len() as u64);
        self.reference_tokens = self.reference_tokens.saturating_add(closest as u64);
        self.references.add(references.len());
        self.pairs = self.pairs.saturating_add(1);
    }

    /// Adds the counts of another part of the corpus.
    ///
    /// # Errors
    /// The other part was counted under other settings.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.settings != other.settings {
            return Err(Error::SettingsDiffer {
                left: self.settings.signature(),
                right: other.settings.signature(),
            });
        }
        for (into, from) in self.correct.iter_mut().zip(other.correct) {
            *into = into.saturating_add(from);
        }
        for (into, from) in self.guess.iter_mut().zip(other.guess) {
            *into = into.saturating_add(from);
        }
        self.hypothesis_tokens = self.hypothesis_tokens.saturating_add(other.hypothesis_tokens);
        self.reference_tokens = self.reference_tokens.saturating_add(other.reference_tokens);
        self.references.merge(&other.references);
        self.pairs = self.pairs.saturating_add(other.pairs);
        Ok(())
    }

    /// BLEU-1 to BLEU-4 of everything counted so far, as shares of one.
    ///
    /// # Errors
    /// Nothing was counted.
    pub fn scores(&self) -> Result<Scores> {
        const TINY: f64 = 1e-15;
        const SMALL: f64 = 1e-9;
        if self.pairs == 0 {
            return Err(Error::EmptyCorpus { metric: NAME });
        }
        let ratio = (self.hypothesis_tokens as f64 + TINY) / (self.reference_tokens as f64 + SMALL);
        let penalty = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0;
        let mut scores = Vec::with_capacity(ORDERS);
        for (order, (&correct, &guess)) in (1u32..).zip(self.correct.iter().zip(&self.guess)) {
            product *= (correct as f64 + TINY) / (guess as f64 + SMALL);
            let value = product.powf(1.0 / f64::from(order)) * penalty;
            let signature = Signature::new(format_args!(
                "{}|order:{order}|refs:{}",
                self.settings.signature(),
                self.references.signature()
            ));
            scores.push(Score::new(NAME, format!("BLEU-{order}"), value, Unit::Share, signature)?);
        }
        Ok(Scores::new(scores))
    }
}

/// The n-grams of all four orders with their counts.
fn ngrams<'t, 'w>(tokens: &'w [&'t str]) -> HashMap<&'w [&'t str], u64> {
    let mut counts = HashMap::new();
    for order in 1..=ORDERS {
        for ngram in tokens.windows(order) {
            *counts.entry(ngram).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE_STUDY_GOLD: &str = "i love florida . it is warm there all year round and i can go to the beach \
                                   whenever i want to with my dog";

    #[test]
    fn the_swapped_order_is_the_standard_order_of_swapped_arguments() {
        let (hypothesis, reference) = ("i love florida .", CASE_STUDY_GOLD);
        let swapped = Bleu::pycocoevalcap().swapped(true).sentence(hypothesis, reference).unwrap();
        let standard = Bleu::pycocoevalcap().sentence(reference, hypothesis).unwrap();
        assert_eq!(swapped.values(), standard.values());
        // 4 of the 25 gold tokens, and no penalty: gold, in the hypothesis' place, is the longer text.
        assert!((swapped.values()[0] - 4.0 / 25.0).abs() < 1e-9);
        assert!(swapped.iter().all(|score| score.signature().as_str().contains("|swap:yes|")));
    }

    #[test]
    fn the_signature_says_what_was_done() {
        let scores = Bleu::pycocoevalcap()
            .lowercase(true)
            .pre_tokenization(PreTokenization::SpacePunctuation)
            .corpus(&["a", "b"], &[vec!["a"], vec!["b", "c"]])
            .unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            scores.get("BLEU-3").unwrap().signature().as_str(),
            format!(
                "variant:pycocoevalcap|case:lower|pre:space-punctuation|split:whitespace|swap:no|order:3|refs:1-2|\
                 version:persona-metrics-{version}"
            )
        );
    }

    #[test]
    fn empty_texts_have_the_packages_values() {
        let bleu = Bleu::pycocoevalcap();
        assert_eq!(bleu.sentence("", "a b").unwrap().values(), [0.0; 4]);
        assert_eq!(bleu.sentence("", "").unwrap().values(), [0.0; 4]);
        // (0 + 1e-15) / (2 + 1e-9): nothing matches an empty reference.
        assert!((bleu.sentence("a b", "").unwrap().values()[0] / 5e-16 - 1.0).abs() < 1e-8);
    }

    #[test]
    fn bad_input_is_an_error_and_counts_nothing() {
        let bleu = Bleu::pycocoevalcap();
        let no_texts: [&str; 0] = [];
        assert!(matches!(
            bleu.corpus(&["a"], &["a", "b"]),
            Err(Error::LengthMismatch { left: 1, right: 2, .. })
        ));
        assert!(matches!(bleu.corpus(&no_texts, &no_texts), Err(Error::EmptyCorpus { .. })));
        let missing = bleu.corpus(&["a", "b"], &[vec!["a"], vec![]]);
        assert!(matches!(missing, Err(Error::Example { index: 1, .. })), "{missing:?}");

        let mut statistics = bleu.swapped(true).statistics();
        let two = statistics.update("a", &["a", "b"]);
        assert!(matches!(two, Err(Error::SwapNeedsOneReference { references: 2, .. })));
        assert_eq!(statistics, bleu.swapped(true).statistics());
        assert!(matches!(statistics.merge(&bleu.statistics()), Err(Error::SettingsDiffer { .. })));
    }
}
