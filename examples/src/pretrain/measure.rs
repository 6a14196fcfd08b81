//! How well the model knows held-out turns, beside models of words.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use persona_data::Dialogue;
use persona_model::{CausalLm, TargetBatchBuilder};
use serde::Serialize;
use tch::Kind;

use super::documents::Document;
use super::ngram::NgramModel;

/// Perplexities per word of held-out turns: words and ends of turns are what is counted, by one rule for all models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexities {
    /// Of all that are counted.
    pub all: Perplexity,
    /// Of those that stand in no training dialogue word for word.
    pub new: Perplexity,
    /// Turns with a word that no training turn holds: they are read, and count for none of the models.
    pub unknown: usize,
    /// Different words of the training turns.
    pub vocabulary: usize,
    /// Words and ends of turns that the word models counted.
    pub counted: u64,
}

/// Perplexities per word of some turns; NaN (`null` in JSON) for none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// The turns.
    pub turns: usize,
    /// Their words and ends.
    pub events: usize,
    /// Tokens of the same.
    pub tokens: usize,
    /// The model's, which reads the persona and the turns before.
    pub model: f64,
    /// The 5-gram's, which reads four words back, to the beginning of the turn at most.
    pub ngram: f64,
    /// That of relative frequencies.
    pub unigram: f64,
}

/// Perplexities that are still sums.
#[derive(Debug, Default)]
struct Sums {
    turns: usize,
    events: usize,
    tokens: usize,
    nats: [f64; 3],
}

impl Sums {
    fn add(&mut self, events: usize, tokens: usize, nats: [f64; 3]) {
        self.turns += 1;
        self.events += events;
        self.tokens += tokens;
        self.nats.iter_mut().zip(nats).for_each(|(sum, nats)| *sum += nats);
    }

    fn perplexity(&self) -> Perplexity {
        let &Self { turns, events, tokens, nats } = self;
        let [model, ngram, unigram] = nats.map(|nats| (nats / events as f64).exp());
        Perplexity { turns, events, tokens, model, ngram, unigram }
    }
}

/// Documents scored together.
const BATCH: usize = 8;

/// Measures a model on documents, each with its dialogue, beside models of the training dialogues' turns.
///
/// # Errors
/// The model's; when no turn can be scored.
pub fn perplexities(
    model: &dyn CausalLm,
    documents: &[(&Document, &Dialogue)],
    train: &[Dialogue],
) -> Result<Perplexities> {
    let _no_grad = tch::no_grad_guard();
    let read = || train.iter().flat_map(|dialogue| &dialogue.turns).map(|turn| turn.text.as_str());
    let ngrams = NgramModel::train(read());
    let read: HashSet<&str> = read().collect();
    let (mut all, mut new, mut unknown) = (Sums::default(), Sums::default(), 0);
    for part in documents.chunks(BATCH) {
        let mut builder = TargetBatchBuilder::default();
        for (document, _) in part {
            let (first, rest) = document.ids.split_at(1.min(document.ids.len()));
            builder.prompt(first, &[rest]);
        }
        let batch = builder.build(model.limits(), model.device())?;
        let scores = Vec::<f64>::try_from(batch.log_probs(model, false)?.f_to_kind(Kind::Double)?)?;
        let mut rows = scores.as_slice();
        for ((document, dialogue), &length) in part.iter().zip(batch.lens()) {
            let (row, others) = rows.split_at_checked(length).unwrap_or((rows, &[]));
            rows = others;
            for (range, at) in document.turns.iter().zip(document.of.clone()) {
                let text = dialogue.turns.get(at).map_or("", |turn| turn.text.as_str());
                let Some(score) = ngrams.score(text) else {
                    unknown += 1;
                    continue;
                };
                // The first token of a document is not predicted.
                let own = row.get(range.start - 1..range.end - 1).unwrap_or_default();
                let nats = [-own.iter().sum::<f64>(), -score.ngram, -score.unigram];
                all.add(score.events, range.len(), nats);
                if !read.contains(text) {
                    new.add(score.events, range.len(), nats);
                }
            }
        }
    }
    ensure!(all.events > 0, "no held-out turn has only words of the training turns; give more dialogues");
    Ok(Perplexities {
        all: all.perplexity(),
        new: new.perplexity(),
        unknown,
        vocabulary: ngrams.vocabulary(),
        counted: ngrams.events(),
    })
}
