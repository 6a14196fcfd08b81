//! Aligning a language model with preferences.
//!
//! The core takes tensors of log-probabilities and gives losses and rewards; it depends on tch alone, so that it can
//! stand in anybody's research code:
//!
//! ```
//! use persona_align::{PairLogProbs, PreferenceLoss};
//! use tch::Tensor;
//!
//! let policy = PairLogProbs::from_sums(Tensor::from_slice(&[-12.0f32]), Tensor::from_slice(&[-15.0f32]))?;
//! let reference = PairLogProbs::from_sums(Tensor::from_slice(&[-13.0f32]), Tensor::from_slice(&[-14.5f32]))?;
//! let output = PreferenceLoss::sigmoid(0.1).evaluate(&policy, &reference)?;
//! assert!((output.loss.double_value(&[]) - 0.6210).abs() < 1e-4);
//! # Ok::<(), persona_align::Error>(())
//! ```
//!
//! # Features
//! - `pairs`: building preference pairs from any generator of replies, as PAL does; files that TRL reads.
//! - `trainer` (default): the preference objective for persona-train's loop, the reference's log-probabilities cached.

mod error;
mod log_probs;
mod loss;
#[cfg(feature = "pairs")]
mod pairs;
#[cfg(feature = "trainer")]
mod preference;

pub use error::{Error, Result};
pub use log_probs::{PairLogProbs, TokenLogProbs};
pub use loss::{PreferenceLoss, PreferenceMetrics, PreferenceOutput};
#[cfg(feature = "pairs")]
pub use pairs::{Pair, PairBuilder, PairOptions, PairReport, read_pairs, write_pairs};
#[cfg(feature = "trainer")]
pub use preference::{Preference, ReferencedPair, reference_log_probs};
