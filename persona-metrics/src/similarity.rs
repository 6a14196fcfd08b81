//! Similarity of sentence embeddings.

use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::embedding::{SentenceEmbedder, cosine, embed_texts};
use crate::error::{Error, Result, same_length};
use crate::metric::{Examples, Metric, Statistics, Sums};
use crate::once::Once;
use crate::score::{Scores, Unit};
use crate::sums::MeanSums;

const NAME: &str = "Similarity";

/// Similarity of each generated text and its reference by the cosine of their sentence embeddings, over any
/// [`SentenceEmbedder`], as Otsuka et al. 2024 report it:
///
/// - `Similarity`, the mean cosine;
/// - `Acc@sim0.9`, the share of texts whose cosine is 0.9 or more;
/// - the frequencies of cosines in steps of 0.2 (their Fig. 2), [`Statistics::histogram`].
///
/// What an empty text is like is up to the embedder: the usual ones embed its special tokens. The model computes each
/// distinct text once, in batches of like length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingSimilarity {
    threshold: f64,
}

impl Default for EmbeddingSimilarity {
    fn default() -> Self {
        Self { threshold: 0.9 }
    }
}

impl EmbeddingSimilarity {
    /// Pairs whose vectors are held at a time.
    const BLOCK: usize = 16_384;

    /// From which cosine on a text counts as the same as its reference.
    ///
    /// # Errors
    /// A threshold that is no cosine.
    pub fn threshold(self, threshold: f64) -> Result<Self> {
        if (-1.0..=1.0).contains(&threshold) {
            return Ok(Self { threshold });
        }
        let problem = format!("the threshold is {threshold}; a cosine lies between -1 and 1");
        Err(Error::InvalidSetting { metric: NAME, problem })
    }

    /// The scores of a corpus. The model runs on this thread.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, a model that fails or gives a NaN.
    pub fn corpus<E, H, R>(&self, embedder: &E, generated: &[H], references: &[R]) -> Result<Scores>
    where
        E: SentenceEmbedder + ?Sized,
        H: AsRef<str>,
        R: AsRef<str>,
    {
        self.collect(embedder, generated, references)?.scores()
    }

    /// Statistics of a corpus: one shard of a larger whole, and the histogram.
    ///
    /// # Errors
    /// As [`EmbeddingSimilarity::corpus`], but an empty corpus has statistics.
    pub fn collect<E, H, R>(
        &self,
        embedder: &E,
        generated: &[H],
        references: &[R],
    ) -> Result<Statistics<EmbeddedSimilarity>>
    where
        E: SentenceEmbedder + ?Sized,
        H: AsRef<str>,
        R: AsRef<str>,
    {
        let cosines = cosines(embedder, generated, references)?;
        self.statistics(embedder.name(), &cosines)
    }

    /// Each pair by itself, to draw them again (see [`stats`](crate::stats)) or to look at.
    ///
    /// # Errors
    /// As [`EmbeddingSimilarity::corpus`], but an empty corpus has no examples.
    pub fn examples<E, H, R>(
        &self,
        embedder: &E,
        generated: &[H],
        references: &[R],
    ) -> Result<Examples<EmbeddedSimilarity>>
    where
        E: SentenceEmbedder + ?Sized,
        H: AsRef<str>,
        R: AsRef<str>,
    {
        let metric = self.embedded_by(embedder.name());
        let cosines = cosines(embedder, generated, references)?;
        let sums = cosines.iter().map(|&cosine| metric.pair(cosine)).collect::<Result<_>>()?;
        Ok(Examples::new(metric, sums))
    }

    /// Statistics of embeddings that are at hand: row i of both, `[n, D]`, is one pair.
    ///
    /// # Errors
    /// Another number of rows or columns in one than in the other, a NaN or an infinity.
    pub fn of_vectors<A: Copy + Into<f64>>(
        &self,
        model: impl Into<String>,
        generated: ArrayView2<'_, A>,
        references: ArrayView2<'_, A>,
    ) -> Result<Statistics<EmbeddedSimilarity>> {
        same_length("generated vectors", generated.nrows(), "reference vectors", references.nrows())?;
        let pairs = generated.rows().into_iter().zip(references.rows()).enumerate();
        let cosines =
            pairs.map(|(index, (left, right))| cosine(left, right).map_err(|error| error.at(index)));
        self.statistics(model.into(), &cosines.collect::<Result<Vec<_>>>()?)
    }

