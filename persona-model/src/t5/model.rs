//! The T5 model: attention, feed-forward layers, blocks, the two stacks, and the head.

use std::cell::RefCell;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::T5Config;
use crate::adapters::Plan;
use crate::attention::{self, Settings};
use crate::batch::{Batch, Limits};
use crate::cache::{CacheShape, KvCache, LayerCache};
use crate::config;
use crate::cpu;
use crate::cross_attention::{Places, SourceCache, attend_to_sources, sources_of};
use crate::encoder_decoder::{DecoderCache, Encoded, EncoderDecoder, Memory};
use crate::error::{Error, Result};
use crate::layers::{Activation, Layout, Leaves, Linear, RmsNorm};
use crate::model::{Model, ModelState};
use crate::parameters::Parameters;
use crate::position_bias::{PositionBias, RelativeBias};
use crate::recompute;
use crate::weights::{self, LoadReport};

/// What one forward pass computes with.
#[derive(Clone, Copy)]
struct Pass<'p> {
    /// The kind of the products.
    kind: Kind,
    /// The kind of attention.
    attention_kind: Kind,
    plan: &'p Plan<'p>,
    /// The share that is dropped.
    dropout: f64,
}

impl Pass<'_> {
    fn drop(&self, x: Tensor) -> Result<Tensor> {
        if self.dropout > 0.0 { Ok(x.f_dropout(self.dropout, true)?) } else { Ok(x) }
    }

    /// Scores are not scaled in T5; the position bias, not the kernel, hides what comes after a token.
    fn settings(&self) -> Settings<'static> {
        Settings { scale: 1.0, dropout: self.dropout, causal: false, kind: self.attention_kind, wanted: None }
    }
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    head_size: i64,
}

impl Attention {
    fn new(leaves: &Leaves<'_>, config: &T5Config) -> Result<Self> {
        let linear = |name: &str| Linear::new(&leaves.below(name), Layout::OutIn);
        let (q, k, v, o) = (linear("q")?, linear("k")?, linear("v")?, linear("o")?);
        Ok(Self { q, k, v, o, head_size: config.d_kv as i64 })
    }

    /// A projection of `x [N, D]` by heads, `[N, H, W]`.
    fn heads(&self, linear: &Linear, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let projected = linear.forward(x, pass.kind, pass.plan)?;
        Ok(projected.f_view([projected.size2()?.0, -1, self.head_size])?)
    }

    /// From every token to its own row, as far as the bias shows it.
    fn on_itself(
        &self,
        x: &Tensor,
        batch: &Batch,
        cache: Option<&mut LayerCache>,
        bias: &PositionBias,
        pass: Pass<'_>,
    ) -> Result<Tensor> {
        let queries = self.heads(&self.q, x, pass)?;
        let (keys, values) = self.memory(x, pass)?;
        let line = (&queries, &keys, &values);
        let attended = attention::attend_biased(line, batch, cache, pass.settings(), Some(bias))?;
        self.o.forward(&attended, pass.kind, pass.plan)
    }

    /// From every token to the whole of its source.
    fn on_sources(
        &self,
        x: &Tensor,
        batch: &Batch,
        reading: &Reading<'_, '_>,
        layer: usize,
        pass: Pass<'_>,
    ) -> Result<Tensor> {
        let (queries, settings) = (self.heads(&self.q, x, pass)?, pass.settings());
        let attended = match reading {
            Reading::Encoded { hidden, source, sources, plan } => {
                let (keys, values) = self.memory(hidden, Pass { plan, ..pass })?;
                attend_to_sources(&queries, (&keys, &values), (batch, source), sources, settings)?
            }
            Reading::Cache { sources, places, .. } => {
                sources.attend(layer, &queries, places.as_ref(), settings)?
            }
        };
        self.o.forward(&attended, pass.kind, pass.plan)
    }

