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
//! # Which loss
//! - [`PreferenceLoss`]: chosen and rejected against a reference, DPO and all of its kin ([`LossType`]), also weighted
//!   sums of them, with another [`Divergence`], less weight for what is longer (LD-DPO), or weighted pairs (WPO).
//! - [`ReferenceFreeLoss`]: chosen and rejected alone. SimPO, CPO, ORPO.
//! - [`UnpairedLoss`]: single responses that are desirable or not, against a reference. KTO.
//! - [`losses`]: each formula as a function of tensors, with its paper.
//!
//! Sums of log-probabilities are enough for most ([`PairLogProbs::from_sums`]). [`TokenLogProbs`] takes tokens and a mask,
//! or logits, and serves all; [`TokenStatistics`] add what WPO and some metrics read of whole distributions.
//!
//! # Features
//! - `pairs`: building preference pairs from any generator of replies, as PAL does; files that TRL reads.
//! - `trainer` (default): the preference objective for persona-train's loop, the reference's log-probabilities cached.

mod error;
mod log_probs;
mod loss;
mod loss_type;
pub mod losses;
mod metrics;
mod options;
#[cfg(feature = "pairs")]
mod pairs;
#[cfg(feature = "trainer")]
mod preference;
#[cfg(feature = "trainer")]
mod reference;
mod reference_free;
mod statistics;
mod unpaired;
#[cfg(feature = "trainer")]
mod unpaired_preference;

pub use error::{Error, Result};
pub use log_probs::{PairLogProbs, TokenLogProbs};
pub use loss::{PreferenceLoss, PreferenceOutput};
pub use loss_type::LossType;
pub use losses::Divergence;
pub use metrics::{Metric, PreferenceMetrics};
#[cfg(feature = "pairs")]
pub use pairs::{
    ConversationPair, Judged, Pair, PairBuilder, PairOptions, PairReport, PreferenceRecord, RejectedFrom,
    ReplyJudge, read_pairs, read_preferences, write_pairs, write_preferences,
};
#[cfg(feature = "trainer")]
pub use preference::{PairItem, Preference};
#[cfg(feature = "trainer")]
pub use reference::{LiveReference, Reference, ReferencedPair, reference_log_probs, reference_log_probs_of};
pub use reference_free::ReferenceFreeLoss;
pub use statistics::TokenStatistics;
pub use unpaired::{UnpairedLogProbs, UnpairedLoss, UnpairedOutput};
#[cfg(feature = "trainer")]
pub use unpaired_preference::{
    LabelledReply, ReferencedReply, UnpairedPreference, unpaired_reference_log_probs,
};
