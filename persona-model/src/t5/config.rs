//! `config.json` of a T5, and the parameters that follow from it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{self, OtherKeys};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::parameters::{Init, ParameterSpec};
use crate::position_bias::Buckets;
use crate::weights::{self, TensorName};

/// `config.json` of a T5, with Hugging Face's keys and defaults. Keys that are not known here are kept and written back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the keys are Hugging Face's
pub struct T5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    /// Features of one head; the heads together need not have `d_model`.
    pub d_kv: usize,
    pub d_ff: usize,
    /// Layers of the encoder.
    pub num_layers: usize,
    /// As many as the encoder's where the key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decoder_layers: Option<usize>,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub dropout_rate: f64,
    pub layer_norm_epsilon: f64,
    pub initializer_factor: f64,
    /// The name of an activation, or `gated-` and a name. `gated-gelu` means GELU in its tanh approximation.
    pub feed_forward_proj: String,
    /// Whether the head is the embeddings.
    pub tie_word_embeddings: bool,
    /// Whether hidden states are multiplied by `d_model^-0.5` before the head: T5 1.0 does, 1.1 does not. Where the key
    /// is missing, a tied model does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_decoder_outputs: Option<bool>,
    /// What every target begins with; the padding token where the key is missing, as T5 was trained.
    pub decoder_start_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for T5Config {
    /// T5 1.0 small: 60 million parameters.
    fn default() -> Self {
        Self {
            vocab_size: 32_128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            feed_forward_proj: "relu".to_owned(),
            tie_word_embeddings: true,
            scale_decoder_outputs: None,
            decoder_start_token_id: Some(0),
            eos_token_id: Some(1),
            pad_token_id: Some(0),
            other: OtherKeys::new(),
        }
    }
}

impl T5Config {
    /// The most tokens of a row. Relative positions have no end of their own; this keeps the position bias of a row
    /// within 1 GiB a head.
    pub const POSITIONS: usize = 1 << 14;

