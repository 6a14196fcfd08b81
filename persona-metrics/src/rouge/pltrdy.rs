//! ROUGE as the package `rouge` (by pltrdy) computes it.

use serde::{Deserialize, Serialize};

use super::lcs::Tie;
use super::measure::{Measure, Overlap, ROUGE, RougeType, Types, mean_of_measures};
use super::room::{Room, with_room};
use super::words::{has, measure, ngram_overlaps, only_reference, read};
use crate::error::Result;
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::sums::MeanSums;
use crate::tokens::{Preprocessing, Split, preprocessing_setters};

/// ROUGE-1 to ROUGE-5 and ROUGE-L as the Python package `rouge` 1.0.1 computes them (SPT and CLV use it), as shares of
/// one; the mean over the pairs of a corpus, as its `get_scores(..., avg=True)`.
///
/// Both texts are cut at every `.`, empty pieces are dropped, and the words of a piece are those of `str.split()`; a
/// piece of white space alone is one empty word. Case and other punctuation stay.
///
/// - ROUGE-N: `P = common / n-grams of the hypothesis`, `R = common / n-grams of the reference`, over the words of all
///   pieces in a row. By default these are *sets*: each different n-gram counts once.
/// - ROUGE-L: for every pair of a piece of the reference and one of the hypothesis, the words of a longest common
///   subsequence; `common` is how many *different* words these are, over the numbers of different words.
/// - `F = 2 P R / (P + R + 1e-8)`, so that a perfect match has 0.999999995.
///
/// Not the ROUGE of Lin 2004: repeated words count once, and words are matched across sentences. One reference a
/// hypothesis. A text of which nothing is left (`""`, `"..."`) is an error, as in the package; its `ignore_empty`
/// leaves such examples out, and so can the caller. The table of ROUGE-L takes a bit for each pair of words of two
/// pieces, up to 256 MiB; longer pieces are [`Error::TableTooLarge`](crate::Error::TableTooLarge).
///
/// ```
/// use persona_metrics::Rouge;
///
/// let scores = Rouge::pltrdy().sentence("the cat the cat", "the cat sat")?;
/// assert_eq!(scores.get("ROUGE-1 P").map(|score| score.value()), Some(1.0));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PltrdyRouge {
    types: Types,
    exclusive: bool,
    preprocessing: Preprocessing,
}

impl Default for PltrdyRouge {
    fn default() -> Self {
        Self { types: Types::usual(), exclusive: true, preprocessing: Preprocessing::new(Split::Whitespace) }
    }
}

impl PltrdyRouge {
    preprocessing_setters!("The package does nothing.");

    /// The kinds of ROUGE, in the order of the scores: orders 1 to 5 and `L`. At first ROUGE-1, ROUGE-2, ROUGE-L.
    ///
    /// # Errors
    /// No kind, the same kind twice, or one that the package does not have.
    pub fn types(mut self, types: impl IntoIterator<Item = RougeType>) -> Result<Self> {
        self.types = Types::new("rouge", types, has)?;
        Ok(self)
    }

    /// Whether repeated n-grams count once, which is the package's default. If not, n-grams match as often as the
    /// text that has fewer of them has them, and ROUGE-L adds up the lengths of the longest common subsequences of all
    /// pairs of pieces, over the numbers of words: it can exceed one.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    fn measures(&self, room: &mut Room) -> Result<Vec<Measure>> {
        let ngrams = ngram_overlaps(room, self.types.largest_order(), self.exclusive);
        let overlap = |kind| match kind {
            RougeType::N(order) => {
                Ok(ngrams.get(usize::from(order).wrapping_sub(1)).copied().unwrap_or_default())
            }
            _ if self.exclusive => different_words_of_subsequences(room),
            _ => Ok(lengths_of_subsequences(room)),
        };
        self.types.iter().map(overlap).map(|overlap| Ok(measure(&overlap?))).collect()
    }
}

/// Different words of the longest common subsequences of all pairs of lines; of several subsequences, that to which the
/// way back leads that shortens the hypothesis on ties.
fn different_words_of_subsequences(room: &mut Room) -> Result<Overlap> {
    let Room { hypothesis, reference, subsequences, .. } = room;
    let different = |mut words: Vec<u32>| {
        words.sort_unstable();
        words.dedup();
        words.len() as u64
    };
    let words = [&*hypothesis, &*reference].map(|lines| different(lines.tokens().to_vec()));
    let mut common = Vec::new();
    for reference in reference.lines() {
        for hypothesis in hypothesis.lines() {
            let place = |place: usize| common.extend(reference.get(place));
            subsequences.places(ROUGE, reference, hypothesis, Tie::Hypothesis, place)?;
        }
    }
    let [hypothesis, reference] = words;
    Ok(Overlap::of(different(common), hypothesis, reference))
}

