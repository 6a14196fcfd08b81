//! What can go wrong in training.

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model refused a batch, or its weights could not be read or written.
    #[error(transparent)]
    Model(#[from] persona_model::Error),

    /// libtorch refused an operation: out of memory, or shapes that contradict each other.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),

    /// A setting is out of range.
    #[error("training setting `{key}`: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },

    /// There is nothing to train on.
    #[error("no training examples; check the data and the split")]
    NoData,

    /// The loss or its gradient is not a number, or infinite. Nothing was updated by this step.
    #[error(
        "step {step}: the {what} is {value}, in rows {rows}; lower the learning rate, clip the gradient, look at these rows, or let `skip_non_finite` steps be skipped"
    )]
    NonFinite {
        /// The optimiser step, from 1.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The ids of the examples in the batch.
        rows: String,
    },

    /// The loss on data that nothing is learned from is not a number, or infinite.
    #[error("{place}: the loss is {value}, in rows {rows}; look at these rows, and at the model")]
    NonFiniteEvaluation {
        /// `evaluation`, in a training with the step that it is after.
        place: String,
        /// The sum of the losses of these rows.
        value: f64,
        /// The ids of the examples that were computed together.
        rows: String,
    },

    /// What early stopping watches is not a number, or infinite.
    #[error(
        "step {step}: `{metric}`, which early stopping watches, is {value}; watch something that always has a value, or leave `early_stopping` out"
    )]
    Watched {
        /// The optimiser step, from 1.
        step: u64,
        /// The name of what is watched.
        metric: String,
        /// Its value.
        value: f64,
    },

    /// The objective refused some examples.
    #[error("{place}, in rows {rows}: {error}")]
    Rows {
        /// `step N`, or `evaluation`, in a training with the step that it is after.
        place: String,
        /// The ids of the examples that were computed together.
        rows: String,
        /// What is wrong with one of them.
        error: Box<Error>,
    },

    /// Gradients that are not those of the parameters.
    #[error("gradient {at}: {reason}")]
    Gradient {
        /// The parameter's place in storage order, from 0.
        at: usize,
        /// What does not fit.
        reason: String,
    },

    /// Another process trains in this folder.
    #[error("{path}: another process trains in this folder; wait for it, or train in another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },

    /// A file of the run could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },

    /// A checkpoint or the log is damaged, lacks a part or is not ours, and no checkpoint before it is whole.
    #[error("{path}: {reason}")]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// The folder holds a run with other settings or data.
    #[error(
        "{path}: a checkpoint of another run: {difference}; continue it with its own settings, or train in another folder"
    )]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// What differs, each with both values.
        difference: String,
    },

    /// An objective or evaluator failed in a way of its own.
    #[error("{0}")]
    Objective(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an objective's or evaluator's own error.
    pub fn objective(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Objective(Box::new(error))
    }

    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }
}
