//! BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019), which has the same layers.
//!
//! Follows transformers' `BertModel` and `RobertaModel` without their poolers: same configuration keys, tensor names and
//! numbers. Unlike there, a row has no padding, and a padding id in it is a token like others.

use std::cell::RefCell;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::Encoder;
use super::config::{BertConfig, Purpose};
use crate::adapters::Plan;
use crate::attention::{self, Settings};
use crate::batch::{Batch, Limits, tokens_at};
use crate::config;
use crate::error::{Error, Result};
use crate::layers::{LayerNorm, Layout, Leaves, Linear};
use crate::model::{Model, ModelState};
use crate::parameters::Parameters;
use crate::recompute;
use crate::weights::{self, LoadReport};

/// What one forward pass is computed with.
pub(super) struct Pass<'a> {
    pub(super) config: &'a BertConfig,
    pub(super) kind: Kind,
    pub(super) plan: Plan<'a>,
    pub(super) train: bool,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        config: &'a BertConfig,
        state: &'a ModelState,
        batch: &Batch,
        train: bool,
    ) -> Result<Self> {
        Ok(Self { config, kind: state.compute_kind(), plan: state.adapters.plan(batch, train)?, train })
    }

    pub(super) fn linear(&self, linear: &Linear, x: &Tensor) -> Result<Tensor> {
        linear.forward(x, self.kind, &self.plan)
    }

    pub(super) fn drop(&self, x: Tensor, share: f64) -> Result<Tensor> {
        if self.train && share > 0.0 { Ok(x.f_dropout(share, true)?) } else { Ok(x) }
    }

    /// `norm(x + dropout(inner))`.
    fn joined(&self, x: &Tensor, inner: Tensor, norm: &LayerNorm) -> Result<Tensor> {
        norm.forward(&x.f_add(&self.drop(inner, self.config.hidden_dropout_prob)?)?)
    }
}

struct Embeddings {
    words: Tensor,
    positions: Tensor,
    token_types: Tensor,
    norm: LayerNorm,
}

impl Embeddings {
    fn forward(&self, batch: &Batch, pass: &Pass<'_>) -> Result<Tensor> {
        let embed = |table: &Tensor, ids: &Tensor| Tensor::f_embedding(table, ids, -1, false, false);
        let types = match batch.token_types(pass.config.type_vocab_size)? {
            Some(types) => embed(&self.token_types, types)?,
            None => self.token_types.f_narrow(0, 0, 1)?,
        };
        let positions = match pass.config.first_position() {
            0 => embed(&self.positions, &batch.positions)?,
            first => embed(&self.positions, &batch.positions.f_add_scalar(first as i64)?)?,
        };
        let sum = embed(&self.words, &batch.ids)?.f_add(&types)?.f_add(&positions)?;
        pass.drop(self.norm.forward(&sum.f_to_kind(Kind::Float)?)?, pass.config.hidden_dropout_prob)
    }
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
}

impl Attention {
    fn forward(&self, x: &Tensor, batch: &Batch, pass: &Pass<'_>, wanted: Option<&Tensor>) -> Result<Tensor> {
        let config = pass.config;
        let heads = config.num_attention_heads as i64;
        let x = &x.f_to_kind(pass.kind)?;
        let project =
            |linear: &Linear| Ok::<_, Error>(pass.linear(linear, x)?.f_view([x.size2()?.0, heads, -1])?);
        let settings = Settings {
            scale: ((config.hidden_size / config.num_attention_heads) as f64).powf(-0.5),
            dropout: if pass.train { config.attention_probs_dropout_prob } else { 0.0 },
            causal: false,
            kind: pass.kind,
            wanted,
        };
        let (queries, keys) = (project(&self.query)?, project(&self.key)?);
        attention::attend(&queries, &keys, &project(&self.value)?, batch, None, settings)
    }
}

struct Block {
    attention: Attention,
    attention_output: (Linear, LayerNorm),
    intermediate: Linear,
    output: (Linear, LayerNorm),
}

