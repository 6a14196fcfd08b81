//! GPT-2 (Radford et al. 2019) and DialoGPT, which has the same architecture.
//!
//! Follows transformers' `GPT2LMHeadModel`: same configuration keys, tensor names and numbers. Linear layers are
//! `Conv1D`s there, with weights `[in, out]`.

use std::cell::RefCell;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::adapters::{Base, Module, Plan};
use crate::attention::{self, Settings};
use crate::batch::{Batch, Limits, tokens_at};
use crate::cache::{CacheShape, KvCache, LayerCache};
use crate::config::{self, OtherKeys};
use crate::cpu;
use crate::error::{Error, Result};
use crate::language_model::CausalLm;
use crate::layers::{Activation, LayerNorm, Layout, Leaves, Linear};
use crate::model::{Model, ModelState};
use crate::parameters::{Init, ParameterSpec, Parameters};
use crate::quantized::{self, LoadOptions};
use crate::recompute;
use crate::resize::{self, Resize};
use crate::weights::{LoadReport, TensorName};

/// `config.json` of a GPT-2, with Hugging Face's keys and defaults. Keys that are not known here are kept and written
/// back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the keys are Hugging Face's
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_positions: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_inner: Option<usize>,
    pub activation_function: Activation,
    pub resid_pdrop: f64,
    pub embd_pdrop: f64,
    pub attn_pdrop: f64,
    pub layer_norm_epsilon: f64,
    pub initializer_range: f64,
    pub scale_attn_weights: bool,
    pub scale_attn_by_inverse_layer_idx: bool,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for Gpt2Config {
    /// GPT-2 small: 124 million parameters.
    fn default() -> Self {
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluNew,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            bos_token_id: Some(50256),
            eos_token_id: Some(50256),
            pad_token_id: None,
            other: OtherKeys::new(),
        }
    }
}

impl Gpt2Config {
    /// Reads `config.json` of a folder, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], and [`Error::Config`] for another architecture or values out of range.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let config: Self = config::read(folder)?;
        config::check_model_type(&config.other, &["gpt2"])?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that the values make a model.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what would be right.
    pub fn validate(&self) -> Result<()> {
        config::check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_inner", self.n_inner.unwrap_or(1)),
        ])?;
        config::check_layers("n_layer", self.n_layer)?;
        config::check_divides(("n_embd", self.n_embd), ("n_head", self.n_head))?;
        config::check_dropouts(&[
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ])?;
        config::check_epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        config::check_deviation("initializer_range", self.initializer_range)?;
        for key in ["add_cross_attention", "reorder_and_upcast_attn"] {
            if self.other.get(key).and_then(serde_json::Value::as_bool) == Some(true) {
                let reason = format!("`{key}` is true, which this model does not have");
                return Err(Error::Config { key: "model_type", reason });
            }
        }
        Ok(())
    }

    /// Every parameter's name, shape and start, in storage order; `Normal(initializer_range)`, with the residual
    /// projections' deviation divided by the root of their number, as GPT-2 starts.
    fn specs(&self) -> Vec<ParameterSpec> {
        let (d, inner) = (self.n_embd as i64, self.n_inner.unwrap_or(4 * self.n_embd) as i64);
        let normal = Init::Normal(self.initializer_range);
        let residual = Init::Normal(self.initializer_range / (2.0 * self.n_layer as f64).sqrt());
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[i64], init| {
            specs.push(ParameterSpec { name: format!("transformer.{name}"), shape: shape.to_vec(), init });
        };
        add("wte.weight".into(), &[self.vocab_size as i64, d], normal);
        add("wpe.weight".into(), &[self.n_positions as i64, d], normal);
        for layer in 0..self.n_layer {
            let mut add = |name: &str, shape: &[i64], init| add(format!("h.{layer}.{name}"), shape, init);
            add("ln_1.weight", &[d], Init::Ones);
            add("ln_1.bias", &[d], Init::Zeros);
            add("attn.c_attn.weight", &[d, 3 * d], normal);
            add("attn.c_attn.bias", &[3 * d], Init::Zeros);
            add("attn.c_proj.weight", &[d, d], residual);
            add("attn.c_proj.bias", &[d], Init::Zeros);
            add("ln_2.weight", &[d], Init::Ones);
            add("ln_2.bias", &[d], Init::Zeros);
            add("mlp.c_fc.weight", &[d, inner], normal);
            add("mlp.c_fc.bias", &[inner], Init::Zeros);
            add("mlp.c_proj.weight", &[inner, d], residual);
            add("mlp.c_proj.bias", &[d], Init::Zeros);
        }
        add("ln_f.weight".into(), &[d], Init::Ones);
        add("ln_f.bias".into(), &[d], Init::Zeros);
        if !self.tie_word_embeddings {
            let shape = vec![self.vocab_size as i64, d];
            specs.push(ParameterSpec { name: "lm_head.weight".into(), shape, init: normal });
        }
        specs
    }

    /// What a tensor of a checkpoint is to this model. The oldest checkpoints lack the prefix `transformer.` and hold
    /// the causal masks.
    fn tensor_name(&self, name: &str) -> TensorName {
        if name == "lm_head.weight" {
            return if self.tie_word_embeddings {
                TensorName::CopyOf("transformer.wte.weight".to_owned())
            } else {
                TensorName::Parameter(name.to_owned())
            };
        }
        if name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") {
            return TensorName::Ignored;
        }
        let bare = name.strip_prefix("transformer.").unwrap_or(name);
        TensorName::Parameter(format!("transformer.{bare}"))
    }

    /// How the weight of a block's linear layer lies in the checkpoint; None for every other parameter.
    fn layout_of(name: &str) -> Option<Layout> {
        let linear = [".c_attn.weight", ".c_proj.weight", ".c_fc.weight"];
        let linear = name.starts_with("transformer.h.") && linear.iter().any(|end| name.ends_with(end));
        linear.then_some(Layout::InOut)
    }
}

