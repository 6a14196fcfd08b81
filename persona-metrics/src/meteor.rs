//! METEOR without its synonyms.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::ngrams::Numbered;
use crate::score::Unit;
use crate::sums::MeanSums;
use crate::text::{Rules, stem};
use crate::tokens::{Preprocessing, Split, in_order, preprocessing_setters};

/// METEOR (Banerjee and Lavie 2005) as nltk's `meteor_score` computes it, *without WordNet*: words are matched exactly
/// and by their Porter stems, not by synonyms, so that values lie below those of METEOR with WordNet. A share of one.
///
/// Hypothesis words, last one first, are each matched with the last reference word that is still free and equal, then
/// those that are left by stem. With m matches, `P = m / hypothesis words`, `R = m / reference words` and c runs of
/// matches that are adjacent in both texts, the score is
/// `(1 - gamma (c / m)^beta) P R / (alpha P + (1 - alpha) R)`, or 0 without a match; alpha 0.9, beta 3, gamma 0.5. A
/// text of m words has `1 - 0.5 / m^3` with itself. Of several references the best one counts; the score of a corpus is
/// the mean.
///
/// Words are those of `str.split()`, lower-cased. nltk itself takes words; punctuation that is not split off a word is
/// part of it.
///
/// ```
/// use persona_metrics::MeteorWithoutWordNet;
///
/// let scores = MeteorWithoutWordNet::nltk().corpus(&["the dogs barked"], &["the dog barks"])?;
/// println!("{scores}");
/// # assert!(scores.to_string().starts_with("METEOR without WordNet = 98.15 | variant:nltk|wordnet:no|"), "{scores}");
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeteorWithoutWordNet {
    alpha: f64,
    beta: f64,
    gamma: f64,
    preprocessing: Preprocessing,
}

const FREE: u32 = u32::MAX;

impl MeteorWithoutWordNet {
    /// nltk's with its default parameters and an empty WordNet.
    pub fn nltk() -> Self {
        let preprocessing = Preprocessing { lowercase: true, ..Preprocessing::new(Split::Whitespace) };
        Self { alpha: 0.9, beta: 3.0, gamma: 0.5, preprocessing }
    }

    preprocessing_setters!("The package lower-cases and does nothing else.");

    /// Weight of precision in the mean, exponent of the penalty, largest penalty; 0.9, 3 and 0.5 by default.
    ///
    /// # Errors
    /// Alpha or gamma outside 0 to 1, beta negative, NaN or infinite.
    pub fn parameters(self, alpha: f64, beta: f64, gamma: f64) -> Result<Self> {
        let share = 0.0..=1.0;
        if !(share.contains(&alpha) && share.contains(&gamma) && beta >= 0.0 && beta.is_finite()) {
            let problem = format!(
                "alpha and gamma have to lie in 0 to 1, beta has to be finite and at least 0; \
                 these are {alpha}, {gamma} and {beta}"
            );
            return Err(Error::InvalidSetting { metric: Self::NAME, problem });
        }
        Ok(Self { alpha, beta, gamma, ..self })
    }

    /// `matches` has the place in the reference of each hypothesis word, or [`FREE`].
    fn score(&self, matches: &[u32], reference_words: usize) -> f64 {
        let mut matched = 0_u32;
        let mut chunks = 0_u32;
        let mut before = FREE;
        for &place in matches {
            if place != FREE {
                matched += 1;
                chunks += u32::from(before == FREE || place != before + 1);
            }
            before = place;
        }
        if matched == 0 {
            return 0.0;
        }
        let matched = f64::from(matched);
        let precision = matched / matches.len() as f64;
        let recall = matched / reference_words as f64;
        let mean = precision * recall / (self.alpha * precision + (1.0 - self.alpha) * recall);
        let penalty = self.gamma * (f64::from(chunks) / matched).powf(self.beta);
        (1.0 - penalty) * mean
    }

