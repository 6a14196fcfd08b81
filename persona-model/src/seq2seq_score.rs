//! Per-token scores of targets under an encoder-decoder.

use tch::Tensor;

use crate::batch::{Batch, BatchBuilder};
use crate::encoder_decoder::{EncoderDecoder, Memory};
use crate::error::{Error, Result};
use crate::score::TargetTokens;

/// Sources and the targets to be scored after them, as [`TargetBatch`](crate::TargetBatch) is for a causal model.
///
/// # Shapes
/// M is the number of target tokens of all sequences together.
#[derive(Debug)]
pub struct Seq2SeqBatch {
    source: Batch,
    target: Batch,
    tokens: TargetTokens,
}

/// Collects sources and targets of a [`Seq2SeqBatch`].
#[derive(Debug, Default)]
pub struct Seq2SeqBatchBuilder {
    source: BatchBuilder,
    sources: usize,
    targets: Vec<Vec<u32>>,
    source_of: Vec<usize>,
    problem: Option<String>,
}

impl Seq2SeqBatchBuilder {
    /// Adds a source and the targets that are written after it, each to be scored. The source is encoded once for all.
    pub fn source(&mut self, source: &[u32], targets: &[&[u32]]) {
        if source.is_empty() || targets.is_empty() || targets.iter().any(|target| target.is_empty()) {
            let at = self.sources;
            self.problem.get_or_insert_with(|| {
                format!("source {at}: a source and its targets need at least one token each")
            });
        }
        self.source.row(source);
        self.source_of.extend(targets.iter().map(|_| self.sources));
        self.targets.extend(targets.iter().map(|target| target.to_vec()));
        self.sources += 1;
    }

    /// Checks everything and puts it on the model's device.
    ///
    /// # Errors
    /// As [`BatchBuilder::build`]; [`Error::Batch`] for an empty source or target, [`Error::Vocabulary`] for a target id
    /// that the model does not have.
    pub fn build(self, model: &(impl EncoderDecoder + ?Sized)) -> Result<Seq2SeqBatch> {
        if let Some(problem) = self.problem {
            return Err(Error::Batch(problem));
        }
        let (limits, device) = (model.limits(), model.device());
        let ids: Vec<i64> = self.targets.iter().flatten().map(|&id| i64::from(id)).collect();
        let lens = self.targets.iter().map(Vec::len).collect();
        let tokens = TargetTokens::new(&ids, lens, limits, device)?;
        let mut target = BatchBuilder::default();
        for mut row in self.targets {
            // The last token is predicted and never read.
            row.rotate_right(1);
            row[0] = model.start_token();
            target.row(&row);
        }
        let target = target.build(limits, device)?.with_sources(self.source_of)?;
        Ok(Seq2SeqBatch { source: self.source.build(limits, device)?, target, tokens })
    }
}

impl Seq2SeqBatch {
    /// The number of target tokens M.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.tokens.count()
    }

    /// The number of target tokens of each sequence, in the order in which they were added.
    #[must_use]
    pub fn lens(&self) -> &[usize] {
        self.tokens.lens()
    }

    /// The log-probability of every target token, `[M]` in float32, sequence after sequence.
    ///
    /// # Errors
    /// libtorch's.
    pub fn log_probs(&self, model: &(impl EncoderDecoder + ?Sized), train: bool) -> Result<Tensor> {
        let encoded = model.encode(&self.source, train)?;
        let hidden = model.decode(&self.target, Memory::Encoded(&encoded), train)?;
        self.tokens.log_probs(&model.logits(&hidden)?)
    }

    /// Sums per sequence, `[S]`, of one number per target token, `[M]`.
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`] when `per_token` has another length.
    pub fn sums(&self, per_token: &Tensor) -> Result<Tensor> {
        self.tokens.sums(per_token)
    }
}
