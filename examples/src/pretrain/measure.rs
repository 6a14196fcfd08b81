//! How well the model knows held-out turns, beside models of words.

use anyhow::{Result, ensure};
use persona_data::Dialogue;
use persona_model::{CausalLm, TargetBatchBuilder};
use serde::{Deserialize, Serialize};

use super::documents::Document;
use super::ngram::NgramModel;

/// Perplexities per word of held-out turns: words and ends of turns are what is counted, by one rule for all models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Perplexities {
    /// Held-out turns in the documents.
    pub turns: usize,
    /// Of these, with a word that no training turn holds: they are read, and count for none of the models.
    pub unknown: usize,
    /// Words and ends of turns of the others.
    pub events: usize,
    /// Tokens of the same.
    pub tokens: usize,
    /// The model's, which reads the persona and the turns before.
    pub model: f64,
    /// The 5-gram's, which reads four words back, to the beginning of the turn at most.
    pub ngram: f64,
    /// That of relative frequencies.
    pub unigram: f64,
    /// Different words of the training turns.
    pub vocabulary: usize,
    /// Words and ends of turns that the word models counted.
    pub counted: u64,
}

/// Documents scored together.
const BATCH: usize = 8;

/// Measures a model on documents, each with its dialogue; `ngrams` has counted the training turns.
///
/// # Errors
/// The model's; when no turn can be scored.
pub fn perplexities(
    model: &dyn CausalLm,
    documents: &[(&Document, &Dialogue)],
    ngrams: &NgramModel,
) -> Result<Perplexities> {
    let _no_grad = tch::no_grad_guard();
    let (mut sums, mut nats) = (Perplexities::none(ngrams), [0.0; 3]);
    for part in documents.chunks(BATCH) {
        let mut builder = TargetBatchBuilder::default();
        for (document, _) in part {
            let (first, rest) = document.ids.split_at(1.min(document.ids.len()));
            builder.prompt(first, &[rest]);
        }
        let batch = builder.build(model.limits(), model.device())?;
        let scores = Vec::<f64>::try_from(batch.log_probs(model, false)?.f_to_kind(tch::Kind::Double)?)?;
        let mut rows = scores.as_slice();
        for ((document, dialogue), &length) in part.iter().zip(batch.lens()) {
            let (row, others) = rows.split_at_checked(length).unwrap_or((rows, &[]));
            rows = others;
            for (range, at) in document.turns.iter().zip(document.of.clone()) {
                sums.turns += 1;
                let text = dialogue.turns.get(at).map_or("", |turn| turn.text.as_str());
                let Some(score) = ngrams.score(text) else {
                    sums.unknown += 1;
                    continue;
                };
                sums.events += score.events;
                sums.tokens += range.len();
                // The first token of a document is not predicted.
                let own = row.get(range.start - 1..range.end - 1).unwrap_or_default();
                nats[0] -= own.iter().sum::<f64>();
                nats[1] -= score.ngram;
                nats[2] -= score.unigram;
            }
        }
    }
    ensure!(sums.events > 0, "no held-out turn has only words of the training turns; give more dialogues");
    [sums.model, sums.ngram, sums.unigram] = nats.map(|nats| (nats / sums.events as f64).exp());
    Ok(sums)
}

impl Perplexities {
    fn none(ngrams: &NgramModel) -> Self {
        Self {
            turns: 0,
            unknown: 0,
            events: 0,
            tokens: 0,
            model: f64::NAN,
            ngram: f64::NAN,
            unigram: f64::NAN,
            vocabulary: ngrams.vocabulary(),
            counted: ngrams.events(),
        }
    }
}