    fn embedded_by(self, model: String) -> EmbeddedSimilarity {
        EmbeddedSimilarity { threshold: self.threshold, model }
    }

    fn statistics(self, model: String, cosines: &[f64]) -> Result<Statistics<EmbeddedSimilarity>> {
        let metric = self.embedded_by(model);
        let mut statistics = Metric::statistics(&metric);
        for &cosine in cosines {
            statistics.push_with(&metric.pair(cosine)?, 1)?;
        }
        Ok(statistics)
    }
}

/// The cosine of each text and its reference.
fn cosines<E, H, R>(embedder: &E, generated: &[H], references: &[R]) -> Result<Vec<f64>>
where
    E: SentenceEmbedder + ?Sized,
    H: AsRef<str>,
    R: AsRef<str>,
{
    same_length("generated texts", generated.len(), "references", references.len())?;
    let pairs: Vec<[&str; 2]> = generated
        .iter()
        .zip(references)
        .map(|(text, reference)| [text.as_ref(), reference.as_ref()])
        .collect();
    let mut once: Once<&str, Array1<f32>> = Once::of(pairs.iter().flatten().copied());
    let mut cosines = Vec::with_capacity(pairs.len());
    for (block, pairs) in pairs.chunks(EmbeddingSimilarity::BLOCK).enumerate() {
        let texts = || pairs.iter().flatten().copied();
        once.answer(texts(), embedder.batch_size(), |texts| embed_texts(embedder, NAME, texts))?;
        for (index, [text, reference]) in pairs.iter().enumerate() {
            // Every text of the block was answered above.
            let (Some(left), Some(right)) = (once.get(text), once.get(reference)) else { continue };
            let cosine = cosine(left.view(), right.view());
            cosines.push(cosine.map_err(|error| error.at(block * EmbeddingSimilarity::BLOCK + index))?);
        }
        once.release(texts());
    }
    same_length("cosines", cosines.len(), "pairs", pairs.len())?;
    Ok(cosines)
}

/// Similarity with the model that embeds the texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddedSimilarity {
    threshold: f64,
    model: String,
}

impl EmbeddedSimilarity {
    /// Its first score: the mean cosine.
    pub const MEAN: &'static str = NAME;

    /// The sums of one pair with that cosine.
    fn pair(&self, cosine: f64) -> Result<SimilaritySums> {
        let mut sums = self.empty();
        let reaches = f64::from(u8::from(cosine >= self.threshold));
        sums.means.push(NAME, &[cosine, reaches])?;
        if let Some(count) = sums.histogram.get_mut(bin(cosine)) {
            *count = 1;
        }
        Ok(sums)
    }
}

impl Statistics<EmbeddedSimilarity> {
    /// How many cosines lie below 0, then in steps of 0.2: from 0, from 0.2, from 0.4, from 0.6, and from 0.8 to 1. A
    /// cosine on an edge counts above it.
    #[must_use]
    pub fn histogram(&self) -> [u64; 6] {
        self.sums().histogram
    }
}

/// Where a cosine counts in the histogram.
fn bin(cosine: f64) -> usize {
    [0.0, 0.2, 0.4, 0.6, 0.8].iter().filter(|&&edge| cosine >= edge).count()
}

/// Sums that the similarity of a corpus is computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimilaritySums {
    /// Of cosines, and of the share that reach the threshold.
    means: MeanSums,
    histogram: [u64; 6],
}

impl Sums for SimilaritySums {
    fn add(&mut self, other: &Self) -> Result<()> {
        self.means.add(&other.means)?;
        for (count, other) in self.histogram.iter_mut().zip(other.histogram) {
            *count = count.saturating_add(other);
        }
        Ok(())
    }
}

impl Metric for EmbeddedSimilarity {
    const NAME: &'static str = NAME;
    type Sums = SimilaritySums;

    fn empty(&self) -> SimilaritySums {
        SimilaritySums { means: MeanSums::new(2), histogram: [0; 6] }
    }

    fn names(&self) -> Vec<String> {
        vec![Self::MEAN.to_owned(), format!("Acc@sim{}", self.threshold)]
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &SimilaritySums) -> Result<Vec<f64>> {
        sums.means.means(NAME)
    }

