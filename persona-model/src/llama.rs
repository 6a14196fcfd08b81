//! Llama 2, 3, 3.1 and 3.2 (Touvron et al. 2023; Grattafiori et al. 2024).
//!
//! Follows transformers' `LlamaForCausalLM`: same configuration keys, tensor names and numbers.

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
use crate::layers::{Activation, Layout, Leaves, Linear, RmsNorm};
use crate::model::{Model, ModelState};
use crate::parameters::{Init, ParameterSpec, Parameters};
use crate::quantized::{self, LoadOptions};
use crate::recompute;
use crate::resize::{self, Resize};
use crate::rope::{Angles, Rope, RopeParameters, RopeType};
use crate::weights::{LoadReport, TensorName};

/// `config.json` of a Llama, with Hugging Face's keys and defaults. Keys that are not known here are kept and written
/// back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the keys are Hugging Face's
pub struct LlamaConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// As many as heads where the key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads` where the key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub initializer_range: f64,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    /// Where `rope_parameters` do not give it.
    pub rope_theta: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// The name of `rope_parameters` before transformers 5; where both are there, they say the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    pub attention_bias: bool,
    pub attention_dropout: f64,
    pub mlp_bias: bool,
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for LlamaConfig {
    /// Llama 2 with 7 billion parameters.
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_theta: 10_000.0,
            rope_parameters: None,
            rope_scaling: None,
            attention_bias: false,
            attention_dropout: 0.0,
            mlp_bias: false,
            other: OtherKeys::new(),
        }
    }
}

impl LlamaConfig {
    /// Reads `config.json` of a folder, and checks it. The rotary settings are then under every key that some version of
    /// transformers reads.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], and [`Error::Config`] for another architecture or values out of range.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let config: Self = config::read(folder)?;
        config::check_model_type(&config.other, &["llama"])?;
        config.validate()?;
        config.with_rope_keys()
    }

    /// Checks that the values make a model.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what would be right.
    pub fn validate(&self) -> Result<()> {
        config::check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_value_heads()),
            ("head_dim", self.head_dim.unwrap_or(1)),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        config::check_layers("num_hidden_layers", self.num_hidden_layers)?;
        if self.head_dim.is_none() {
            let hidden = ("hidden_size", self.hidden_size);
            config::check_divides(hidden, ("num_attention_heads", self.num_attention_heads))?;
        }
        let heads = ("num_attention_heads", self.num_attention_heads);
        config::check_divides(heads, ("num_key_value_heads", self.key_value_heads()))?;
        if !self.head_size().is_multiple_of(2) {
            let reason = format!("gives heads of {} features; rotary positions need pairs", self.head_size());
            return Err(Error::Config { key: "head_dim", reason });
        }
        config::check_dropouts(&[("attention_dropout", self.attention_dropout)])?;
        config::check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        config::check_deviation("initializer_range", self.initializer_range)?;
        self.rope().map(drop)
    }

    fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_size(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn rope(&self) -> Result<Rope> {
        let parameters = RopeParameters::of_both(self.rope_parameters.as_ref(), self.rope_scaling.as_ref())?;
        Rope::new(self.head_size(), self.rope_theta, parameters.as_ref())
    }

    /// The same, with `rope_parameters` as transformers 5 reads them, and `rope_theta` and `rope_scaling` as older
    /// versions do.
    fn with_rope_keys(mut self) -> Result<Self> {
        let both = RopeParameters::of_both(self.rope_parameters.as_ref(), self.rope_scaling.as_ref())?;
        let Some(mut parameters) = both else { return Ok(self) };
        self.rope_theta = *parameters.rope_theta.get_or_insert(self.rope_theta);
        let scaled = *parameters.kind()? != RopeType::Default;
        self.rope_scaling = scaled.then(|| RopeParameters { rope_theta: None, ..parameters.clone() });
        self.rope_parameters = Some(parameters);
        Ok(self)
    }

    /// Every parameter's name, shape and start, in storage order.
    fn specs(&self) -> Vec<ParameterSpec> {
        let (d, inner) = (self.hidden_size as i64, self.intermediate_size as i64);
        let queries = (self.num_attention_heads * self.head_size()) as i64;
        let keys = (self.key_value_heads() * self.head_size()) as i64;
        let normal = Init::Normal(self.initializer_range);
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[i64], init| {
            specs.push(ParameterSpec { name, shape: shape.to_vec(), init });
        };
        add("model.embed_tokens.weight".into(), &[self.vocab_size as i64, d], normal);
        for layer in 0..self.num_hidden_layers {
            let mut linear = |name: &str, out: i64, inputs: i64, bias: bool| {
                add(format!("model.layers.{layer}.{name}.weight"), &[out, inputs], normal);
                if bias {
                    add(format!("model.layers.{layer}.{name}.bias"), &[out], Init::Zeros);
                }
            };
            linear("self_attn.q_proj", queries, d, self.attention_bias);
            linear("self_attn.k_proj", keys, d, self.attention_bias);
            linear("self_attn.v_proj", keys, d, self.attention_bias);
            linear("self_attn.o_proj", d, queries, self.attention_bias);
            linear("mlp.gate_proj", inner, d, self.mlp_bias);
            linear("mlp.up_proj", inner, d, self.mlp_bias);
            linear("mlp.down_proj", d, inner, self.mlp_bias);
            add(format!("model.layers.{layer}.input_layernorm.weight"), &[d], Init::Ones);
            add(format!("model.layers.{layer}.post_attention_layernorm.weight"), &[d], Init::Ones);
        }
        add("model.norm.weight".into(), &[d], Init::Ones);
        if !self.tie_word_embeddings {
            add("lm_head.weight".into(), &[self.vocab_size as i64, d], normal);
        }
        specs
    }

    /// What a tensor of a checkpoint is to this model. Old checkpoints hold the rotary frequencies too.
    fn tensor_name(&self, name: &str) -> TensorName {
        if name == "lm_head.weight" && self.tie_word_embeddings {
            return TensorName::CopyOf("model.embed_tokens.weight".to_owned());
        }
        if name.ends_with("rotary_emb.inv_freq") {
            return TensorName::Ignored;
        }
        TensorName::Parameter(name.to_owned())
    }

    /// How the weight of a block's linear layer lies in the checkpoint; None for every other parameter.
    fn layout_of(name: &str) -> Option<Layout> {
        (name.starts_with("model.layers.") && name.ends_with("_proj.weight")).then_some(Layout::OutIn)
    }
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    head_size: i64,
    dropout: f64,
}