struct Attention {
    c_attn: Linear,
    c_proj: Linear,
    heads: i64,
    scale: f64,
}

struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
}

struct Block {
    ln_1: LayerNorm,
    attention: Attention,
    ln_2: LayerNorm,
    mlp: Mlp,
}

/// A GPT-2 language model.
pub struct Gpt2 {
    config: Gpt2Config,
    state: ModelState,
    wte: Tensor,
    wpe: Tensor,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    head: Tensor,
}

impl std::fmt::Debug for Gpt2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpt2")
            .field("config", &self.config)
            .field("precision", &self.state.precision)
            .finish_non_exhaustive()
    }
}

impl Gpt2 {
    /// A model with fresh weights drawn from `seed`, held in `kind` on a device.
    ///
    /// # Errors
    /// [`Error::Config`] and libtorch's, out of memory above all.
    pub fn new(config: Gpt2Config, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        config.validate()?;
        let parameters = Parameters::new(config.specs(), seed, device, kind)?;
        Self::assemble(config, parameters)
    }

    /// Loads a folder in the Hugging Face layout: `config.json` and safetensors, single or sharded. Values are cast to
    /// `kind`; loading is strict (see [`load`](crate::load)).
    ///
    /// # Errors
    /// Those of [`Gpt2Config::from_folder`] and [`load`](crate::load).
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<(Self, LoadReport)> {
        Self::load_with(folder, device, kind.into())
    }

    /// As [`load`](Self::load), with the linear layers of the blocks in NF4 where the options say so. A checkpoint that
    /// is quantised already stays as it is.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`Error::Quantized`] for weights that are not finite.
    pub fn load_with(folder: &Path, device: Device, options: LoadOptions) -> Result<(Self, LoadReport)> {
        let config = Gpt2Config::from_folder(folder)?;
        let name = |name: &str| config.tensor_name(name);
        let specs = config.specs();
        let (parameters, report) =
            quantized::load(folder, specs, device, options, &Gpt2Config::layout_of, &name)?;
        Ok((Self::assemble(config, parameters)?, report))
    }

