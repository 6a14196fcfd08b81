//! The losses of pairs by name.

use std::fmt;

use crate::error::Result;
use crate::options;

/// One loss of pairs, without its `beta`. The functions of [`losses`](crate::losses) give formula and paper of each.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum LossType {
    /// [`losses::sigmoid`](crate::losses::sigmoid): DPO.
    Sigmoid,
    /// [`losses::conservative`](crate::losses::conservative): DPO where labels are wrong with this probability, below one half.
    Conservative(f64),
    /// [`losses::hinge`](crate::losses::hinge): SLiC.
    Hinge,
    /// [`losses::ipo`](crate::losses::ipo): IPO, means over tokens.
    Ipo,
    /// [`losses::exo_pair`](crate::losses::exo_pair): EXO, with its label smoothing above 0 and below one half.
    ExoPair(f64),
    /// [`losses::nca_pair`](crate::losses::nca_pair): NCA.
    NcaPair,
    /// [`losses::robust`](crate::losses::robust): DPO unbiased under flipped labels, with their probability below one half.
    Robust(f64),
    /// [`losses::bco_pair`](crate::losses::bco_pair): BCO, with the shift of its rewards; TRL's is 0.
    BcoPair(f64),
    /// [`losses::sppo_hard`](crate::losses::sppo_hard): SPPO.
    SppoHard,
    /// [`losses::aot`](crate::losses::aot): AOT, with its label smoothing below one half. Couples the pairs of a step.
    Aot(f64),
    /// [`losses::aot_unpaired`](crate::losses::aot_unpaired): AOT without pairs, with its label smoothing below one half. Couples the pairs of a step.
    AotUnpaired(f64),
    /// [`losses::apo_zero`](crate::losses::apo_zero): APO-zero.
    ApoZero,
    /// [`losses::apo_down`](crate::losses::apo_down): APO-down.
    ApoDown,
    /// [`losses::discopop`](crate::losses::discopop): DiscoPOP, with its temperature; 0.05 in the paper.
    DiscoPop(f64),
    /// [`losses::sft`](crate::losses::sft): likelihood of the chosen response, a mean over tokens. The reference enters the metrics alone.
    Sft,
    /// [`losses::sigmoid_norm`](crate::losses::sigmoid_norm): DPO of means over tokens.
    SigmoidNorm,
}

impl LossType {
    /// The loss of a name of TRL's `loss_type`. `label_smoothing` is read by `exo_pair`, `robust`, `aot` and
    /// `aot_unpaired`, and by our `conservative`; DiscoPOP's temperature is the paper's.
    #[must_use]
    pub fn from_name(name: &str, label_smoothing: f64) -> Option<Self> {
        Some(match name {
            "sigmoid" => Self::Sigmoid,
            "conservative" => Self::Conservative(label_smoothing),
            "hinge" => Self::Hinge,
            "ipo" => Self::Ipo,
            "exo_pair" => Self::ExoPair(label_smoothing),
            "nca_pair" => Self::NcaPair,
            "robust" => Self::Robust(label_smoothing),
            "bco_pair" => Self::BcoPair(0.0),
            "sppo_hard" => Self::SppoHard,
            "aot" => Self::Aot(label_smoothing),
            "aot_unpaired" => Self::AotUnpaired(label_smoothing),
            "apo_zero" => Self::ApoZero,
            "apo_down" => Self::ApoDown,
            "discopop" => Self::DiscoPop(0.05),
            "sft" => Self::Sft,
            "sigmoid_norm" => Self::SigmoidNorm,
            _ => return None,
        })
    }

    /// TRL's name; `conservative` is ours.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Conservative(_) => "conservative",
            Self::Hinge => "hinge",
            Self::Ipo => "ipo",
            Self::ExoPair(_) => "exo_pair",
            Self::NcaPair => "nca_pair",
            Self::Robust(_) => "robust",
            Self::BcoPair(_) => "bco_pair",
            Self::SppoHard => "sppo_hard",
            Self::Aot(_) => "aot",
            Self::AotUnpaired(_) => "aot_unpaired",
            Self::ApoZero => "apo_zero",
            Self::ApoDown => "apo_down",
            Self::DiscoPop(_) => "discopop",
            Self::Sft => "sft",
            Self::SigmoidNorm => "sigmoid_norm",
        }
    }

    /// Whether the loss of a pair depends on the other pairs.
    #[must_use]
    pub fn couples_batch(self) -> bool {
        matches!(self, Self::Aot(_) | Self::AotUnpaired(_))
    }

    /// Whether it reads the scores that a divergence makes, or nothing of the reference at all.
    pub(crate) fn knows_divergences(self) -> bool {
        !matches!(
            self,
            Self::NcaPair
                | Self::BcoPair(_)
                | Self::SppoHard
                | Self::Aot(_)
                | Self::AotUnpaired(_)
                | Self::ApoZero
                | Self::ApoDown
        )
    }

    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Conservative(smoothing) | Self::Robust(smoothing) => options::label_smoothing(smoothing),
            Self::Aot(smoothing) | Self::AotUnpaired(smoothing) => options::label_smoothing(smoothing),
            Self::ExoPair(smoothing) => options::label_smoothing_above_zero(smoothing),
            Self::BcoPair(shift) => options::finite("shift", shift),
            Self::DiscoPop(tau) => options::positive("tau", tau),
            _ => Ok(()),
        }
    }

    /// The option beside the name.
    fn option(self) -> Option<f64> {
        match self {
            Self::Conservative(value)
            | Self::ExoPair(value)
            | Self::Robust(value)
            | Self::BcoPair(value)
            | Self::Aot(value)
            | Self::AotUnpaired(value)
            | Self::DiscoPop(value) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for LossType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.option() {
            None => f.write_str(self.name()),
            Some(value) => write!(f, "{}({value})", self.name()),
        }
    }
}
