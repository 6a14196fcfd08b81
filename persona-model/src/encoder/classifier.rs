//! Sequence classification with BERT and RoBERTa.
//!
//! Follows transformers' `BertForSequenceClassification` and `RobertaForSequenceClassification`.

use std::cell::RefCell;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::Classifier;
use super::bert::{self, Body, Pass};
use super::config::{BertConfig, BertType, Purpose};
use crate::batch::{Batch, Limits};
use crate::error::{Error, Result};
use crate::layers::{Layout, Leaves, Linear};
use crate::model::{Model, ModelState};
use crate::parameters::Parameters;
use crate::weights::{self, LoadReport};

/// What reads the first token's hidden state `x [B, D]`: `out(dropout(tanh(dense(x))))`, in RoBERTa with
/// `dropout(x)` for `x`.
struct Head {
    dense: Linear,
    out: Linear,
    model_type: BertType,
    dropout: f64,
}

impl Head {
    fn forward(&self, x: Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let x = if self.model_type == BertType::Roberta { pass.drop(x, self.dropout)? } else { x };
        let x = pass.linear(&self.dense, &x)?.f_tanh()?;
        let logits = pass.linear(&self.out, &pass.drop(x, self.dropout)?)?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }
}

/// A BERT or RoBERTa that gives each row one of C labels, as judges of entailment do.
///
/// A pair of texts is one row as the checkpoint's tokenizer lays it out: for BERT with token types
/// ([`Batch::with_token_types`]), for RoBERTa with its separators alone.
pub struct BertClassifier {
    config: BertConfig,
    state: ModelState,
    body: Body,
    head: Head,
    labels: Vec<String>,
}

impl std::fmt::Debug for BertClassifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BertClassifier")
            .field("config", &self.config)
            .field("precision", &self.state.precision)
            .finish_non_exhaustive()
    }
}

impl BertClassifier {
    /// A classifier with fresh weights drawn from `seed`, held in `kind` on a device, for the labels of the configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config), for contradictory labels too; libtorch's, out of memory above all.
    pub fn new(config: BertConfig, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        config.validate()?;
        let labels = config.labels()?;
        let parameters = Parameters::new(config.specs(Some(labels.len())), seed, device, kind)?;
        Self::assemble(config, labels, parameters)
    }

    /// Loads a folder in the Hugging Face layout with its head: `config.json` and safetensors, single or sharded. Values
    /// are cast to `kind`; loading is strict (see [`weights::load`]).
    ///
    /// # Errors
    /// Those of [`BertConfig::from_folder`], [`BertConfig::labels`] and [`weights::load`]: a head for another number of
    /// labels is a tensor of another shape.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<(Self, LoadReport)> {
        let config = BertConfig::from_folder(folder)?;
        let labels = config.labels()?;
        let name = |name: &str| config.tensor_name(name, Purpose::Classifier);
        let specs = config.specs(Some(labels.len()));
        let (parameters, report) = weights::load_new(folder, specs, device, kind, &name)?;
        Ok((Self::assemble(config, labels, parameters)?, report))
    }

    /// Puts a fresh head for these labels, drawn from `seed`, on the encoder of a folder. A BERT keeps the checkpoint's
    /// pooler where it has one. What is drawn is listed in [`LoadReport::initialised`].
    ///
    /// # Errors
    /// Those of [`load`](Self::load) for the encoder; [`Error::Config`](crate::Error::Config) for no label, or one that
    /// is there twice.
    pub fn on_encoder(
        folder: &Path,
        labels: &[&str],
        seed: u64,
        device: Device,
        kind: Kind,
    ) -> Result<(Self, LoadReport)> {
        let mut config = BertConfig::from_folder(folder)?;
        config.set_labels(labels);
        let labels = config.labels()?;
        let name = |name: &str| config.tensor_name(name, Purpose::FreshHead);
        let (dense, out) = config.head_names();
        let fresh =
            |name: &str| name.rsplit_once('.').is_some_and(|(module, _)| module == dense || module == out);
        let specs = config.specs(Some(labels.len()));
        let (parameters, report) =
            weights::load_partly(folder, specs, (device, kind), &name, (seed, &fresh))?;
        Ok((Self::assemble(config, labels, parameters)?, report))
    }

    fn assemble(config: BertConfig, labels: Vec<String>, parameters: Parameters) -> Result<Self> {
        let sites = RefCell::default();
        let root = Leaves::new(&parameters, &sites);
        let body = Body::new(&config, &root.below(config.model_type()))?;
        let (dense, out) = config.head_names();
        let head = Head {
            dense: Linear::new(&root.below(dense), Layout::OutIn)?,
            out: Linear::new(&root.below(out), Layout::OutIn)?,
            model_type: config.model_type,
            dropout: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
        };
        let state = ModelState::new(parameters, sites.into_inner());
        Ok(Self { config, state, body, head, labels })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &BertConfig {
        &self.config
    }
}

impl Model for BertClassifier {
    fn state(&self) -> &ModelState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut ModelState {
        &mut self.state
    }

    fn has_dropout(&self) -> bool {
        self.head.dropout > 0.0 || bert::has_dropout(&self.config, &self.state)
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
        bert::save(folder, &self.config, &self.state, Purpose::Classifier)
    }
}

impl Classifier for BertClassifier {
    fn limits(&self) -> Limits {
        bert::limits(&self.config)
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn logits(&self, batch: &Batch, train: bool) -> Result<Tensor> {
        let pass = Pass::new(&self.config, &self.state, batch, train)?;
        let rows = Pass { plan: self.state.adapters.row_plan(batch, train)?, ..pass };
        let hidden = self.body.first_tokens(self, batch, &pass, &rows)?;
        self.head.forward(hidden, &rows)
    }

    fn shift_logits(&mut self, by: &[f64]) -> Result<()> {
        let (name, labels) = (format!("{}.bias", self.config.head_names().1), self.labels.len());
        let bias = self.state.parameters.get(&name).filter(|_| by.len() == labels);
        let Some(bias) = bias else {
            let reason = format!("{} shifts for the {labels} labels of {name}", by.len());
            return Err(Error::Config { key: "id2label", reason });
        };
        let _no_grad = tch::no_grad_guard();
        let by = Tensor::f_from_slice(by)?.f_to_device(bias.device())?.f_to_kind(bias.kind())?;
        let _ = bias.shallow_clone().f_add_(&by)?;
        Ok(())
    }
}
