//! What can go wrong with losses and pairs.

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),

    /// Two tensors that belong together have different shapes.
    #[error("{what}: shape {found:?}, expected {expected:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// Its shape.
        found: Vec<i64>,
        /// What it should be.
        expected: Vec<i64>,
    },

    /// An option is out of range.
    #[error("option `{name}` is {value}; {range}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },

    /// A loss needs what the log-probabilities do not hold.
    #[error("{needed_by} needs {what}; {how}")]
    Missing {
        /// What is not there.
        what: &'static str,
        /// Which loss or option asks for it.
        needed_by: String,
        /// How to give it.
        how: &'static str,
    },

    /// Options that contradict each other.
    #[error("{0}")]
    Combination(String),

    /// A log-probability is not a number, or infinite.
    #[error(
        "{what}: {value} in row {row}; are there logits that are not finite, or a token of probability 0?"
    )]
    NonFinite {
        /// Whose log-probabilities.
        what: &'static str,
        /// The row, from 0.
        row: usize,
        /// The value.
        value: f64,
    },

    /// A response without tokens.
    #[error("mask: row {row} has no token; a response has one at least, its end")]
    EmptyResponse {
        /// The row, from 0.
        row: usize,
    },

    /// A file of pairs could not be read or written.
    #[cfg(feature = "pairs")]
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },

    /// A line of a file of pairs is not a pair.
    #[cfg(feature = "pairs")]
    #[error(
        "{path}:{line}: {source}; a line holds {{\"prompt\": ..., \"chosen\": ..., \"rejected\": ...}}, each a text or a list of messages"
    )]
    Line {
        /// The file.
        path: std::path::PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },

    /// A file that holds no pair.
    #[cfg(feature = "pairs")]
    #[error("{path}: no pair in it; was building the pairs interrupted, or were all dropped?")]
    NoPairs {
        /// The file.
        path: std::path::PathBuf,
    },

    /// An example whose relevant descriptions nobody has named, so that the pair's prompt cannot be written.
    #[cfg(feature = "pairs")]
    #[error(
        "example {id} is not labelled; label the dialogues first, an empty list meaning that no description applies"
    )]
    Unlabelled {
        /// The example.
        id: String,
    },

    /// The generator of replies failed or gave another number of replies than it was asked for.
    #[cfg(feature = "pairs")]
    #[error("generating replies: {0}")]
    Generator(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// The judge of replies failed, gave another number of scores than it was asked for, or one that is not finite.
    #[cfg(feature = "pairs")]
    #[error("judging replies: {0}")]
    Judge(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// The examples could not be turned into prompts.
    #[cfg(feature = "pairs")]
    #[error(transparent)]
    Data(#[from] persona_data::Error),

    /// The model refused a batch.
    #[cfg(feature = "trainer")]
    #[error(transparent)]
    Model(#[from] persona_model::Error),

    /// Some examples could not be scored.
    #[cfg(feature = "trainer")]
    #[error("reference log-probabilities, in rows {rows}: {error}")]
    Rows {
        /// The ids of the examples that were computed together; a place in the list, from 0, for one without an id.
        rows: String,
        /// What is wrong with one of them.
        error: Box<Error>,
    },

    /// Cached reference log-probabilities do not belong to this model and these pairs.
    #[cfg(feature = "trainer")]
    #[error("{path}: {reason}; remove the file to compute them again")]
    Reference {
        /// The file.
        path: std::path::PathBuf,
        /// What does not fit.
        reason: String,
    },
}