impl Block {
    /// With `at` only what becomes of the tokens there, computed as its pass says.
    fn forward(
        &self,
        x: &Tensor,
        batch: &Batch,
        pass: &Pass<'_>,
        at: Option<(&Tensor, &Pass<'_>)>,
    ) -> Result<Tensor> {
        let (dense, norm) = &self.attention_output;
        let attended = self.attention.forward(x, batch, pass, at.map(|(places, _)| places))?;
        let (places, pass) = at.map_or((None, pass), |(places, pass)| (Some(places), pass));
        let (x, attended) = (tokens_at(x.shallow_clone(), places)?, tokens_at(attended, places)?);
        let x = pass.joined(&x, pass.linear(dense, &attended)?, norm)?;
        let inner = pass.linear(&self.intermediate, &x)?;
        let (dense, norm) = &self.output;
        pass.joined(&x, dense.forward_activated(&inner, pass.config.hidden_act, pass.kind, &pass.plan)?, norm)
    }
}

/// The layers below any head.
pub(super) struct Body {
    embeddings: Embeddings,
    blocks: Vec<Block>,
}

impl Body {
    pub(super) fn new(config: &BertConfig, leaves: &Leaves<'_>) -> Result<Self> {
        let norm = |leaves: &Leaves<'_>| LayerNorm::new(&leaves.below("LayerNorm"), config.layer_norm_eps);
        let block = |layer: usize| -> Result<Block> {
            let block = leaves.below(format_args!("encoder.layer.{layer}"));
            let linear = |name: &str| Linear::new(&block.below(name), Layout::OutIn);
            let output = |name: &str| {
                let output = block.below(name);
                Ok::<_, Error>((Linear::new(&output.below("dense"), Layout::OutIn)?, norm(&output)?))
            };
            Ok(Block {
                attention: Attention {
                    query: linear("attention.self.query")?,
                    key: linear("attention.self.key")?,
                    value: linear("attention.self.value")?,
                },
                attention_output: output("attention.output")?,
                intermediate: linear("intermediate.dense")?,
                output: output("output")?,
            })
        };
        let below = leaves.below("embeddings");
        let embeddings = Embeddings {
            words: below.get("word_embeddings.weight")?,
            positions: below.get("position_embeddings.weight")?,
            token_types: below.get("token_type_embeddings.weight")?,
            norm: norm(&below)?,
        };
        Ok(Self { embeddings, blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_>>()? })
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// One block in training.
    pub(super) fn block(&self, layer: usize, x: &Tensor, batch: &Batch, pass: &Pass<'_>) -> Result<Tensor> {
        let block = self.blocks.get(layer).ok_or_else(|| Error::Batch(format!("no block {layer}")))?;
        block.forward(x, batch, pass, None)
    }

    /// The output `[N, D]` in float32 of a layer of the model that this is the body of.
    pub(super) fn forward(
        &self,
        model: &dyn Model,
        batch: &Batch,
        layer: usize,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        self.up_to(model, batch, layer, pass, None)
    }

    /// The last output `[B, D]` in float32 of each row's first token; the last layer computes no other. `rows` is the pass
    /// of one vector a row.
    pub(super) fn first_tokens(
        &self,
        model: &dyn Model,
        batch: &Batch,
        pass: &Pass<'_>,
        rows: &Pass<'_>,
    ) -> Result<Tensor> {
        let starts = batch.starts()?;
        self.up_to(model, batch, self.blocks.len(), pass, Some((&starts, rows)))
    }

    fn up_to(
        &self,
        model: &dyn Model,
        batch: &Batch,
        layer: usize,
        pass: &Pass<'_>,
        at: Option<(&Tensor, &Pass<'_>)>,
    ) -> Result<Tensor> {
        batch.check_alone()?;
        let Some(blocks) = self.blocks.get(..layer) else {
            let layers = self.blocks.len();
            return Err(Error::Batch(format!("layer {layer} of an encoder that has {layers} layers")));
        };
        let mut x = self.embeddings.forward(batch, pass)?;
        if recompute::is_wanted(model)? {
            let all = recompute::forward(model, x, (batch, None), 0..layer, pass.train)?;
            return tokens_at(all, at.map(|(places, _)| places));
        }
        let Some((last, before)) = blocks.split_last() else {
            return tokens_at(x, at.map(|(places, _)| places));
        };
        for block in before {
            x = block.forward(&x, batch, pass, None)?;
        }
        last.forward(&x, batch, pass, at)
    }
}

/// A BERT or RoBERTa encoder.
///
/// Position embeddings of a RoBERTa count from the padding id + 1, so that its longest row is shorter by as much. The
/// pooler that BERT was pretrained with belongs to the classifier: see [`BertClassifier`](super::BertClassifier).
pub struct Bert {
    config: BertConfig,
    state: ModelState,
    body: Body,
}

impl std::fmt::Debug for Bert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bert")
            .field("config", &self.config)
            .field("precision", &self.state.precision)
            .finish_non_exhaustive()
    }
}

impl Bert {
    /// A model with fresh weights drawn from `seed`, held in `kind` on a device.
    ///
    /// # Errors
    /// [`Error::Config`] and libtorch's, out of memory above all.
    pub fn new(config: BertConfig, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        config.validate()?;
        let parameters = Parameters::new(config.specs(None), seed, device, kind)?;
        Self::assemble(config, parameters)
    }