    /// Keys and values.
    fn memory(&self, hidden: &Tensor, pass: Pass<'_>) -> Result<(Tensor, Tensor)> {
        Ok((self.heads(&self.k, hidden, pass)?, self.heads(&self.v, hidden, pass)?))
    }
}

struct FeedForward {
    /// The gate, where there is one.
    gate: Option<Linear>,
    wi: Linear,
    wo: Linear,
    activation: Activation,
}

impl FeedForward {
    fn new(leaves: &Leaves<'_>, config: &T5Config) -> Result<Self> {
        let linear = |name: &str| Linear::new(&leaves.below(name), Layout::OutIn);
        let (gated, activation) = config.feed_forward()?;
        let (gate, wi) = if gated { (Some(linear("wi_0")?), linear("wi_1")?) } else { (None, linear("wi")?) };
        Ok(Self { gate, wi, wo: linear("wo")?, activation })
    }

    fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let Pass { kind, plan, .. } = pass;
        let x = &x.f_to_kind(kind)?;
        let inner = self.wi.forward(x, kind, plan)?;
        let inner = match &self.gate {
            Some(gate) => self.activation.apply(&gate.forward(x, kind, plan)?)?.f_mul(&inner)?,
            None => self.activation.apply(&inner)?,
        };
        self.wo.forward(&pass.drop(inner)?, kind, plan)
    }
}

struct Block {
    self_norm: RmsNorm,
    self_attention: Attention,
    /// In the decoder.
    cross: Option<(RmsNorm, Attention)>,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

/// The encoder or the decoder.
struct Stack {
    bias: RelativeBias,
    blocks: Vec<Block>,
    norm: RmsNorm,
}

impl Stack {
    fn new(leaves: &Leaves<'_>, config: &T5Config, layers: usize, decoder: bool) -> Result<Self> {
        let block = |layer: usize| -> Result<Block> {
            let sub = |at: usize| leaves.below(format_args!("block.{layer}.layer.{at}"));
            let norm = |at: usize| RmsNorm::new(&sub(at).below("layer_norm"), config.layer_norm_epsilon);
            let attention = |at: usize, name: &str| Attention::new(&sub(at).below(name), config);
            let last = if decoder { 2 } else { 1 };
            Ok(Block {
                self_norm: norm(0)?,
                self_attention: attention(0, "SelfAttention")?,
                cross: if decoder { Some((norm(1)?, attention(1, "EncDecAttention")?)) } else { None },
                feed_forward_norm: norm(last)?,
                feed_forward: FeedForward::new(&sub(last).below("DenseReluDense"), config)?,
            })
        };
        let blocks = (0..layers).map(block).collect::<Result<_>>()?;
        let table = leaves.get("block.0.layer.0.SelfAttention.relative_attention_bias.weight")?;
        let bias = RelativeBias::new(table, config.buckets(!decoder), T5Config::POSITIONS)?;
        let norm = RmsNorm::new(&leaves.below("final_layer_norm"), config.layer_norm_epsilon)?;
        Ok(Self { bias, blocks, norm })
    }

    /// The last hidden states `[N, D]` from embedded tokens `[N, D]`.
    fn forward(
        &self,
        embedded: Tensor,
        batch: &Batch,
        mut reading: Option<Reading<'_, '_>>,
        pass: Pass<'_>,
    ) -> Result<Tensor> {
        let bias = self.bias.of_batch(batch, pass.attention_kind)?;
        let mut x = pass.drop(embedded)?;
        for layer in 0..self.blocks.len() {
            x = self.block(layer, &x, (batch, &bias), reading.as_mut(), pass)?;
        }
        pass.drop(self.norm.forward(&x)?)
    }