    /// A copy of this model with storage of its own, held in `kind`, without its adapters: a frozen reference, or weights
    /// in bfloat16 for decoding. Weights in NF4 are shared.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn copy(&self, kind: Kind) -> Result<Self> {
        let mut copy = Self::assemble(self.config.clone(), self.state.parameters.copy(kind)?)?;
        copy.state.precision = self.state.precision;
        Ok(copy)
    }

    fn assemble(config: Gpt2Config, parameters: Parameters) -> Result<Self> {
        let sites = RefCell::default();
        let root = Leaves::new(&parameters, &sites);
        let leaves = root.below("transformer");
        let norm = |name: String| LayerNorm::new(&leaves.below(name), config.layer_norm_epsilon);
        let linear = |name: String| Linear::new(&leaves.below(name), Layout::InOut);
        let head_size = config.n_embd / config.n_head;
        let blocks = (0..config.n_layer)
            .map(|layer| {
                let mut scale = if config.scale_attn_weights { (head_size as f64).powf(-0.5) } else { 1.0 };
                if config.scale_attn_by_inverse_layer_idx {
                    scale /= (layer + 1) as f64;
                }
                Ok(Block {
                    ln_1: norm(format!("h.{layer}.ln_1"))?,
                    attention: Attention {
                        c_attn: linear(format!("h.{layer}.attn.c_attn"))?,
                        c_proj: linear(format!("h.{layer}.attn.c_proj"))?,
                        heads: config.n_head as i64,
                        scale,
                    },
                    ln_2: norm(format!("h.{layer}.ln_2"))?,
                    mlp: Mlp {
                        c_fc: linear(format!("h.{layer}.mlp.c_fc"))?,
                        c_proj: linear(format!("h.{layer}.mlp.c_proj"))?,
                    },
                })
            })
            .collect::<Result<_>>()?;
        let wte = leaves.get("wte.weight")?;
        let head = if config.tie_word_embeddings { wte.shallow_clone() } else { root.get("lm_head.weight")? };
        let (wpe, ln_f) = (leaves.get("wpe.weight")?, norm("ln_f".to_owned())?);
        let base = Base {
            embedding: Module::new("transformer.wte", &wte),
            head: Module::new("lm_head", &head),
            tied: config.tie_word_embeddings,
            layers: config.n_layer,
            positions: config.n_positions,
        };
        let state = ModelState::new(parameters, sites.into_inner()).over(base);
        Ok(Self { config, state, wte, wpe, blocks, ln_f, head })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }
}