    /// The matched words: pairs (place in the hypothesis, place in the reference), both counted from 0, in the order of
    /// the hypothesis.
    pub fn alignment(&self, hypothesis: &str, reference: &str) -> Vec<(usize, usize)> {
        let matches = self.align(hypothesis, &[reference], |matches, _| matches.to_vec());
        let pairs = matches.iter().flatten().enumerate().filter(|(_, place)| **place != FREE);
        pairs.map(|(word, &place)| (word, place as usize)).collect()
    }

    /// What `with` makes of the matches with each reference and of the number of its words.
    fn align<T>(&self, hypothesis: &str, references: &[&str], with: impl Fn(&[u32], usize) -> T) -> Vec<T> {
        let hypothesis = self.preprocessing.prepare(hypothesis);
        let references: Vec<_> = references.iter().map(|text| self.preprocessing.prepare(text)).collect();
        let hypothesis = self.preprocessing.split(&hypothesis);
        let references: Vec<_> = references.iter().map(|text| self.preprocessing.split(text)).collect();
        let numbered = Numbered::new(&hypothesis, &references);
        let mut stems = Stems::new(numbered.different);
        let mut places = Places::default();
        let mut one = |(reference, numbers): (&Vec<&str>, &Vec<u32>)| {
            let mut matches = vec![FREE; hypothesis.len()];
            let mut used = vec![false; reference.len()];
            // There are no more stems than words.
            let different = numbered.different;
            places.matches(&numbered.hypothesis, numbers, different, &mut matches, &mut used);
            if matches.contains(&FREE) && used.contains(&false) {
                let free = matches.iter().map(|&place| place == FREE);
                let hypothesis_stems = stems.of(&hypothesis, &numbered.hypothesis, free);
                let reference_stems = stems.of(reference, numbers, used.iter().map(|used| !used));
                places.matches(&hypothesis_stems, &reference_stems, different, &mut matches, &mut used);
            }
            with(&matches, reference.len())
        };
        references.iter().zip(&numbered.references).map(&mut one).collect()
    }
}

/// The free places of a reference, by what stands there.
#[derive(Debug, Default)]
struct Places {
    /// By number: the last place.
    last: Vec<u32>,
    /// By place: the one before it that has the same number.
    before: Vec<u32>,
}

impl Places {
    /// Matches each free hypothesis word, the last one first, with the last free place of the reference that has the
    /// same number below `different`.
    fn matches(
        &mut self,
        hypothesis: &[u32],
        reference: &[u32],
        different: usize,
        matches: &mut [u32],
        used: &mut [bool],
    ) {
        self.last.clear();
        self.last.resize(different, FREE);
        self.before.clear();
        for (place, (&number, &used)) in (0..).zip(reference.iter().zip(&*used)) {
            let before = match self.last.get_mut(number as usize) {
                Some(last) if !used => std::mem::replace(last, place),
                _ => FREE,
            };
            self.before.push(before);
        }
        for (&number, place) in hypothesis.iter().zip(matches).rev().filter(|(_, place)| **place == FREE) {
            let Some(last) = self.last.get_mut(number as usize) else { continue };
            if let (Some(&before), Some(used)) =
                (self.before.get(*last as usize), used.get_mut(*last as usize))
            {
                *used = true;
                *place = std::mem::replace(last, before);
            }
        }
    }
}

/// The stems of the words of an example as numbers.
#[derive(Debug)]
struct Stems {
    /// By the number of a word; FREE where it is not known yet.
    by_word: Vec<u32>,
    numbers: FxHashMap<String, u32>,
    room: String,
}

impl Stems {
    fn new(words: usize) -> Self {
        Self { by_word: vec![FREE; words], numbers: FxHashMap::default(), room: String::new() }
    }

    /// The numbers of the stems of the words that are free, FREE for the others.
    fn of(&mut self, words: &[&str], numbers: &[u32], free: impl Iterator<Item = bool>) -> Vec<u32> {
        let words = words.iter().zip(numbers).zip(free);
        words.map(|((word, &number), free)| if free { self.stem(word, number) } else { FREE }).collect()
    }

