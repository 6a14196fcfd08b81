//! Per-token scores of targets: what every loss, perplexity and preference is made of.

mod layout;

use tch::{Device, Kind, Reduction, Tensor};

use self::layout::{Text, lay_out};
use crate::batch::{Batch, Limits};
use crate::error::{Error, Result};
use crate::language_model::CausalLm;

/// A batch with the tokens to be scored in it: for each of S target sequences, where each of its tokens is predicted.
///
/// # Shapes
/// M is the number of target tokens of all sequences together.
#[derive(Debug)]
pub struct TargetBatch {
    batch: Batch,
    /// Index into the batch's tokens of the token that predicts each target token, `[M]`.
    predicted_at: Tensor,
    targets: TargetTokens,
}

/// The target tokens of several sequences, one sequence after another.
#[derive(Debug)]
pub(crate) struct TargetTokens {
    /// `[M]`.
    ids: Tensor,
    /// The target tokens of each sequence.
    lens: Vec<usize>,
}

impl TargetTokens {
    /// Checks the tokens and puts them on a device.
    pub(crate) fn new(ids: &[i64], lens: Vec<usize>, limits: Limits, device: Device) -> Result<Self> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= limits.vocabulary) {
            let mut end = 0;
            let row = lens.iter().position(|len| {
                end += len;
                ids[end - len..end].contains(&id)
            });
            return Err(Error::Vocabulary {
                id: id as u32,
                row: row.unwrap_or(0),
                vocabulary: limits.vocabulary,
            });
        }
        Ok(Self { ids: Tensor::f_from_slice(ids)?.f_to_device(device)?, lens })
    }

    pub(crate) fn count(&self) -> usize {
        self.lens.iter().sum()
    }

    pub(crate) fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// The log-probability of every token, `[M]`, under the logits that predict it, `[M, V]`.
    pub(crate) fn log_probs(&self, logits: &Tensor) -> Result<Tensor> {
        token_log_probs(logits, &self.ids)
    }

    /// Sums per sequence, `[S]`, of one number per token, `[M]`.
    pub(crate) fn sums(&self, per_token: &Tensor) -> Result<Tensor> {
        if per_token.numel() != self.count() {
            let (got, want) = (per_token.numel(), self.count());
            return Err(Error::Batch(format!("{got} values for {want} target tokens")));
        }
        let lens: Vec<i64> = self.lens.iter().map(|&len| len as i64).collect();
        let parts = per_token.f_split_with_sizes(lens.as_slice(), 0)?;
        let sums: Vec<Tensor> = parts.iter().map(|part| part.f_sum(Kind::Float)).collect::<Result<_, _>>()?;
        Ok(Tensor::f_stack(&sums, 0)?)
    }
}

/// Collects prompts and targets of a [`TargetBatch`].
#[derive(Debug, Default)]
pub struct TargetBatchBuilder {
    texts: Vec<Text>,
    share: bool,
    problem: Option<String>,
}

impl TargetBatchBuilder {
    /// For a model that will read the batch with this `train`. Prompts that begin alike, as those of one template, persona
    /// or conversation do, then compute that beginning once, where no dropout is drawn (every prompt has its own) and the
    /// model is on the CPU. Losses and gradients are those of separate prompts but for rounding.
    #[must_use]
    pub fn for_model(model: &(impl CausalLm + ?Sized), train: bool) -> Self {
        // On CUDA rows that continue others take a slower kernel of attention; which weighs more has not been measured.
        let share = model.device() == Device::Cpu && !(train && model.has_dropout());
        Self { share, ..Self::default() }
    }

    /// Adds a prompt and the targets that continue it, each to be scored. The prompt is computed once for all of them;
    /// the last token of a target is predicted and never read.
    pub fn prompt(&mut self, prompt: &[u32], targets: &[&[u32]]) {
        if prompt.is_empty() || targets.is_empty() || targets.iter().any(|target| target.is_empty()) {
            let at = self.texts.len();
            self.problem.get_or_insert_with(|| {
                format!("prompt {at}: it and its targets need at least one token each")
            });
            return;
        }
        let targets = targets.iter().map(|target| target.to_vec()).collect();
        self.texts.push(Text { prompt: prompt.to_vec(), targets });
    }