    /// From the input `[N, D]` of a block to its output.
    fn block(
        &self,
        layer: usize,
        x: &Tensor,
        (batch, bias): (&Batch, &PositionBias),
        mut reading: Option<&mut Reading<'_, '_>>,
        pass: Pass<'_>,
    ) -> Result<Tensor> {
        let block = self.blocks.get(layer).ok_or_else(|| Error::Batch(format!("no block {layer}")))?;
        let normed = block.self_norm.forward(x)?.f_to_kind(pass.kind)?;
        let own = reading.as_deref_mut().and_then(|reading| reading.own(layer));
        let attended = block.self_attention.on_itself(&normed, batch, own, bias, pass)?;
        let mut x = x.f_add(&pass.drop(attended)?)?;
        if let (Some((norm, attention)), Some(reading)) = (&block.cross, reading) {
            let normed = norm.forward(&x)?.f_to_kind(pass.kind)?;
            let attended = attention.on_sources(&normed, batch, reading, layer, pass)?;
            x = x.f_add(&pass.drop(attended)?)?;
        }
        let normed = block.feed_forward_norm.forward(&x)?;
        Ok(x.f_add(&pass.drop(block.feed_forward.forward(&normed, pass)?)?)?)
    }
}

/// Where the decoder reads its sources, made ready for one forward pass.
enum Reading<'m, 'b> {
    /// The encoder's states in the kind of the products, and the source row of each target row.
    Encoded { hidden: Tensor, source: &'b Batch, sources: Vec<usize>, plan: Plan<'m> },
    /// Keys and values held, and the place of each token beside them.
    Cache { own: &'m mut KvCache, sources: &'m SourceCache, places: Option<Places> },
}

impl Reading<'_, '_> {
    /// The targets' own keys and values in a layer.
    fn own(&mut self, layer: usize) -> Option<&mut LayerCache> {
        match self {
            Self::Encoded { .. } => None,
            Self::Cache { own, .. } => own.layer(layer),
        }
    }
}

/// A T5 encoder-decoder.
pub struct T5 {
    config: T5Config,
    state: ModelState,
    embeddings: Tensor,
    encoder: Stack,
    decoder: Stack,
    head: Tensor,
    start: u32,
}

impl std::fmt::Debug for T5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("T5")
            .field("config", &self.config)
            .field("precision", &self.state.precision)
            .finish_non_exhaustive()
    }
}

impl T5 {
    /// A model with fresh weights drawn from `seed`, held in `kind` on a device.
    ///
    /// # Errors
    /// [`Error::Config`] and libtorch's, out of memory above all.
    pub fn new(config: T5Config, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        config.validate()?;
        let parameters = Parameters::new(config.specs(), seed, device, kind)?;
        Self::assemble(config, parameters)
    }

    /// Loads a folder in the Hugging Face layout: `config.json` and safetensors, single or sharded. Values are cast to
    /// `kind`; loading is strict (see [`weights::load`]), and copies of the embeddings must equal them. A head in the
    /// weights of a model whose outputs are not scaled counts, though its configuration say that it is tied: so does
    /// transformers 5 write T5 1.1.
    ///
    /// # Errors
    /// Those of [`T5Config::from_folder`] and [`weights::load`].
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<(Self, LoadReport)> {
        let config = T5Config::from_folder(folder)?.with_head_of(folder)?;
        let name = |name: &str| config.tensor_name(name);
        let (parameters, report) = weights::load_new(folder, config.specs(), device, kind, &name)?;
        Ok((Self::assemble(config, parameters)?, report))
    }

