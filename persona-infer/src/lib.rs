//! Decoding, and Select-then-Generate.
mod decoder;
mod error;
mod sampling;

pub use decoder::Decoder;
pub use error::{Error, Result};
pub use sampling::DecodeConfig;
