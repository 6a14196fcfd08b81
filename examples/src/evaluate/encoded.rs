//! The metrics of an encoder: BERTScore and sentence similarity.

use std::path::Path;

use anyhow::{Context, Result};
use persona_metrics::model::{LongTexts, TextEncoder};
use persona_metrics::suite::{Compared, Measured, Record, Sampling};
use persona_metrics::{
    BertScore, EmbeddedBertScore, EmbeddedSimilarity, EmbeddingSimilarity, Examples, Metric, Statistics,
};
use tch::{Device, Kind};

use super::Read;

/// Loads an encoder in the Hugging Face layout. BERTScore compares the vectors of `layer`, or of the last. Texts that are
/// too long are cut, which signatures say.
///
/// # Errors
/// What persona-metrics, persona-model and persona-data have against the folder; a layer that the model does not have.
pub fn load_encoder(folder: &Path, layer: Option<usize>, device: Device, kind: Kind) -> Result<TextEncoder> {
    let encoder = TextEncoder::load(folder, device, kind)
        .with_context(|| format!("the encoder {}", folder.display()))?
        .long_texts(LongTexts::Cut);
    Ok(match layer {
        Some(layer) => encoder.layer(layer)?,
        None => encoder,
    })
}

/// The examples of a file, encoded once: scores, intervals and tests come from them.
pub(super) struct Encoded {
    bert_score: Examples<EmbeddedBertScore>,
    similarity: Examples<EmbeddedSimilarity>,
    statistics: (Statistics<EmbeddedBertScore>, Statistics<EmbeddedSimilarity>),
}

impl Encoded {
    /// Encodes the predictions and references of a file. Similarity is with the first reference.
    pub(super) fn of(encoder: &TextEncoder, path: &Path, read: &Read) -> Result<Self> {
        let records = read.in_memory(path, "BERTScore and similarity")?;
        let predictions: Vec<&str> = records.iter().map(|record| record.prediction.as_str()).collect();
        let references: Vec<&[String]> = records.iter().map(|record| record.references.as_slice()).collect();
        let first = super::first_references(path, records)?;
        let file = || path.display().to_string();
        let bert_score = BertScore::default();
        let bert_score = bert_score.examples(encoder, &predictions, &references).with_context(file)?;
        let similarity = EmbeddingSimilarity::default();
        let similarity = similarity.examples(encoder, &predictions, &first).with_context(file)?;
        let statistics = (
            bert_score.statistics(references.iter().map(|references| references.len()))?,
            similarity.statistics(records.iter().map(|_: &Record| 1))?,
        );
        Ok(Self { bert_score, similarity, statistics })
    }

    pub(super) fn measured(&self, sampling: &Sampling) -> Result<Vec<Measured>> {
        let mut measured = of(&self.bert_score, &self.statistics.0, sampling)?;
        measured.extend(of(&self.similarity, &self.statistics.1, sampling)?);
        Ok(measured)
    }

    /// Pairs by the cosine of their sentences, as [`Statistics::histogram`] counts them.
    pub(super) fn histogram(&self) -> [u64; 6] {
        self.statistics.1.histogram()
    }

    pub(super) fn compared(&self, other: &Self, sampling: &Sampling) -> Result<Vec<Compared>> {
        let mut compared = against(&self.bert_score, &other.bert_score, sampling)?;
        compared.extend(against(&self.similarity, &other.similarity, sampling)?);
        Ok(compared)
    }
}

fn of<M: Metric>(
    examples: &Examples<M>,
    statistics: &Statistics<M>,
    sampling: &Sampling,
) -> Result<Vec<Measured>> {
    let scores = statistics.scores()?.into_iter().zip(sampling.intervals(examples)?);
    Ok(scores.map(|(score, interval)| Measured { score, interval }).collect())
}

fn against<M: Metric>(one: &Examples<M>, other: &Examples<M>, sampling: &Sampling) -> Result<Vec<Compared>> {
    Ok(sampling.tests(one.names(), &one.clone().joined(other.clone())?)?)
}