    /// Loads a folder in the Hugging Face layout: `config.json` and safetensors, single or sharded. Values are cast to
    /// `kind`; loading is strict (see [`weights::load`]). Poolers and heads are left aside and reported as ignored.
    ///
    /// # Errors
    /// Those of [`BertConfig::from_folder`] and [`weights::load`].
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<(Self, LoadReport)> {
        let config = BertConfig::from_folder(folder)?;
        let name = |name: &str| config.tensor_name(name, Purpose::Encoder);
        let (parameters, report) = weights::load_new(folder, config.specs(None), device, kind, &name)?;
        Ok((Self::assemble(config, parameters)?, report))
    }

    fn assemble(config: BertConfig, parameters: Parameters) -> Result<Self> {
        let sites = RefCell::default();
        let body = Body::new(&config, &Leaves::new(&parameters, &sites))?;
        Ok(Self { config, state: ModelState::new(parameters, sites.into_inner()), body })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &BertConfig {
        &self.config
    }
}

/// Whether a forward pass in training draws from libtorch's generator.
pub(super) fn has_dropout(config: &BertConfig, state: &ModelState) -> bool {
    let base = [config.hidden_dropout_prob, config.attention_probs_dropout_prob];
    state.adapters.has_dropout() || base.iter().any(|&share| share > 0.0)
}

/// Writes the model as the class of transformers that holds these parameters.
pub(super) fn save(folder: &Path, config: &BertConfig, state: &ModelState, purpose: Purpose) -> Result<()> {
    let value = serde_json::to_value(config).map_err(Error::json(folder.join("config.json")))?;
    config::save(folder, value, config.model_type(), config.architecture(purpose), &state.parameters)
}

pub(super) fn limits(config: &BertConfig) -> Limits {
    let positions = config.max_position_embeddings - config.first_position();
    Limits { vocabulary: config.vocab_size, positions }
}

impl Model for Bert {
    fn state(&self) -> &ModelState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut ModelState {
        &mut self.state
    }

    fn has_dropout(&self) -> bool {
        has_dropout(&self.config, &self.state)
    }

    fn blocks(&self) -> usize {
        self.body.blocks()
    }

    fn block(
        &self,
        layer: usize,
        x: &Tensor,
        batch: &Batch,
        _: Option<&Batch>,
        train: bool,
    ) -> Result<Tensor> {
        self.body.block(layer, x, batch, &Pass::new(&self.config, &self.state, batch, train)?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        save(folder, &self.config, &self.state, Purpose::Encoder)
    }
}

impl Encoder for Bert {
    fn limits(&self) -> Limits {
        limits(&self.config)
    }

    fn layers(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn layer_output(&self, batch: &Batch, layer: usize, train: bool) -> Result<Tensor> {
        self.body.forward(self, batch, layer, &Pass::new(&self.config, &self.state, batch, train)?)
    }
}