impl Attention {
    /// What the heads give, before the output projection.
    fn forward(
        &self,
        x: &Tensor,
        pass: &Pass<'_>,
        cache: Option<&mut LayerCache>,
        wanted: Option<&Tensor>,
    ) -> Result<Tensor> {
        let Pass { kind, plan, angles, batch, train } = pass;
        let kind = *kind;
        let heads = |x: Tensor| x.f_view([x.size2()?.0, -1, self.head_size]);
        let x = &x.f_to_kind(kind)?;
        let queries = angles.rotate(&heads(self.q_proj.forward(x, kind, plan)?)?)?;
        let keys = angles.rotate(&heads(self.k_proj.forward(x, kind, plan)?)?)?;
        let values = heads(self.v_proj.forward(x, kind, plan)?)?;
        let settings = Settings {
            scale: (self.head_size as f64).powf(-0.5),
            dropout: if *train { self.dropout } else { 0.0 },
            causal: true,
            kind,
            wanted,
        };
        attention::attend(&queries, &keys, &values, batch, cache, settings)
    }
}

struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: Activation,
}

impl Mlp {
    fn forward(&self, x: &Tensor, kind: Kind, plan: &Plan<'_>) -> Result<Tensor> {
        let x = &x.f_to_kind(kind)?;
        let gate = self.activation.apply(&self.gate_proj.forward(x, kind, plan)?)?;
        self.down_proj.forward(&gate.f_mul(&self.up_proj.forward(x, kind, plan)?)?, kind, plan)
    }
}

struct Block {
    input_layernorm: RmsNorm,
    attention: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

/// What the blocks of one forward pass have in common.
struct Pass<'a> {
    kind: Kind,
    plan: Plan<'a>,
    angles: Angles,
    batch: &'a Batch,
    train: bool,
}