    /// A copy of this model with storage of its own, held in `kind`: a frozen reference, or weights in bfloat16 for
    /// decoding.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn copy(&self, kind: Kind) -> Result<Self> {
        let mut parameters = Parameters::zeros(self.config.specs(), self.state.parameters.device(), kind)?;
        parameters.copy_from(&self.state.parameters)?;
        let mut copy = Self::assemble(self.config.clone(), parameters)?;
        copy.state.precision = self.state.precision;
        Ok(copy)
    }

    fn assemble(config: T5Config, parameters: Parameters) -> Result<Self> {
        let sites = RefCell::default();
        let root = Leaves::new(&parameters, &sites);
        let encoder = Stack::new(&root.below("encoder"), &config, config.num_layers, false)?;
        let decoder = Stack::new(&root.below("decoder"), &config, config.decoder_layers(), true)?;
        let embeddings = root.get("shared.weight")?;
        let head =
            if config.tie_word_embeddings { embeddings.shallow_clone() } else { root.get("lm_head.weight")? };
        let start = config.start_token()?;
        let mut state = ModelState::new(parameters, sites.into_inner());
        state.adapters.set_task("SEQ_2_SEQ_LM");
        Ok(Self { config, state, embeddings, encoder, decoder, head, start })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    fn pass<'p>(&self, plan: &'p Plan<'p>, train: bool) -> Pass<'p> {
        let (kind, attention_kind) = (self.state.compute_kind(), self.state.attention_kind());
        Pass { kind, attention_kind, plan, dropout: if train { self.config.dropout_rate } else { 0.0 } }
    }

    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let words = Tensor::f_embedding(&self.embeddings, &batch.ids, -1, false, false)?;
        Ok(words.f_to_kind(Kind::Float)?)
    }

    /// What a decoder reads of the encoder's states.
    fn reading<'m, 'b>(
        &'m self,
        target: &Batch,
        source: &'b Batch,
        hidden: &Tensor,
        train: bool,
    ) -> Result<Reading<'m, 'b>> {
        let sources = sources_of(target, source)?;
        self.check_adapters(target, source, &sources)?;
        let hidden = hidden.f_to_kind(self.state.compute_kind())?;
        Ok(Reading::Encoded { hidden, source, sources, plan: self.state.adapters.plan(source, train)? })
    }

    /// A target row and its source row are computed with one adapter.
    fn check_adapters(&self, target: &Batch, source: &Batch, sources: &[usize]) -> Result<()> {
        let of = |batch: &Batch, row: usize| match batch.adapters() {
            Some(adapters) => adapters.get(row).copied().flatten(),
            None => self.state.adapters.active(),
        };
        match sources.iter().enumerate().find(|&(row, &from)| of(target, row) != of(source, from)) {
            Some((row, from)) => {
                let reason = format!(
                    "target row {row} and source row {from}, which it reads, have different adapters"
                );
                Err(Error::Batch(reason))
            }
            None => Ok(()),
        }
    }
}

impl Model for T5 {
    fn state(&self) -> &ModelState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut ModelState {
        &mut self.state
    }

    fn has_dropout(&self) -> bool {
        self.config.dropout_rate > 0.0 || self.state.adapters.has_dropout()
    }

    fn blocks(&self) -> usize {
        self.encoder.blocks.len() + self.decoder.blocks.len()
    }

    /// The encoder's blocks, then the decoder's.
    fn block(
        &self,
        layer: usize,
        x: &Tensor,
        batch: &Batch,
        source: Option<&Batch>,
        train: bool,
    ) -> Result<Tensor> {
        let plan = self.state.adapters.plan(batch, train)?;
        let pass = self.pass(&plan, train);
        let Some(source) = source else {
            let bias = self.encoder.bias.of_batch(batch, pass.attention_kind)?;
            return self.encoder.block(layer, x, (batch, &bias), None, pass);
        };
        let layer = layer.checked_sub(self.encoder.blocks.len());
        let layer = layer.ok_or_else(|| Error::Batch("a block of the encoder reads no source".into()))?;
        let parts = x.f_split_with_sizes([batch.tokens() as i64, source.tokens() as i64], 0)?;
        let [x, hidden] = &parts[..] else { return Err(Error::Batch("states without a source's".into())) };
        let bias = self.decoder.bias.of_batch(batch, pass.attention_kind)?;
        let mut reading = self.reading(batch, source, hidden, train)?;
        let x = self.decoder.block(layer, x, (batch, &bias), Some(&mut reading), pass)?;
        Ok(Tensor::f_cat(&[&x, hidden], 0)?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let mut value =
            serde_json::to_value(&self.config).map_err(Error::json(folder.join("config.json")))?;
        // Readers differ in what follows from a missing key.
        value["scale_decoder_outputs"] = self.config.scales_outputs().into();
        config::save(folder, value, "t5", "T5ForConditionalGeneration", &self.state.parameters)
    }
}

impl EncoderDecoder for T5 {
    fn limits(&self) -> Limits {
        Limits { vocabulary: self.config.vocab_size, positions: T5Config::POSITIONS }
    }

