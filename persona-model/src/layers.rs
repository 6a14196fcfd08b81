//! Layers that several models are made of.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::adapters::{Plan, Site};
use crate::cpu;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::quantized::Nf4Weight;

/// The non-linearity of an MLP, by transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// GELU in its tanh approximation, as GPT-2 was trained.
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluNew,
    /// Exact GELU.
    Gelu,
    /// Rectifier.
    Relu,
    /// Swish.
    #[serde(alias = "swish")]
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The form in which the CPU's own kernels compute it.
    fn gate(self) -> Option<cpu::Gate> {
        match self {
            Self::GeluNew => Some(cpu::Gate::GELU_TANH),
            Self::Gelu => Some(cpu::Gate::GELU),
            Self::Silu => Some(cpu::Gate::SILU),
            _ => None,
        }
    }

    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        if let Some(gate) = self.gate()
            && let Some(gated) = cpu::gate(x, gate)?
        {
            return Ok(gated);
        }
        Ok(match self {
            Self::GeluNew => x.f_gelu("tanh")?,
            Self::Gelu => x.f_gelu("none")?,
            Self::Relu => x.f_relu()?,
            Self::Silu => x.f_silu()?,
            Self::Tanh => x.f_tanh()?,
        })
    }
}

/// The leaves of a model by name, while it is put together. Linear layers are noted as places for adapters.
pub(crate) struct Leaves<'p> {
    parameters: &'p Parameters,
    sites: &'p RefCell<Vec<Site>>,
    prefix: String,
}

impl<'p> Leaves<'p> {
    pub(crate) fn new(parameters: &'p Parameters, sites: &'p RefCell<Vec<Site>>) -> Self {
        Self { parameters, sites, prefix: String::new() }
    }

    /// The leaves below a name.
    pub(crate) fn below(&self, name: impl std::fmt::Display) -> Self {
        Self { parameters: self.parameters, sites: self.sites, prefix: self.path(name) }
    }

    fn path(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    pub(crate) fn get(&self, name: &str) -> Result<Tensor> {
        let path = self.path(name);
        let leaf = self.parameters.get(&path).map(Tensor::shallow_clone);
        leaf.ok_or_else(|| Error::Batch(format!("no parameter {path}")))
    }

    /// A weight in NF4.
    fn quantized(&self, name: &str) -> Option<Nf4Weight> {
        self.parameters.quantized().get(&self.path(name)).map(Nf4Weight::shallow_clone)
    }

    fn optional(&self, name: &str) -> Option<Tensor> {
        self.parameters.get(&self.path(name)).map(Tensor::shallow_clone)
    }
}

/// Normalisation by mean and variance, in float32 whatever the weights are held in.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn new(leaves: &Leaves<'_>, epsilon: f64) -> Result<Self> {
        Ok(Self { weight: leaves.get("weight")?, bias: leaves.get("bias")?, epsilon })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(Kind::Float)?, self.bias.f_to_kind(Kind::Float)?);
        Ok(x.f_layer_norm(weight.size(), Some(&weight), Some(&bias), self.epsilon, true)?)
    }
}

/// Normalisation by the root of the mean square, in float32 whatever the weights are held in.
pub(crate) struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    pub(crate) fn new(leaves: &Leaves<'_>, epsilon: f64) -> Result<Self> {
        Ok(Self { weight: leaves.get("weight")?, epsilon })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.f_to_kind(Kind::Float)?;
        Ok(x.f_rms_norm(weight.size(), Some(&weight), self.epsilon)?)
    }
}

/// How a linear layer's weight lies in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[in, out]`: transformers' `Conv1D`, in GPT-2.
    InOut,
    /// `[out, in]`: `nn.Linear`.
    OutIn,
}

impl Layout {
    /// Inputs and outputs of a weight.
    pub(crate) fn sizes(self, weight: &Tensor) -> Result<(i64, i64)> {
        let (lines, columns) = weight.size2()?;
        Ok(if self == Self::InOut { (lines, columns) } else { (columns, lines) })
    }
}

/// A linear layer, with a bias where the checkpoint has one. Adapters add to it.
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    site: usize,
}

/// The weight of a linear layer, as it is held.
enum Weight {
    Float(Tensor, Layout),
    /// `[out, in]`, frozen.
    Nf4(Nf4Weight),
}

impl Linear {
    pub(crate) fn new(leaves: &Leaves<'_>, layout: Layout) -> Result<Self> {
        let weight = match leaves.quantized("weight") {
            Some(weight) => Weight::Nf4(weight),
            None => Weight::Float(leaves.get("weight")?, layout),
        };
        let (inputs, outputs) = match &weight {
            Weight::Float(weight, layout) => layout.sizes(weight)?,
            Weight::Nf4(weight) => (weight.size2().1, weight.size2().0),
        };
        let mut sites = leaves.sites.borrow_mut();
        sites.push(Site { module: leaves.prefix.clone(), inputs, outputs, layout });
        Ok(Self { weight, bias: leaves.optional("bias"), site: sites.len() - 1 })
    }

    /// `x [N, in]`, computed in `kind`; returns `[N, out]`, of the CPU's own kernels in float32 in any case.
    pub(crate) fn forward(&self, x: &Tensor, kind: Kind, adapters: &Plan<'_>) -> Result<Tensor> {
        if let Weight::Float(weight, layout) = &self.weight
            && let Some(output) = cpu::linear(x, weight, *layout, self.bias.as_ref(), kind)?
        {
            return adapters.add(self.site, &x.f_to_kind(Kind::Float)?, output);
        }
        let x = x.f_to_kind(kind)?;
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        let output = match &self.weight {
            Weight::Nf4(weight) => weight.product(&x, bias.as_ref())?,
            Weight::Float(weight, layout) => {
                let weight = weight.f_to_kind(kind)?;
                let weight = if *layout == Layout::InOut { weight } else { weight.f_tr()? };
                match bias {
                    Some(bias) => bias.f_addmm(&x, &weight)?,
                    None => x.f_mm(&weight)?,
                }
            }
        };
        adapters.add(self.site, &x, output)
    }

    /// As [`forward`](Self::forward), of what an activation makes of `x`.
    pub(crate) fn forward_activated(
        &self,
        x: &Tensor,
        activation: Activation,
        kind: Kind,
        adapters: &Plan<'_>,
    ) -> Result<Tensor> {
        if let (Weight::Float(weight, layout), Some(gate), Plan::Base) =
            (&self.weight, activation.gate(), adapters)
            && let Some(output) = cpu::gated_linear((x, gate), weight, *layout, self.bias.as_ref(), kind)?
        {
            return Ok(output);
        }
        self.forward(&activation.apply(x)?, kind, adapters)
    }
}
