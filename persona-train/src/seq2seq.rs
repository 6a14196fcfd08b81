//! The multi-task objective of encoder-decoders.

use persona_data::{EncodedExample, Task};
use persona_model::{EncoderDecoder, Seq2SeqBatchBuilder};

use crate::error::Result;
use crate::objective::{Contribution, Objective};
use crate::tasks::{self, TaskWeights};

/// As [`NextToken`](crate::NextToken) for an encoder-decoder, which reads an example's source and writes its target: the
/// mean negative log-likelihood of target tokens, EOS among them, over all tasks of the pool.
#[derive(Debug)]
pub struct Seq2Seq<M> {
    model: M,
    weights: TaskWeights,
}

impl<M: EncoderDecoder> Seq2Seq<M> {
    /// With weight 1 for every task.
    pub fn new(model: M) -> Self {
        Self { model, weights: TaskWeights::default() }
    }

    /// Sets a task's weight.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) unless the weight is above 0 and finite; a task to be left out is left
    /// out of the data.
    pub fn weight(mut self, task: Task, weight: f64) -> Result<Self> {
        self.weights.set(task, weight)?;
        Ok(self)
    }

    /// The model, after training.
    pub fn into_model(self) -> M {
        self.model
    }
}

impl<M: EncoderDecoder> Objective for Seq2Seq<M> {
    type Item = EncodedExample;
    type Model = M;

    fn model(&self) -> &M {
        &self.model
    }

    fn model_mut(&mut self) -> &mut M {
        &mut self.model
    }

    fn describe(&self) -> String {
        self.weights.describe("sequence to sequence")
    }

    fn unit(&self) -> &'static str {
        tasks::UNIT
    }

    fn id<'a>(&self, item: &'a EncodedExample) -> &'a str {
        &item.id
    }

    fn tokens(&self, item: &EncodedExample) -> usize {
        tasks::tokens(item)
    }

    fn digest(&self, item: &EncodedExample, sink: &mut dyn FnMut(&[u8])) {
        tasks::digest(item, sink);
    }

    fn count(&self, items: &[&EncodedExample]) -> f64 {
        self.weights.count(items)
    }

    fn evaluate(&self, items: &[&EncodedExample], train: bool) -> Result<Contribution> {
        let mut builder = Seq2SeqBatchBuilder::default();
        for item in items {
            builder.source(&item.source, &[&item.target]);
        }
        let batch = builder.build(&self.model)?;
        let per_token = batch.log_probs(&self.model, train)?.f_neg()?;
        let sums = Vec::<f64>::try_from(batch.sums(&per_token.detach())?)?;
        self.weights.contribution(items, &per_token, &sums)
    }
}