impl Gpt2 {
    fn run(
        &self,
        block: &Block,
        x: &Tensor,
        (batch, plan): (&Batch, &Plan<'_>),
        (cache, at): (Option<&mut LayerCache>, Option<&(Plan<'_>, Tensor)>),
        train: bool,
    ) -> Result<Tensor> {
        let (config, kind) = (&self.config, self.state.compute_kind());
        let Block { ln_1, attention, ln_2, mlp } = block;
        let qkv = attention.c_attn.forward(&ln_1.forward(x)?, kind, plan)?;
        let qkv = qkv.f_view([qkv.size2()?.0, 3, attention.heads, -1])?;
        let settings = Settings {
            scale: attention.scale,
            dropout: if train { config.attn_pdrop } else { 0.0 },
            causal: true,
            kind,
            wanted: at.map(|(_, at)| at),
        };
        let attended = attention::attend_together(&qkv, batch, cache, settings)?;
        let (plan, at) = at.map_or((plan, None), |(plan, at)| (plan, Some(at)));
        let attended = tokens_at(attended, at)?;
        let attended = attention.c_proj.forward(&attended, kind, plan)?;
        let x = tokens_at(x.shallow_clone(), at)?;
        let x = x.f_add(&dropped(attended, config.resid_pdrop, train)?)?;
        let inner = mlp.c_fc.forward(&ln_2.forward(&x)?, kind, plan)?;
        let output = mlp.c_proj.forward_activated(&inner, config.activation_function, kind, plan)?;
        Ok(x.f_add(&dropped(output, config.resid_pdrop, train)?)?)
    }
}

fn dropped(x: Tensor, share: f64, train: bool) -> Result<Tensor> {
    if train && share > 0.0 { Ok(x.f_dropout(share, true)?) } else { Ok(x) }
}

impl Model for Gpt2 {
    fn state(&self) -> &ModelState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut ModelState {
        &mut self.state
    }

    fn has_dropout(&self) -> bool {
        let config = &self.config;
        let base = [config.resid_pdrop, config.embd_pdrop, config.attn_pdrop];
        self.state.adapters.has_dropout() || base.iter().any(|&share| share > 0.0)
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(
        &self,
        layer: usize,
        x: &Tensor,
        batch: &Batch,
        _: Option<&Batch>,
        train: bool,
    ) -> Result<Tensor> {
        let block = self.blocks.get(layer).ok_or_else(|| Error::Batch(format!("no block {layer}")))?;
        let plan = self.state.adapters.plan(batch, train)?;
        self.run(block, x, (batch, &plan), (None, None), train)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let value = serde_json::to_value(&self.config).map_err(Error::json(folder.join("config.json")))?;
        config::save(folder, value, "gpt2", "GPT2LMHeadModel", &self.state.parameters)
    }
}

impl CausalLm for Gpt2 {
    fn limits(&self) -> Limits {
        let virtual_tokens = self.state.adapters.virtual_tokens();
        let positions = self.config.n_positions.saturating_sub(virtual_tokens);
        Limits { vocabulary: self.config.vocab_size, positions }
    }

    fn cache_shape(&self) -> CacheShape {
        CacheShape {
            layers: self.config.n_layer,
            heads: self.config.n_head as i64,
            head_size: (self.config.n_embd / self.config.n_head) as i64,
            kind: self.state.attention_kind(),
        }
    }

    fn hidden_at(
        &self,
        batch: &Batch,
        at: Option<&Tensor>,
        mut cache: Option<&mut KvCache>,
        train: bool,
    ) -> Result<Tensor> {
        batch.check_causal()?;
        let adapters = &self.state.adapters;
        let input = adapters.input(&self.wte, self.config.n_positions, batch, cache.as_deref_mut())?;
        let batch = input.batch();
        let places = Tensor::f_embedding(&self.wpe, &batch.positions, -1, false, false)?;
        let words = input.words.f_add(&places)?.f_to_kind(Kind::Float)?;
        let mut x = dropped(words, self.config.embd_pdrop, train)?;
        let mut wanted = input.wanted(at)?;
        if cache.is_none() && recompute::is_wanted(self)? {
            x = recompute::forward(self, x, (batch, None), 0..self.blocks.len(), train)?;
        } else {
            let plan = adapters.plan(batch, train)?;
            for (layer, block) in self.blocks.iter().enumerate() {
                let cache = cache.as_deref_mut().and_then(|cache| cache.layer(layer));
                let at = wanted.take_if(|_| layer + 1 == self.blocks.len());
                let at = at.map(|at| adapters.plan_at(batch, at, train)).transpose()?;
                x = self.run(block, &x, (batch, &plan), (cache, at.as_ref()), train)?;
            }
        }
        input.advance(cache);
        self.ln_f.forward(&tokens_at(x, wanted.as_ref())?)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let kind = self.state.compute_kind();
        let head = self.state.adapters.head().unwrap_or(&self.head);
        if let Some(logits) = cpu::linear(hidden, head, Layout::OutIn, None, kind)? {
            return Ok(logits);
        }
        let logits = hidden.f_to_kind(kind)?.f_matmul(&head.f_to_kind(kind)?.f_tr()?)?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }

    fn resize_embeddings(&mut self, vocabulary: usize, how: Resize) -> Result<()> {
        if vocabulary == self.config.vocab_size {
            return Ok(());
        }
        resize::check(&self.config, self.config.vocab_size, vocabulary, how)?;
        let config = Gpt2Config { vocab_size: vocabulary, ..self.config.clone() };
        config.validate()?;
        let deviation = config.initializer_range;
        let parameters = self.state.parameters.resized(config.specs(), how, deviation)?;
        let mut resized = Self::assemble(config, parameters)?;
        resized.state.take_over(&mut self.state, how, deviation)?;
        *self = resized;
        Ok(())
    }

    fn boxed_copy(&self, kind: Kind) -> Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.copy(kind)?))
    }
}
