//! What can go wrong in decoding.

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model refused a batch.
    #[error(transparent)]
    Model(#[from] persona_model::Error),

    /// libtorch refused an operation: out of memory above all.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),

    /// A prompt could not be rendered or encoded.
    #[error(transparent)]
    Data(#[from] persona_data::Error),

    /// A setting is out of range.
    #[error("decoding setting `{key}`: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },

    /// A prompt cannot be continued.
    #[error("prompt {index}: {reason}")]
    Prompt {
        /// The prompt's index among those given, from 0.
        index: usize,
        /// What is wrong and what to do.
        reason: String,
    },

    /// The model's logits are not numbers.
    #[error(
        "prompt {index}: the model gives {value} as a logit after {tokens} new tokens; its weights are damaged or its training diverged"
    )]
    NonFinite {
        /// The prompt's index among those given, from 0.
        index: usize,
        /// Tokens generated before.
        tokens: usize,
        /// The value.
        value: f32,
    },

    /// The settings rule out every token.
    #[error(
        "prompt {index}: no token is left after {tokens} new tokens; allow repeated n-grams, or lower the minimum length"
    )]
    NoToken {
        /// The prompt's index among those given, from 0.
        index: usize,
        /// Tokens generated before.
        tokens: usize,
    },
}
