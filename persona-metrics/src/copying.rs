//! Copy rate: how many replies are mostly taken from the persona.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::score::{Score, Signature, Unit};
use crate::statistics::collect;
use crate::tokens::{PreTokenization, Preprocessing, Split, Texts};

const NAME: &str = "Copy rate";

/// Share of replies that have half or more of their word 4-grams in the persona.
///
/// A 4-gram of the reply counts as often as it stands there; it is found when one description holds it (n-grams do not
/// reach over two descriptions). A reply shorter than four words has one n-gram, all its words. An empty reply, and
/// any reply to an empty persona, is no copy.
///
/// No package defines this measure. Unless set otherwise, words are what `str.split()` gives after ASCII punctuation
/// has been spaced out, in lower case, so that `I have a dog.` copies `i have a dog .`; a punctuation mark is a word.
///
/// ```
/// use persona_metrics::CopyRate;
///
/// let persona = ["I have a dog.", "I like to ski."];
/// let score = CopyRate::default().corpus(&["hi! i have a dog.", "do you ski?"], &[&persona, &persona])?;
/// assert_eq!(score.value(), 0.5); // "i have a dog", "have a dog ." of the four in "hi ! i have a dog ."
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CopyRate {
    preprocessing: Preprocessing,
}

impl Default for CopyRate {
    fn default() -> Self {
        let preprocessing = Preprocessing {
            pre_tokenization: PreTokenization::SpacePunctuation,
            lowercase: true,
            split: Split::Whitespace,
        };
        Self { preprocessing }
    }
}

impl CopyRate {
    const ORDER: usize = 4;

    /// What happens to the texts before the split.
    #[must_use]
    pub fn pre_tokenization(mut self, pre_tokenization: PreTokenization) -> Self {
        self.preprocessing.pre_tokenization = pre_tokenization;
        self
    }

    /// Whether texts are lower-cased.
    #[must_use]
    pub fn lowercase(mut self, lowercase: bool) -> Self {
        self.preprocessing.lowercase = lowercase;
        self
    }

    /// Empty statistics under these settings.
    pub fn statistics(&self) -> CopyStats {
        CopyStats { settings: *self, replies: 0, copied: 0 }
    }

    /// Copy rate of a corpus, on rayon's threads. `personas` holds the descriptions of each reply's speaker.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus.
    pub fn corpus<H, P>(&self, replies: &[H], personas: &[P]) -> Result<Score>
    where
        H: AsRef<str> + Sync,
        P: Texts + Sync,
    {
        self.collect(replies, personas)?.score()
    }

    /// Statistics of a corpus, on rayon's threads: one shard of a larger whole.
    ///
    /// # Errors
    /// Lists of unequal length.
    pub fn collect<H, P>(&self, replies: &[H], personas: &[P]) -> Result<CopyStats>
    where
        H: AsRef<str> + Sync,
        P: Texts + Sync,
    {
        same_length("replies", replies.len(), "personas", personas.len())?;
        let pairs: Vec<_> = replies.iter().zip(personas).collect();
        let update = |statistics: &mut CopyStats, (reply, persona): &(&H, &P)| {
            statistics.update(reply.as_ref(), *persona);
            Ok(())
        };
        collect(&pairs, || self.statistics(), update, CopyStats::merge)
    }

    /// Whether one reply counts as copied from the persona.
    pub fn is_copy<P: Texts + ?Sized>(&self, reply: &str, persona: &P) -> bool {
        let reply = self.preprocessing.prepare(reply);
        let reply = self.preprocessing.split(&reply);
        if reply.is_empty() {
            return false;
        }
        let order = reply.len().min(Self::ORDER);
        let descriptions: Vec<_> = persona.texts().map(|text| self.preprocessing.prepare(text)).collect();
        let descriptions: Vec<_> = descriptions.iter().map(|text| self.preprocessing.split(text)).collect();
        let known: HashSet<&[&str]> = descriptions.iter().flat_map(|words| words.windows(order)).collect();
        let found = reply.windows(order).filter(|ngram| known.contains(ngram)).count();
        2 * found >= reply.windows(order).len()
    }

    fn signature(&self) -> String {
        format!("variant:half-of-4-grams|{}", self.preprocessing.signature())
    }
}

/// Counts of the copy rate: replies, and those that are copied. Shards of a corpus are merged in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStats {
    settings: CopyRate,
    replies: u64,
    copied: u64,
}

impl CopyStats {
    /// Counts one reply and its speaker's descriptions.
    pub fn update<P: Texts + ?Sized>(&mut self, reply: &str, persona: &P) {
        self.copied = self.copied.saturating_add(self.settings.is_copy(reply, persona).into());
        self.replies = self.replies.saturating_add(1);
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
        self.copied = self.copied.saturating_add(other.copied);
        self.replies = self.replies.saturating_add(other.replies);
        Ok(())
    }

    /// The share of copied replies.
    ///
    /// # Errors
    /// Nothing was counted.
    pub fn score(&self) -> Result<Score> {
        if self.replies == 0 {
            return Err(Error::EmptyCorpus { metric: NAME });
        }
        let value = self.copied as f64 / self.replies as f64;
        Score::new(NAME, NAME, value, Unit::Share, Signature::new(self.settings.signature()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERSONA: [&str; 2] = ["i have a big brown dog", "my name is pedro"];

    fn is_copy(reply: &str) -> bool {
        CopyRate::default().is_copy(reply, &PERSONA)
    }

    #[test]
    fn half_of_the_four_grams_decide() {
        // 3 of 3, then 3 of 6, then 3 of 7.
        assert!(is_copy("i have a big brown dog"));
        assert!(is_copy("well yes no i have a big brown dog"));
        assert!(!is_copy("well yes no so i have a big brown dog"));
    }

    #[test]
    fn short_replies_are_one_ngram() {
        assert!(is_copy("Brown dog"));
        assert!(is_copy("pedro"));
        assert!(!is_copy("dog brown"));
        assert!(!is_copy("Pedro!"), "the mark is a word, and the persona lacks it");
        assert!(CopyRate::default().is_copy("Pedro!", "Pedro !"));
    }

    #[test]
    fn ngrams_stay_within_one_description() {
        assert!(!is_copy("brown dog my name"));
    }

    #[test]
    fn empty_reply_and_empty_persona_are_no_copies() {
        let none: [&str; 0] = [];
        assert!(!is_copy(""));
        assert!(!CopyRate::default().is_copy("", ""));
        assert!(!CopyRate::default().is_copy("a b c d", &none));
    }

    #[test]
    fn bad_input_is_an_error() {
        let none: [&str; 0] = [];
        assert!(matches!(CopyRate::default().corpus(&none, &none), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(CopyRate::default().corpus(&["a"], &none), Err(Error::LengthMismatch { .. })));
        let mut statistics = CopyRate::default().statistics();
        assert!(statistics.merge(&CopyRate::default().lowercase(false).statistics()).is_err());
    }
}