fn lengths_of_subsequences(room: &mut Room) -> Overlap {
    let Room { hypothesis, reference, subsequences, .. } = room;
    let mut common = 0;
    for reference in reference.lines() {
        for hypothesis in hypothesis.lines() {
            common += subsequences.length(hypothesis, reference) as u64;
        }
    }
    Overlap::of(common, hypothesis.tokens().len() as u64, reference.tokens().len() as u64)
}

pair_metric_methods!(PltrdyRouge);

impl Metric for PltrdyRouge {
    mean_of_measures!();

    fn settings(&self) -> String {
        let exclusive = if self.exclusive { "yes" } else { "no" };
        format!("variant:rouge|{}|exclusive:{exclusive}|{}", self.types, self.preprocessing.signature())
    }
}

impl PairMetric for PltrdyRouge {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        let reference = only_reference(references)?;
        let hypothesis = self.preprocessing.prepare(hypothesis);
        let reference = self.preprocessing.prepare(reference);
        let measures = with_room(|room| {
            read(room, hypothesis.split('.'), reference.split('.'))?;
            self.measures(room)
        })?;
        sums.push(ROUGE, &Measure::numbers(&measures))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, Rouge, RougeType};

    fn f(exclusive: bool, kind: &str, hypothesis: &str, reference: &str) -> [f64; 2] {
        let rouge = Rouge::pltrdy().exclusive(exclusive);
        let scores = rouge.sentence(hypothesis, reference).unwrap();
        ["P", "R"].map(|part| scores.get(&format!("{kind} {part}")).unwrap().value())
    }

    #[test]
    fn sets_count_a_repeated_word_once_and_lists_as_often_as_both_have_it() {
        assert_eq!(f(true, "ROUGE-1", "a a b", "a c"), [0.5, 0.5]);
        assert_eq!(f(false, "ROUGE-1", "a a b", "a a a c"), [2.0 / 3.0, 0.5]);
        assert_eq!(f(true, "ROUGE-2", "a a a", "a a"), [1.0, 1.0]);
        assert_eq!(f(true, "ROUGE-2", "a", "a a"), [0.0, 0.0]);
    }

    #[test]
    fn subsequences_are_united_over_pieces() {
        // "a b" and "c" are found in different pieces of the reference.
        assert_eq!(f(true, "ROUGE-L", "c. a b", "a b. x c"), [1.0, 0.75]);
        // Lists add up all pairs of pieces: a is found in both.
        assert_eq!(f(false, "ROUGE-L", "a", "a. a"), [2.0, 1.0]);
    }

    #[test]
    fn a_text_without_pieces_is_an_error_and_blank_pieces_are_an_empty_word() {
        let rouge = Rouge::pltrdy();
        assert!(matches!(rouge.sentence("...", "a"), Err(Error::EmptyHypothesis { .. })));
        assert!(matches!(rouge.sentence("a", ""), Err(Error::EmptyReference { .. })));
        assert!(matches!(
            rouge.sentence("a", &["a", "b"]),
            Err(Error::NeedsOneReference { references: 2, .. })
        ));
        assert!(matches!(rouge.corpus(&["a", ""], &["a", "a"]), Err(Error::Example { index: 1, .. })));
        assert_eq!(f(true, "ROUGE-1", "a. .b", " "), [1.0 / 3.0, 1.0]);
    }

    #[test]
    fn types_are_the_packages() {
        let rouge = Rouge::pltrdy().types([RougeType::L, RougeType::N(5)]).unwrap();
        let names: Vec<_> =
            rouge.sentence("a", "a").unwrap().iter().map(|score| score.name().to_owned()).collect();
        assert_eq!(names[..4], ["ROUGE-L P", "ROUGE-L R", "ROUGE-L F", "ROUGE-5 P"]);
        assert!(Rouge::pltrdy().types([RougeType::N(6)]).is_err());
        assert!(Rouge::pltrdy().types([RougeType::W]).is_err());
    }
}