    /// Reads `config.json` of a folder, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], and [`Error::Config`] for another architecture or values out of range.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let config: Self = config::read(folder)?;
        config::check_model_type(&config.other, &["t5"])?;
        config.validate()?;
        Ok(config)
    }

    /// What the weights of the folder say of the head. transformers 5 writes `tie_word_embeddings: true` for every T5:
    /// where outputs are not scaled and the weights have a head, the head is theirs.
    pub(super) fn with_head_of(mut self, folder: &Path) -> Result<Self> {
        if self.tie_word_embeddings && !self.scales_outputs() && weights::holds(folder, "lm_head.weight")? {
            self.tie_word_embeddings = false;
        }
        Ok(self)
    }

    /// Checks that the values make a model.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what would be right.
    pub fn validate(&self) -> Result<()> {
        config::check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets),
            ("relative_attention_max_distance", self.relative_attention_max_distance),
        ])?;
        config::check_layers("num_layers", self.num_layers)?;
        config::check_layers("num_decoder_layers", self.decoder_layers())?;
        config::check_dropouts(&[("dropout_rate", self.dropout_rate)])?;
        config::check_epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        config::check_deviation("initializer_factor", self.initializer_factor)?;
        self.check_buckets()?;
        self.check_feed_forward()?;
        let vocabulary = self.vocab_size;
        for (key, id) in [
            ("decoder_start_token_id", self.decoder_start_token_id),
            ("eos_token_id", self.eos_token_id),
            ("pad_token_id", self.pad_token_id),
        ] {
            if let Some(id) = id
                && id as usize >= vocabulary
            {
                let reason = format!("is {id}, outside the vocabulary of {vocabulary}");
                return Err(Error::Config { key, reason });
            }
        }
        self.start_token().map(drop)
    }

    fn check_buckets(&self) -> Result<()> {
        let buckets = self.relative_attention_num_buckets;
        if buckets < 4 {
            let reason = format!("is {buckets}; near and far keys, before and after a query, need 4");
            return Err(Error::Config { key: "relative_attention_num_buckets", reason });
        }
        let farthest = self.relative_attention_max_distance;
        if farthest <= buckets / 2 {
            let reason =
                format!("is {farthest}; with {buckets} buckets it must be more than {}", buckets / 2);
            return Err(Error::Config { key: "relative_attention_max_distance", reason });
        }
        Ok(())
    }

    /// The older keys beside `feed_forward_proj` must say the same, where they are there.
    fn check_feed_forward(&self) -> Result<()> {
        let (gated, activation) = self.feed_forward()?;
        let contradicts = |key: &'static str| {
            let (found, name) = (&self.other[key], &self.feed_forward_proj);
            Err(Error::Config { key, reason: format!("is {found}, but feed_forward_proj is `{name}`") })
        };
        if self.other.get("is_gated_act").and_then(Value::as_bool).is_some_and(|found| found != gated) {
            return contradicts("is_gated_act");
        }
        let named = self.other.get("dense_act_fn");
        if named.is_some_and(|name| serde_json::from_value(name.clone()).ok() != Some(activation)) {
            return contradicts("dense_act_fn");
        }
        Ok(())
    }

    /// Whether the feed-forward layers have a gate, and their activation.
    pub(super) fn feed_forward(&self) -> Result<(bool, Activation)> {
        let whole = self.feed_forward_proj.as_str();
        if whole == "gated-gelu" {
            return Ok((true, Activation::GeluNew));
        }
        let (gated, name) = whole.strip_prefix("gated-").map_or((false, whole), |name| (true, name));
        match serde_json::from_value(name.into()) {
            Ok(activation) => Ok((gated, activation)),
            Err(_) => {
                let reason =
                    format!("is `{whole}`; known are relu, gelu, gelu_new, silu, tanh, and gated- with each");
                Err(Error::Config { key: "feed_forward_proj", reason })
            }
        }
    }

    pub(super) fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    pub(super) fn scales_outputs(&self) -> bool {
        self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings)
    }

    pub(super) fn start_token(&self) -> Result<u32> {
        self.decoder_start_token_id.or(self.pad_token_id).ok_or_else(|| {
            let reason = "is missing, and so is pad_token_id: nothing begins a target".to_owned();
            Error::Config { key: "decoder_start_token_id", reason }
        })
    }

    pub(super) fn buckets(&self, bidirectional: bool) -> Buckets {
        let all = self.relative_attention_num_buckets as i64;
        Buckets {
            one_way: if bidirectional { all / 2 } else { all },
            max_distance: self.relative_attention_max_distance as i64,
            bidirectional,
        }
    }

    /// Every parameter's name, shape and start, in storage order. Deviations are Mesh TensorFlow's; norms start at 1.
    pub(super) fn specs(&self) -> Vec<ParameterSpec> {
        let (d, inner) = (self.d_model as i64, self.d_ff as i64);
        let heads = (self.num_heads * self.d_kv) as i64;
        let normal = |width: i64| Init::Normal(self.initializer_factor * (width as f64).powf(-0.5));
        let gated = self.feed_forward_proj.starts_with("gated-");
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[i64], init| {
            specs.push(ParameterSpec { name, shape: shape.to_vec(), init });
        };
        let words = [self.vocab_size as i64, d];
        add("shared.weight".into(), &words, Init::Normal(self.initializer_factor));
        for (stack, layers) in [("encoder", self.num_layers), ("decoder", self.decoder_layers())] {
            for layer in 0..layers {
                let mut add = |sub: usize, name: &str, shape: &[i64], init| {
                    add(format!("{stack}.block.{layer}.layer.{sub}.{name}.weight"), shape, init);
                };
                let last = if stack == "encoder" { 1 } else { 2 };
                for sub in 0..last {
                    let module = if sub == 0 { "SelfAttention" } else { "EncDecAttention" };
                    // Scores are not scaled, so that queries start smaller instead.
                    let queries = normal(d * self.d_kv as i64);
                    add(sub, &format!("{module}.q"), &[heads, d], queries);
                    add(sub, &format!("{module}.k"), &[heads, d], normal(d));
                    add(sub, &format!("{module}.v"), &[heads, d], normal(d));
                    add(sub, &format!("{module}.o"), &[d, heads], normal(heads));
                    if layer == 0 && sub == 0 {
                        let shape = [self.relative_attention_num_buckets as i64, self.num_heads as i64];
                        add(sub, &format!("{module}.relative_attention_bias"), &shape, normal(d));
                    }
                    add(sub, "layer_norm", &[d], Init::Ones);
                }
                for wi in if gated { &["wi_0", "wi_1"][..] } else { &["wi"] } {
                    add(last, &format!("DenseReluDense.{wi}"), &[inner, d], normal(d));
                }
                add(last, "DenseReluDense.wo", &[d, inner], normal(inner));
                add(last, "layer_norm", &[d], Init::Ones);
            }
            add(format!("{stack}.final_layer_norm.weight"), &[d], Init::Ones);
        }
        if !self.tie_word_embeddings {
            add("lm_head.weight".into(), &words, Init::Normal(self.initializer_factor));
        }
        specs
    }

    /// What a tensor of a checkpoint is to this model. Old checkpoints hold copies of the embeddings, and a bias of the
    /// cross attention that nothing uses.
    pub(super) fn tensor_name(&self, name: &str) -> TensorName {
        let copy = match name {
            "encoder.embed_tokens.weight" | "decoder.embed_tokens.weight" => true,
            "lm_head.weight" => self.tie_word_embeddings,
            _ => false,
        };
        if copy {
            return TensorName::CopyOf("shared.weight".to_owned());
        }
        if name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight" {
            return TensorName::Ignored;
        }
        TensorName::Parameter(name.to_owned())
    }
}
