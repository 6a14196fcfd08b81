//! How a run ends.

use crate::checkpoint::Best;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Steps taken, those of earlier calls included.
    pub steps: u64,
    /// How many of them changed nothing because something was not finite.
    pub skipped: u64,
    /// Why it ended.
    pub end: End,
    /// The best evaluation, where early stopping watches one.
    pub best: Option<Best>,
    /// The last evaluation, by name.
    pub evaluation: Vec<(String, f64)>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps were taken.
    Finished,
    /// The watched value no longer improved; the model holds the best weights.
    EarlyStopped,
    /// Somebody asked it to stop; the next call continues.
    Interrupted,
}
