//! BERTScore: texts compared by the contextual embeddings of their tokens.

mod baseline;
mod idf;
mod matching;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use self::baseline::Baseline;
pub use self::idf::Idf;
pub use self::matching::{WeightedTokens, greedy_match};
use crate::embedding::{TokenEmbedder, TokenVectors, embed_tokens};
use crate::error::{Error, Result, same_length, shortened};
use crate::metric::{Examples, Metric, Statistics};
use crate::once::Once;
use crate::score::{Scores, Unit};
use crate::sums::MeanSums;
use crate::text::trim;
use crate::tokens::Texts;

const NAME: &str = "BERTScore";

/// BERTScore (Zhang et al. 2020) as bert-score 0.3.13 computes it, over any [`TokenEmbedder`]: precision, recall and F1 of
/// [`greedy_match`], averaged over the examples.
///
/// - Special tokens can be matched and have weight 0; all others weigh 1, or their [`Idf`] with [`idf`](Self::idf).
/// - Of several references the best counts, for precision, recall and F1 each by itself.
/// - An empty text has 0 with every other, as has a text of special tokens alone.
/// - A word that is like no word of the other text keeps its negative cosine. bert-score has 0 there if the text was the
///   shorter one of its batch, so that its score depends on the batch.
///
/// The model computes each distinct text once, in batches of like length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BertScore {
    idf: IdfWeights,
    baseline: Option<Baseline>,
    swapped: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
enum IdfWeights {
    #[default]
    None,
    /// From the references of the call.
    References,
    Given(Idf),
}

impl BertScore {
    /// Examples whose token vectors are held at a time.
    const BLOCK: usize = 1024;

    /// Tokens weigh their inverse document frequency among the references of the corpus that is scored.
    #[must_use]
    pub fn idf(self, idf: bool) -> Self {
        Self { idf: if idf { IdfWeights::References } else { IdfWeights::None }, ..self }
    }

    /// Tokens weigh what is given, so that parts of a corpus can be scored apart.
    #[must_use]
    pub fn idf_from(self, idf: Idf) -> Self {
        Self { idf: IdfWeights::Given(idf), ..self }
    }

    /// Scores are rescaled by a baseline.
    #[must_use]
    pub fn rescaled(self, baseline: Baseline) -> Self {
        Self { baseline: Some(baseline), ..self }
    }

    /// Hypotheses and references change places, as in the notebooks behind Persona-Chatbot's tables: precision and recall
    /// are exchanged, and idf weights come from the hypotheses. Takes one reference a hypothesis.
    #[must_use]
    pub fn swapped(self, swapped: bool) -> Self {
        Self { swapped, ..self }
    }

    /// The scores of a corpus. The model runs on this thread, matching on rayon's.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, an example without references, a model that fails or gives a NaN, a
    /// baseline of another layer, idf weights that sum to 0.
    pub fn corpus<E, H, R>(&self, embedder: &E, hypotheses: &[H], references: &[R]) -> Result<Scores>
    where
        E: TokenEmbedder + ?Sized,
        H: AsRef<str>,
        R: Texts,
    {
        self.collect(embedder, hypotheses, references)?.scores()
    }

    /// Statistics of a corpus: one shard of a larger whole. Shards merge when their weights are those of one
    /// [`Idf`] ([`idf_from`](Self::idf_from)), or 1.
    ///
    /// # Errors
    /// As [`BertScore::corpus`], but an empty corpus has statistics.
    pub fn collect<E, H, R>(
        &self,
        embedder: &E,
        hypotheses: &[H],
        references: &[R],
    ) -> Result<Statistics<EmbeddedBertScore>>
    where
        E: TokenEmbedder + ?Sized,
        H: AsRef<str>,
        R: Texts,
    {
        let examples = self.examples(embedder, hypotheses, references)?;
        examples.statistics(references.iter().map(|references| references.texts().count()))
    }

