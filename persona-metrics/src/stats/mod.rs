//! Statistics beside the scores.

use crate::error::Result;

/// A corpus whose examples can be drawn again.
pub trait Resample: Sync {
    /// Number of examples.
    fn len(&self) -> usize;

    /// Whether there is no example.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scores of the corpus made of the examples at these indexes; an index that comes twice counts twice.
    ///
    /// # Errors
    /// An index that is out of range, or a score without a value for this corpus.
    fn scores_of(&self, indexes: &[u32]) -> Result<Vec<f64>>;
}
