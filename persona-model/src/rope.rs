//! Rotary position embeddings (Su et al. 2021), with the frequencies of Llama 3.1.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// How positions become angles: `rope_parameters` of a `config.json`, or `rope_scaling` of an older one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the keys are Hugging Face's
pub struct RopeParameters {
    /// [`RopeType::Default`] where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<RopeType>,
    /// The older name of `rope_type`; where both are there, they say the same.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub older_type: Option<RopeType>,
    /// The base of the frequencies; in older files it stands outside, as `rope_theta`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
}

/// How frequencies are changed for long contexts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeType {
    /// Not at all.
    #[default]
    Default,
    /// All divided by `factor`.
    Linear,
    /// Llama 3.1: low ones divided by `factor`, high ones kept, those between interpolated.
    Llama3,
    /// Another, which no model here computes.
    #[serde(untagged)]
    Other(String),
}

impl RopeParameters {
    /// The type, under whichever key.
    pub(crate) fn kind(&self) -> Result<&RopeType> {
        match (&self.rope_type, &self.older_type) {
            (Some(kind), Some(older)) if kind != older => {
                let reason =
                    format!("is {kind:?}, and `type`, its older name, is {older:?}; keep one of them");
                Err(Error::Config { key: "rope_type", reason })
            }
            (kind, older) => Ok(kind.as_ref().or(older.as_ref()).unwrap_or(&RopeType::Default)),
        }
    }

    /// What `rope_parameters` and `rope_scaling` say; one of them may lack `rope_theta`.
    pub(crate) fn of_both(parameters: Option<&Self>, scaling: Option<&Self>) -> Result<Option<Self>> {
        let (Some(one), Some(other)) = (parameters, scaling) else {
            return Ok(parameters.or(scaling).cloned());
        };
        let rope_theta = one.rope_theta.or(other.rope_theta);
        let plain = |of: &Self| -> Result<Self> {
            let rope_theta = of.rope_theta.or(rope_theta);
            Ok(Self { rope_type: Some(of.kind()?.clone()), older_type: None, rope_theta, ..of.clone() })
        };
        if plain(one)? != plain(other)? {
            let reason =
                "differs from rope_parameters, its newer name; keep the one that the model was trained with";
            return Err(Error::Config { key: "rope_scaling", reason: reason.to_owned() });
        }
        Ok(Some(Self { rope_theta, ..one.clone() }))
    }
}

/// The inverse frequency of each pair of features.
#[derive(Debug)]
pub(crate) struct Rope {
    frequencies: Vec<f64>,
    /// What the frequencies are rounded to.
    pub(crate) kind: Kind,
}

impl Rope {
    pub(crate) fn new(head_size: usize, theta: f64, parameters: Option<&RopeParameters>) -> Result<Self> {
        let theta = parameters.and_then(|parameters| parameters.rope_theta).unwrap_or(theta);
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(Error::Config {
                key: "rope_theta",
                reason: format!("is {theta}; it must be above 0"),
            });
        }
        let pairs = head_size / 2;
        let frequency = |pair: usize| theta.powf(-((2 * pair) as f64) / head_size as f64);
        let mut frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
        let Some(parameters) = parameters else { return Ok(Self { frequencies, kind: Kind::Float }) };
        match parameters.kind()? {
            RopeType::Default => {}
            RopeType::Linear => {
                let factor = required("factor", parameters.factor)?;
                frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
            }
            RopeType::Llama3 => {
                let scaling = Llama3::new(parameters)?;
                frequencies.iter_mut().for_each(|frequency| *frequency = scaling.apply(*frequency));
            }
            RopeType::Other(name) => {
                let reason = format!("is `{name}`; known are default, linear and llama3");
                return Err(Error::Config { key: "rope_type", reason });
            }
        }
        Ok(Self { frequencies, kind: Kind::Float })
    }

    /// Cosines and sines at positions `[N]`, each `[N, 1, W / 2]` in float32, for all layers of a pass.
    pub(crate) fn angles(&self, positions: &Tensor) -> Result<Angles> {
        let frequencies: Vec<f32> = self.frequencies.iter().map(|&frequency| frequency as f32).collect();
        let frequencies = Tensor::f_from_slice(&frequencies)?.f_to_kind(self.kind)?.f_to_kind(Kind::Float)?;
        let frequencies = frequencies.f_to_device(positions.device())?;
        let angles = positions.f_to_kind(Kind::Float)?.f_unsqueeze(1)?.f_mul(&frequencies)?.f_unsqueeze(1)?;
        Ok(Angles { cos: angles.f_cos()?, sin: angles.f_sin()? })
    }
}

struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    context: f64,
}

impl Llama3 {
    fn new(parameters: &RopeParameters) -> Result<Self> {
        let context = parameters.original_max_position_embeddings.map(|context| context as f64);
        let scaling = Self {
            factor: required("factor", parameters.factor)?,
            low: required("low_freq_factor", parameters.low_freq_factor)?,
            high: required("high_freq_factor", parameters.high_freq_factor)?,
            context: required("original_max_position_embeddings", context)?,
        };
        if scaling.high <= scaling.low {
            let reason = format!("is {}; it must be above low_freq_factor {}", scaling.high, scaling.low);
            return Err(Error::Config { key: "high_freq_factor", reason });
        }
        Ok(scaling)
    }

    fn apply(&self, frequency: f64) -> f64 {
        // How often the wave fits into the context that the model was first trained on.
        let waves = self.context * frequency / (2.0 * PI);
        if waves < self.low {
            frequency / self.factor
        } else if waves > self.high {
            frequency
        } else {
            let smooth = (waves - self.low) / (self.high - self.low);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

fn required(key: &'static str, value: Option<f64>) -> Result<f64> {
    match value {
        Some(value) if value > 0.0 && value.is_finite() => Ok(value),
        Some(value) => Err(Error::Config { key, reason: format!("is {value}; it must be above 0") }),
        None => Err(Error::Config { key, reason: "is missing from rope_parameters".to_owned() }),
    }
}

/// Cosines and sines of a batch's positions.
pub(crate) struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Angles {
    /// Turns queries or keys `[N, H, W]`: feature i and feature i + W/2 are one pair, as in transformers.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let kind = x.kind();
        let (cos, sin) = (self.cos.f_to_kind(kind)?, self.sin.f_to_kind(kind)?);
        let halves = x.f_chunk(2, -1)?;
        let [a, b] = &halves[..] else {
            return Err(Error::Batch("a head without two halves".into()));
        };
        let first = a.f_mul(&cos)?.f_sub(&b.f_mul(&sin)?)?;
        let second = b.f_mul(&cos)?.f_add(&a.f_mul(&sin)?)?;
        Ok(Tensor::f_cat(&[first, second], -1)?)
    }
}
