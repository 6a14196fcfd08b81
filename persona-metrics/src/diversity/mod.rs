//! Diversity of a corpus of replies.

mod distinct;
mod entropy;

pub use self::distinct::Distinct;
pub use self::entropy::Entropy;
