//! What can go wrong with models, weights and devices.

use std::path::{Path, PathBuf};

use tch::TchError;

use crate::adapters::AdapterId;
use crate::weights::LoadReport;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused an operation: out of memory, or shapes that contradict each other.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),

    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },

    /// A JSON file does not hold what it should.
    #[error("{path}: {source}; the file must be a Hugging Face JSON file of this kind")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        #[source]
        source: serde_json::Error,
    },

    /// A safetensors file is truncated, or its header contradicts its size.
    #[error("{path}: not a valid safetensors file ({source}); fetch or save it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: safetensors::SafeTensorError,
    },

    /// A configuration value is out of range, or two contradict each other.
    #[error("config key `{key}`: {reason}")]
    Config {
        /// The key of `config.json`.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },

    /// A repository of the Hugging Face Hub cannot be had.
    #[error("repository `{repository}`: {reason}")]
    Hub {
        /// Its id.
        repository: String,
        /// What is wrong and what to do.
        reason: String,
    },

    /// The folder holds no weights.
    #[error(
        "{path}: no model.safetensors and no model.safetensors.index.json; pickled weights (.bin, .pt) are not read, convert them with save_pretrained(safe_serialization=True)"
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },

    /// A sharded checkpoint's index contradicts its shards.
    #[error("{path}: {reason}")]
    Shards {
        /// The index or shard file.
        path: PathBuf,
        /// Which tensor or shard, and what is wrong.
        reason: String,
    },

    /// The weights are not those of the configuration.
    #[error("{path}: the weights do not fit the model of config.json: {report}")]
    Load {
        /// The folder or file.
        path: PathBuf,
        /// Every tensor that is missing, unexpected or of another shape.
        report: Box<LoadReport>,
    },

    /// A device was asked for that is not there.
    #[error("device `{asked}`: {reason}")]
    Device {
        /// The name that was given.
        asked: String,
        /// Why it cannot be had and what to do.
        reason: String,
    },

    /// A token id is not in the model's vocabulary.
    #[error(
        "token id {id} in row {row} is outside the model's vocabulary of {vocabulary}; is this the tokenizer of this checkpoint?"
    )]
    Vocabulary {
        /// The id.
        id: u32,
        /// The row of the batch.
        row: usize,
        /// The number of embeddings.
        vocabulary: usize,
    },

    /// A row is longer than the model's positions.
    #[error(
        "row {row} has {length} tokens, the model has {positions} positions; shorten the prompt or the history"
    )]
    TooLong {
        /// The row of the batch.
        row: usize,
        /// Its tokens, those in the cache included.
        length: usize,
        /// `n_positions` of the model.
        positions: usize,
    },

    /// A weight cannot be quantised, or not be used as asked because it is.
    #[error("{tensor}: {reason}")]
    Quantized {
        /// The weight.
        tensor: String,
        /// What is wrong and what to do.
        reason: String,
    },

    /// An adapter was asked for that the model does not hold.
    #[error("{0:?} is not held by this model; was it removed, or is it another model's?")]
    Adapter(AdapterId),

    /// An adapter's own embeddings have another number of rows than the model's.
    #[error(
        "{path}: {tensor} has {file} rows, the model's vocabulary {model}; resize the model's embeddings to {file} first (resize_embeddings)"
    )]
    EmbeddingRows {
        /// The adapter's file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its rows.
        file: usize,
        /// The rows of the model's embeddings.
        model: usize,
    },

    /// A batch cannot be built or used as asked.
    #[error("batch: {0}")]
    Batch(String),
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn json(path: impl AsRef<Path>) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Json { path, source }
    }
}
