//! Copy rate: how many replies are mostly taken from the persona.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::score::Unit;
use crate::sums::MeanSums;
use crate::tokens::{PreTokenization, Preprocessing, Split, Texts, preprocessing_setters};

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
/// let scores = CopyRate::default().corpus(&["hi! i have a dog.", "do you ski?"], &[&persona, &persona])?;
/// assert_eq!(scores.values(), [0.5]); // "i have a dog", "have a dog ." of the four in "hi ! i have a dog ."
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

    preprocessing_setters!("The default spaces punctuation out and lower-cases.");

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
}

pair_metric_methods!(CopyRate);

impl Metric for CopyRate {
    const NAME: &'static str = "Copy rate";
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(1)
    }

    fn names(&self) -> Vec<String> {
        vec![Self::NAME.to_owned()]
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(Self::NAME)
    }

    fn settings(&self) -> String {
        format!("variant:half-of-4-grams|{}", self.preprocessing.signature())
    }
}

/// The descriptions of the speaker's persona stand in the place of the references.
impl PairMetric for CopyRate {
    fn count(&self, sums: &mut MeanSums, reply: &str, persona: &[&str]) -> Result<()> {
        sums.push(Self::NAME, &[f64::from(u8::from(self.is_copy(reply, persona)))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

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