    fn stem(&mut self, word: &str, number: u32) -> u32 {
        let Some(known) = self.by_word.get_mut(number as usize) else { return FREE };
        if *known == FREE {
            self.room.clear();
            stem(word, Rules::Nltk, &mut self.room);
            let new = u32::try_from(self.numbers.len()).unwrap_or(FREE);
            *known = match self.numbers.get(&self.room) {
                Some(&number) => number,
                None => *self.numbers.entry(self.room.clone()).or_insert(new),
            };
        }
        *known
    }
}

pair_metric_methods!(MeteorWithoutWordNet);

impl Metric for MeteorWithoutWordNet {
    const NAME: &'static str = "METEOR without WordNet";
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
        let Self { alpha, beta, gamma, preprocessing } = self;
        let preprocessing = preprocessing.signature();
        format!("variant:nltk|wordnet:no|stem:porter|alpha:{alpha}|beta:{beta}|gamma:{gamma}|{preprocessing}")
    }
}

impl PairMetric for MeteorWithoutWordNet {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        in_order(Self::NAME, false, hypothesis, references, |hypothesis, references| {
            let scores = self.align(hypothesis, references, |matches, words| self.score(matches, words));
            sums.push(Self::NAME, &[scores.into_iter().fold(0.0, f64::max)])
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(hypothesis: &str, references: &[&str]) -> f64 {
        MeteorWithoutWordNet::nltk().sentence(hypothesis, references).unwrap().values()[0]
    }

    #[test]
    fn a_text_with_itself_lacks_one_chunks_penalty() {
        assert!((value("a b c d", &["A b c D"]) - (1.0 - 0.5 / 64.0)).abs() < 1e-15);
        assert_eq!(value("a", &["a"]), 0.5);
    }

    #[test]
    fn words_match_from_the_end_and_then_by_stem() {
        // "dogs" and "dog" by stem; the second "the" of the hypothesis takes the only one: 3 matches in one run.
        let (precision, recall) = (3.0 / 4.0, 1.0);
        let mean = precision * recall / (0.9 * precision + 0.1 * recall);
        let expected = (1.0 - 0.5 * (1.0_f64 / 3.0).powi(3)) * mean;
        assert!((value("the dogs the barks", &["dog the barking"]) - expected).abs() < 1e-15);
        // An exact match comes before a stem's: "dogs" takes the first word, "dog" the second.
        let alignment = MeteorWithoutWordNet::nltk().alignment("dog ran dogs", "Dogs dog");
        assert_eq!(alignment, [(0, 1), (2, 0)]);
    }

    #[test]
    fn the_best_reference_counts() {
        assert_eq!(value("a b", &["x", "a b", "a"]), value("a b", &["a b"]));
        assert_eq!(value("", &["a", ""]), 0.0);
        assert_eq!(value("a", &["", "b"]), 0.0);
    }

    #[test]
    fn parameters_are_checked_and_signed() {
        let meteor = MeteorWithoutWordNet::nltk().parameters(0.5, 1.0, 0.2).unwrap();
        let scores = meteor.sentence("a b", "a c").unwrap();
        // P = R = 1/2, one match in one run.
        assert!((scores.values()[0] - 0.8 * 0.5).abs() < 1e-15);
        let signature = scores.iter().next().unwrap().signature().as_str().to_owned();
        let expected = "variant:nltk|wordnet:no|stem:porter|alpha:0.5|beta:1|gamma:0.2|case:lower|pre:none|";
        assert!(signature.starts_with(expected), "{signature}");
        for (alpha, beta, gamma) in
            [(1.1, 3.0, 0.5), (0.9, -1.0, 0.5), (0.9, 3.0, -0.1), (f64::NAN, 3.0, 0.5)]
        {
            let refused = MeteorWithoutWordNet::nltk().parameters(alpha, beta, gamma);
            assert!(matches!(refused, Err(Error::InvalidSetting { .. })), "{refused:?}");
        }
        let none: [&str; 0] = [];
        assert!(matches!(meteor.sentence("a", &none), Err(Error::NoReferences { .. })));
    }
}