impl Block {
    /// `[N, D]`, or `[M, D]` for M places and the plan for them.
    fn forward(
        &self,
        x: &Tensor,
        pass: &Pass<'_>,
        cache: Option<&mut LayerCache>,
        at: Option<&(Plan<'_>, Tensor)>,
    ) -> Result<Tensor> {
        let (plan, at) = at.map_or((&pass.plan, None), |(plan, at)| (plan, Some(at)));
        let attended = self.attention.forward(&self.input_layernorm.forward(x)?, pass, cache, at)?;
        let attended = self.attention.o_proj.forward(&tokens_at(attended, at)?, pass.kind, plan)?;
        let x = tokens_at(x.shallow_clone(), at)?.f_add(&attended)?;
        let inner = self.post_attention_layernorm.forward(&x)?;
        Ok(x.f_add(&self.mlp.forward(&inner, pass.kind, plan)?)?)
    }
}

/// A Llama language model.
pub struct Llama {
    config: LlamaConfig,
    state: ModelState,
    rope: Rope,
    embeddings: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Tensor,
}

impl std::fmt::Debug for Llama {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Llama")
            .field("config", &self.config)
            .field("precision", &self.state.precision)
            .finish_non_exhaustive()
    }
}

impl Llama {
    /// A model with fresh weights drawn from `seed`, held in `kind` on a device.
    ///
    /// # Errors
    /// [`Error::Config`] and libtorch's, out of memory above all.
    pub fn new(config: LlamaConfig, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        config.validate()?;
        let config = config.with_rope_keys()?;
        let parameters = Parameters::new(config.specs(), seed, device, kind)?;
        Self::assemble(config, parameters)
    }

    /// Loads a folder in the Hugging Face layout: `config.json` and safetensors, single or sharded. Values are cast to
    /// `kind`; loading is strict (see [`load`](crate::load)).
    ///
    /// # Errors
    /// Those of [`LlamaConfig::from_folder`] and [`load`](crate::load).
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<(Self, LoadReport)> {
        Self::load_with(folder, device, kind.into())
    }

    /// As [`load`](Self::load), with the linear layers of the blocks in NF4 where the options say so. A checkpoint that
    /// is quantised already stays as it is.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`Error::Quantized`] for weights that are not finite.
    pub fn load_with(folder: &Path, device: Device, options: LoadOptions) -> Result<(Self, LoadReport)> {
        let config = LlamaConfig::from_folder(folder)?;
        let name = |name: &str| config.tensor_name(name);
        let specs = config.specs();
        let (parameters, report) =
            quantized::load(folder, specs, device, options, &LlamaConfig::layout_of, &name)?;
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
        copy.rope.kind = self.rope.kind;
        Ok(copy)
    }

    fn assemble(config: LlamaConfig, parameters: Parameters) -> Result<Self> {
        let sites = RefCell::default();
        let root = Leaves::new(&parameters, &sites);
        let leaves = root.below("model");
        let block = |layer: usize| -> Result<Block> {
            let block = leaves.below(format_args!("layers.{layer}"));
            let linear = |name: &str| Linear::new(&block.below(name), Layout::OutIn);
            let norm = |name: &str| RmsNorm::new(&block.below(name), config.rms_norm_eps);
            Ok(Block {
                input_layernorm: norm("input_layernorm")?,
                attention: Attention {
                    q_proj: linear("self_attn.q_proj")?,
                    k_proj: linear("self_attn.k_proj")?,
                    v_proj: linear("self_attn.v_proj")?,
                    o_proj: linear("self_attn.o_proj")?,
                    head_size: config.head_size() as i64,
                    dropout: config.attention_dropout,
                },
                post_attention_layernorm: norm("post_attention_layernorm")?,
                mlp: Mlp {
                    gate_proj: linear("mlp.gate_proj")?,
                    up_proj: linear("mlp.up_proj")?,
                    down_proj: linear("mlp.down_proj")?,
                    activation: config.hidden_act,
                },
            })
        };
        let blocks = (0..config.num_hidden_layers).map(block).collect::<Result<_>>()?;
        let norm = RmsNorm::new(&leaves.below("norm"), config.rms_norm_eps)?;
        let embeddings = leaves.get("embed_tokens.weight")?;
        let head =
            if config.tie_word_embeddings { embeddings.shallow_clone() } else { root.get("lm_head.weight")? };
        let rope = config.rope()?;
        let base = Base {
            embedding: Module::new("model.embed_tokens", &embeddings),
            head: Module::new("lm_head", &head),
            tied: config.tie_word_embeddings,
            layers: config.num_hidden_layers,
            positions: config.max_position_embeddings,
        };
        let state = ModelState::new(parameters, sites.into_inner()).over(base);
        Ok(Self { config, state, rope, embeddings, blocks, norm, head })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Rounds the rotary frequencies to a kind. They are float32 here, as in a model that transformers has loaded; a
    /// model that was cast there with `.to(torch.bfloat16)` has cast its frequencies too, and differs at far positions.
    pub fn round_rope_frequencies(&mut self, kind: Kind) {
        self.rope.kind = kind;
    }
}

impl Model for Llama {
    fn state(&self) -> &ModelState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut ModelState {
        &mut self.state
    }