    /// Each example by itself, to draw them again (see [`stats`](crate::stats)) or to look at.
    ///
    /// # Errors
    /// As [`BertScore::corpus`], but an empty corpus has no examples.
    pub fn examples<E, H, R>(
        &self,
        embedder: &E,
        hypotheses: &[H],
        references: &[R],
    ) -> Result<Examples<EmbeddedBertScore>>
    where
        E: TokenEmbedder + ?Sized,
        H: AsRef<str>,
        R: Texts,
    {
        let (metric, sums) = self.score(embedder, hypotheses, references)?;
        Ok(Examples::new(metric, sums))
    }

    fn score<E, H, R>(
        &self,
        embedder: &E,
        hypotheses: &[H],
        references: &[R],
    ) -> Result<(EmbeddedBertScore, Vec<MeanSums>)>
    where
        E: TokenEmbedder + ?Sized,
        H: AsRef<str>,
        R: Texts,
    {
        same_length("hypotheses", hypotheses.len(), "lists of references", references.len())?;
        let pairs = hypotheses.iter().zip(references).enumerate();
        let comparisons = pairs.map(|(index, (hypothesis, references))| {
            let comparison = Comparison::new(hypothesis.as_ref(), references, self.swapped);
            comparison.map_err(|error| error.at(index))
        });
        let comparisons: Vec<Comparison<'_>> = comparisons.collect::<Result<_>>()?;
        let scorer = Scorer::new(self, embedder, &comparisons)?;
        let mut once = Once::of(comparisons.iter().flat_map(Comparison::texts));
        let mut sums = Vec::with_capacity(comparisons.len());
        for (block, comparisons) in comparisons.chunks(Self::BLOCK).enumerate() {
            let texts = || comparisons.iter().flat_map(Comparison::texts);
            once.answer(texts(), embedder.batch_size(), |texts| embed_tokens(embedder, NAME, texts))?;
            let one = |(index, comparison): (usize, &Comparison<'_>)| {
                let scores = scorer.best(comparison, &once);
                scores.map_err(|error| error.at(block * Self::BLOCK + index))
            };
            let scores: Vec<MeanSums> = comparisons.par_iter().enumerate().map(one).collect::<Result<_>>()?;
            sums.extend(scores);
            once.release(texts());
        }
        Ok((scorer.metric, sums))
    }
}

/// One hypothesis beside its references, stripped.
struct Comparison<'t> {
    hypothesis: &'t str,
    references: Vec<&'t str>,
}

impl<'t> Comparison<'t> {
    fn new<R: Texts>(hypothesis: &'t str, references: &'t R, swapped: bool) -> Result<Self> {
        let hypothesis = trim(hypothesis);
        let references: Vec<&str> = references.texts().map(trim).collect();
        match *references.as_slice() {
            [] => Err(Error::NoReferences { metric: NAME }),
            [reference] if swapped => Ok(Self { hypothesis: reference, references: vec![hypothesis] }),
            _ if swapped => Err(Error::SwapNeedsOneReference { metric: NAME, references: references.len() }),
            _ => Ok(Self { hypothesis, references }),
        }
    }

    fn texts(&self) -> impl Iterator<Item = &'t str> {
        std::iter::once(self.hypothesis).chain(self.references.iter().copied())
    }
}

/// What every example is scored with.
struct Scorer {
    metric: EmbeddedBertScore,
    idf: Option<Idf>,
    baseline: Option<Baseline>,
}