    /// Checks everything and puts it on a device.
    ///
    /// # Errors
    /// [`Error::Batch`] for no prompt, an empty prompt or target; [`Error::Vocabulary`] for an id that the model does not
    /// have and [`Error::TooLong`], both with the prompt's number.
    pub fn build(self, limits: Limits, device: Device) -> Result<TargetBatch> {
        if let Some(problem) = self.problem {
            return Err(Error::Batch(problem));
        }
        for (row, Text { prompt, targets }) in self.texts.iter().enumerate() {
            let longest = targets.iter().map(Vec::len).max().unwrap_or(0);
            let (length, positions) = (prompt.len() + longest.saturating_sub(1), limits.positions);
            if length > positions {
                return Err(Error::TooLong { row, length, positions });
            }
            let mut ids = prompt.iter().chain(targets.iter().flatten());
            if let Some(&id) = ids.find(|&&id| id as usize >= limits.vocabulary) {
                return Err(Error::Vocabulary { id, row, vocabulary: limits.vocabulary });
            }
        }
        let (batch, places) = lay_out(&self.texts, self.share);
        let (mut predicted_at, mut ids, mut lens) = (Vec::new(), Vec::new(), Vec::new());
        for (text, place) in self.texts.iter().zip(&places) {
            for (target, &from) in text.targets.iter().zip(&place.targets) {
                // The first token by the prompt's last one, the others by their predecessors.
                predicted_at.push(place.prompt_end as i64);
                predicted_at.extend((from..from + target.len() - 1).map(|token| token as i64));
                ids.extend(target.iter().map(|&id| i64::from(id)));
                lens.push(target.len());
            }
        }
        Ok(TargetBatch {
            batch: batch.build(limits, device)?,
            predicted_at: Tensor::f_from_slice(&predicted_at)?.f_to_device(device)?,
            targets: TargetTokens::new(&ids, lens, limits, device)?,
        })
    }
}

impl TargetBatch {
    /// The number of target tokens M.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.targets.count()
    }

    /// The number of target tokens of each sequence, in the order in which they were added.
    #[must_use]
    pub fn lens(&self) -> &[usize] {
        self.targets.lens()
    }

    /// The log-probability of every target token, `[M]` in float32, sequence after sequence.
    ///
    /// # Errors
    /// libtorch's.
    pub fn log_probs(&self, model: &dyn CausalLm, train: bool) -> Result<Tensor> {
        self.targets.log_probs(&self.logits(model, train)?)
    }

    /// The logits that predict every target token, `[M, V]` in float32, sequence after sequence.
    ///
    /// # Errors
    /// libtorch's.
    pub fn logits(&self, model: &dyn CausalLm, train: bool) -> Result<Tensor> {
        model.logits(&model.hidden_at(&self.batch, Some(&self.predicted_at), None, train)?)
    }

    /// The target tokens, `[M]`, sequence after sequence.
    pub fn ids(&self) -> &Tensor {
        &self.targets.ids
    }

    /// Sums per sequence, `[S]`, of one number per target token, `[M]`.
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`] when `per_token` has another length.
    pub fn sums(&self, per_token: &Tensor) -> Result<Tensor> {
        self.targets.sums(per_token)
    }
}

/// The id that libtorch's loss would pass over: none, so that any id that is not there is an error.
const NO_ID: i64 = i64::MIN;

/// The log-probability of a token at each of M positions, in float32: `logits [M, V]`, `ids [M]`, result `[M]`.
///
/// This is the one place where logits become log-probabilities; it takes any model's logits.
///
/// # Errors
/// libtorch's, when shapes do not fit.
pub fn token_log_probs(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    // One fused kernel each way; a log-sum-exp beside a gather fills two more tensors of the logits' size.
    let logits = logits.f_to_kind(Kind::Float)?;
    let none = None::<&Tensor>;
    Ok(logits.f_cross_entropy_loss(ids, none, Reduction::None, NO_ID, 0.0)?.f_neg()?)
}