    fn has_dropout(&self) -> bool {
        self.config.attention_dropout > 0.0 || self.state.adapters.has_dropout()
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
        let pass = Pass {
            kind: self.state.compute_kind(),
            plan: self.state.adapters.plan(batch, train)?,
            angles: self.rope.angles(&batch.positions)?,
            batch,
            train,
        };
        block.forward(x, &pass, None, None)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let value = serde_json::to_value(&self.config).map_err(Error::json(folder.join("config.json")))?;
        config::save(folder, value, "llama", "LlamaForCausalLM", &self.state.parameters)
    }
}

impl CausalLm for Llama {
    fn limits(&self) -> Limits {
        let virtual_tokens = self.state.adapters.virtual_tokens();
        let positions = self.config.max_position_embeddings.saturating_sub(virtual_tokens);
        Limits { vocabulary: self.config.vocab_size, positions }
    }

    fn cache_shape(&self) -> CacheShape {
        CacheShape {
            layers: self.config.num_hidden_layers,
            heads: self.config.key_value_heads() as i64,
            head_size: self.config.head_size() as i64,
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
        let input = adapters.input(
            &self.embeddings,
            self.config.max_position_embeddings,
            batch,
            cache.as_deref_mut(),
        )?;
        let batch = input.batch();
        let mut x = input.words.f_to_kind(Kind::Float)?;
        let mut wanted = input.wanted(at)?;
        if cache.is_none() && recompute::is_wanted(self)? {
            x = recompute::forward(self, x, (batch, None), 0..self.blocks.len(), train)?;
        } else {
            let pass = Pass {
                kind: self.state.compute_kind(),
                plan: adapters.plan(batch, train)?,
                angles: self.rope.angles(&batch.positions)?,
                batch,
                train,
            };
            for (layer, block) in self.blocks.iter().enumerate() {
                let cache = cache.as_deref_mut().and_then(|cache| cache.layer(layer));
                let at = wanted.take_if(|_| layer + 1 == self.blocks.len());
                let at = at.map(|at| adapters.plan_at(batch, at, train)).transpose()?;
                x = block.forward(&x, &pass, cache, at.as_ref())?;
            }
        }
        input.advance(cache);
        self.norm.forward(&tokens_at(x, wanted.as_ref())?)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let kind = self.state.compute_kind();
        let head = self.state.adapters.head().unwrap_or(&self.head);
        if let Some(logits) = cpu::linear(hidden, head, Layout::OutIn, None, kind)? {
            return Ok(logits);
        }
        let logits = hidden.f_to_kind(kind)?.f_mm(&head.f_to_kind(kind)?.f_tr()?)?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }

    fn resize_embeddings(&mut self, vocabulary: usize, how: Resize) -> Result<()> {
        if vocabulary == self.config.vocab_size {
            return Ok(());
        }
        resize::check(&self.config, self.config.vocab_size, vocabulary, how)?;
        let config = LlamaConfig { vocab_size: vocabulary, ..self.config.clone() };
        config.validate()?;
        let deviation = config.initializer_range;
        let parameters = self.state.parameters.resized(config.specs(), how, deviation)?;
        let mut resized = Self::assemble(config, parameters)?;
        resized.rope.kind = self.rope.kind;
        resized.state.take_over(&mut self.state, how, deviation)?;
        *self = resized;
        Ok(())
    }

    fn boxed_copy(&self, kind: Kind) -> Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.copy(kind)?))
    }
}