impl Scorer {
    fn new<E>(settings: &BertScore, embedder: &E, comparisons: &[Comparison<'_>]) -> Result<Self>
    where
        E: TokenEmbedder + ?Sized,
    {
        let layer = embedder.layer();
        if let Some(baseline) = settings.baseline.filter(|baseline| baseline.layer() != layer) {
            let problem = format!("the baseline is of layer {}, the model's is {layer}", baseline.layer());
            return Err(Error::InvalidSetting { metric: NAME, problem });
        }
        let idf = match &settings.idf {
            IdfWeights::None => None,
            IdfWeights::Given(idf) => Some(idf.clone()),
            IdfWeights::References => {
                let references: Vec<&str> =
                    comparisons.iter().flat_map(|comparison| comparison.references.iter().copied()).collect();
                Some(Idf::of(embedder, &references)?)
            }
        };
        let metric = EmbeddedBertScore {
            model: embedder.name(),
            layer,
            idf: idf.as_ref().map(Idf::signature),
            baseline: settings.baseline,
            swapped: settings.swapped,
        };
        Ok(Self { metric, idf, baseline: settings.baseline })
    }

    /// The highest precision, recall and F1 over the references.
    fn best<'t>(&self, comparison: &Comparison<'t>, once: &Once<&'t str, TokenVectors>) -> Result<MeanSums> {
        let vectors = |text: &'t str| {
            let problem = || "it was not computed".to_owned();
            once.get(text).ok_or_else(|| Error::Embedding { text: shortened(text), problem: problem() })
        };
        let hypothesis = vectors(comparison.hypothesis)?;
        let mut best = [f64::NEG_INFINITY; 3];
        for reference in &comparison.references {
            let scores = self.compare(hypothesis, vectors(reference)?)?;
            for (best, score) in best.iter_mut().zip(scores) {
                *best = best.max(score);
            }
        }
        if let Some(baseline) = &self.baseline {
            best = baseline.rescale(best);
        }
        let mut sums = self.metric.empty();
        sums.push(NAME, &best)?;
        Ok(sums)
    }

    fn compare(&self, hypothesis: &TokenVectors, reference: &TokenVectors) -> Result<[f64; 3]> {
        let is_empty = |text: &TokenVectors| text.special.iter().all(|&special| special);
        if is_empty(hypothesis) || is_empty(reference) {
            return Ok([0.0; 3]);
        }
        let weights = |text: &TokenVectors| -> Vec<f64> {
            let tokens = text.ids.iter().zip(&text.special);
            tokens.map(|(&id, &special)| if special { 0.0 } else { self.weight(id) }).collect()
        };
        let scores = greedy_match(
            WeightedTokens { vectors: hypothesis.vectors.view(), weights: &weights(hypothesis) },
            WeightedTokens { vectors: reference.vectors.view(), weights: &weights(reference) },
        )?;
        let documents = self.idf.as_ref().map_or(0, Idf::documents);
        scores.ok_or(Error::NoIdfWeight { documents })
    }

    fn weight(&self, id: u32) -> f64 {
        self.idf.as_ref().map_or(1.0, |idf| idf.weight(id))
    }
}

/// BERTScore with the model that embeds the tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddedBertScore {
    model: String,
    layer: usize,
    /// The signature of the weights.
    idf: Option<String>,
    baseline: Option<Baseline>,
    swapped: bool,
}

impl EmbeddedBertScore {
    /// The score of the share of the hypothesis that the reference has.
    pub const PRECISION: &'static str = "BERTScore-P";
    /// The score of the share of the reference that the hypothesis has.
    pub const RECALL: &'static str = "BERTScore-R";
    /// The score of both.
    pub const F1: &'static str = "BERTScore-F1";
}

impl Metric for EmbeddedBertScore {
    const NAME: &'static str = NAME;
    type Sums = MeanSums;

    fn empty(&self) -> MeanSums {
        MeanSums::new(3)
    }

    fn names(&self) -> Vec<String> {
        [Self::PRECISION, Self::RECALL, Self::F1].map(str::to_owned).to_vec()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> {
        sums.means(NAME)
    }

    fn settings(&self) -> String {
        let Self { model, layer, idf, baseline, swapped } = self;
        let idf = idf.as_deref().unwrap_or("no");
        let baseline = baseline.as_ref().map_or("no".to_owned(), Baseline::signature);
        let swapped = if *swapped { "yes" } else { "no" };
        format!("variant:bert-score|model:{model}|layer:{layer}|idf:{idf}|rescale:{baseline}|swap:{swapped}")
    }
}

#[cfg(test)]
mod tests;