    fn start_token(&self) -> u32 {
        self.start
    }

    fn encode<'b>(&self, source: &'b Batch, train: bool) -> Result<Encoded<'b>> {
        source.check_alone()?;
        source.check_untyped()?;
        let plan = self.state.adapters.plan(source, train)?;
        let (pass, embedded) = (self.pass(&plan, train), self.embed(source)?);
        let hidden = if recompute::is_wanted(self)? {
            let first = pass.drop(embedded)?;
            let x = recompute::forward(self, first, (source, None), 0..self.encoder.blocks.len(), train)?;
            pass.drop(self.encoder.norm.forward(&x)?)?
        } else {
            self.encoder.forward(embedded, source, None, pass)?
        };
        Ok(Encoded { hidden, source })
    }

    fn decode(&self, target: &Batch, memory: Memory<'_, '_>, train: bool) -> Result<Tensor> {
        target.check_untyped()?;
        let plan = self.state.adapters.plan(target, train)?;
        let pass = self.pass(&plan, train);
        match memory {
            Memory::Encoded(Encoded { hidden, source }) => {
                let reading = self.reading(target, source, hidden, train)?;
                let embedded = self.embed(target)?;
                if !recompute::is_wanted(self)? {
                    return self.decoder.forward(embedded, target, Some(reading), pass);
                }
                let first = Tensor::f_cat(&[&pass.drop(embedded)?, hidden], 0)?;
                let layers = self.encoder.blocks.len()..self.blocks();
                let x = recompute::forward(self, first, (target, Some(source)), layers, train)?;
                let x = x.f_narrow(0, 0, target.tokens() as i64)?;
                pass.drop(self.decoder.norm.forward(&x)?)
            }
            Memory::Cache(DecoderCache { own, sources }) => {
                own.prepare(target, &[])?;
                let places = sources.places(target)?;
                let reading = Reading::Cache { own, sources, places };
                let hidden = self.decoder.forward(self.embed(target)?, target, Some(reading), pass)?;
                own.advance(target);
                Ok(hidden)
            }
        }
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let kind = self.state.compute_kind();
        let hidden = if self.config.scales_outputs() {
            hidden.f_mul_scalar((self.config.d_model as f64).powf(-0.5))?
        } else {
            hidden.shallow_clone()
        };
        if let Some(logits) = cpu::linear(&hidden, &self.head, Layout::OutIn, None, kind)? {
            return Ok(logits);
        }
        let logits = hidden.f_to_kind(kind)?.f_mm(&self.head.f_to_kind(kind)?.f_tr()?)?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }

    fn cache(&self, encoded: &Encoded<'_>, sources: &[usize], tokens: usize) -> Result<DecoderCache> {
        let Encoded { hidden, source } = encoded;
        let plan = self.state.adapters.plan(source, false)?;
        let pass = self.pass(&plan, false);
        let hidden = hidden.f_to_kind(pass.kind)?;
        let crosses = self.decoder.blocks.iter().filter_map(|block| block.cross.as_ref());
        let memories = crosses.map(|(_, attention)| attention.memory(&hidden, pass));
        let shape = CacheShape {
            layers: self.config.decoder_layers(),
            heads: self.config.num_heads as i64,
            head_size: self.config.d_kv as i64,
            kind: self.state.attention_kind(),
        };
        Ok(DecoderCache {
            own: KvCache::new(shape, sources.len(), tokens, self.device())?,
            sources: SourceCache::new(source, memories.collect::<Result<_>>()?, sources)?,
        })
    }
}