    fn settings(&self) -> String {
        format!("variant:cosine|model:{}|threshold:{}", self.model, self.threshold)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use ndarray::{Array2, array};

    use super::*;
    use crate::error::ModelError;
    use crate::stats::Resample;

    /// Embeds a text of two numbers as these, and notes what it was asked.
    #[derive(Default)]
    struct Numbers {
        asked: RefCell<Vec<String>>,
    }

    impl SentenceEmbedder for Numbers {
        fn name(&self) -> String {
            "numbers".to_owned()
        }

        fn embed(&self, texts: &[&str]) -> Result<Array2<f32>, ModelError> {
            self.asked.borrow_mut().extend(texts.iter().map(|&text| text.to_owned()));
            let mut values = Vec::new();
            for text in texts.iter().filter(|&&text| text != "left out") {
                for number in text.split(' ') {
                    values.push(number.parse::<f32>()?);
                }
            }
            Ok(Array2::from_shape_vec((values.len() / 2, 2), values)?)
        }
    }

    #[test]
    fn mean_accuracy_and_histogram() {
        let generated = ["1 0", "1 0", "1 0", "1 0", "1 0"];
        let references = ["2 0", "0 1", "-1 0", "3 4", "1 0"];
        let embedder = Numbers::default();
        let statistics = EmbeddingSimilarity::default().collect(&embedder, &generated, &references).unwrap();
        assert_eq!(statistics.values().unwrap(), [(1.0 + 0.0 - 1.0 + 0.6 + 1.0) / 5.0, 0.4]);
        assert_eq!(statistics.histogram(), [1, 1, 0, 0, 1, 2], "0 and 0.6 lie on edges");
        let scores = statistics.scores().unwrap();
        assert_eq!(scores.iter().map(|score| score.name()).collect::<Vec<_>>(), ["Similarity", "Acc@sim0.9"]);
        let line = scores.to_string();
        assert!(line.contains("| variant:cosine|model:numbers|threshold:0.9|refs:1|version:"), "{line}");
        let mut asked = embedder.asked.into_inner();
        asked.sort();
        assert_eq!(asked, ["-1 0", "0 1", "1 0", "2 0", "3 4"], "each once");
    }

    #[test]
    fn pairs_are_drawn_again_and_merge() {
        let metric = EmbeddingSimilarity::default().threshold(0.5).unwrap();
        let embedder = Numbers::default();
        let examples = metric.examples(&embedder, &["1 0", "1 0"], &["1 0", "0 1"]).unwrap();
        assert_eq!(examples.scores_of(&[0, 0, 1, 0]).unwrap(), [0.75, 0.75]);
        let mut statistics = metric.collect(&embedder, &["1 0"], &["1 0"]).unwrap();
        let vectors = array![[0.0, 5.0]];
        statistics.merge(&metric.of_vectors("numbers", vectors.view(), vectors.view()).unwrap()).unwrap();
        assert_eq!((statistics.examples(), statistics.histogram()), (2, [0, 0, 0, 0, 0, 2]));
        assert!(
            statistics.merge(&metric.of_vectors("other", vectors.view(), vectors.view()).unwrap()).is_err()
        );
    }

    #[test]
    fn bad_input_is_an_error() {
        let metric = EmbeddingSimilarity::default();
        let score = |generated: &[&str], references: &[&str]| {
            metric.corpus(&Numbers::default(), generated, references).unwrap_err()
        };
        assert!(matches!(score(&[], &[]), Error::EmptyCorpus { .. }));
        assert!(matches!(score(&["1 0"], &[]), Error::LengthMismatch { .. }));
        assert!(matches!(score(&["1 0"], &["NaN 0"]), Error::Embedding { .. }));
        assert!(matches!(score(&["1 0"], &["x 0"]), Error::Model { .. }));
        assert!(matches!(score(&["1 0"], &["left out"]), Error::ModelCount { asked: 2, answered: 1, .. }));
        assert!(metric.threshold(f64::NAN).is_err());
        let (two, three) = (array![[1.0, 0.0]], array![[1.0, 0.0, 0.0]]);
        assert!(metric.of_vectors("", two.view(), three.view()).is_err());
    }
}
