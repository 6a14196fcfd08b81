//! What embeddings, BERTScore and judges ask of models that read a text whole.

mod bert;
mod classifier;
mod config;
mod pooling;

use std::path::Path;

use tch::{Device, Kind, Tensor};

pub use self::bert::Bert;
pub use self::classifier::BertClassifier;
pub use self::config::{BertConfig, BertType};
pub use self::pooling::{Pooling, unit_length};
use crate::batch::{Batch, Limits};
use crate::error::Result;
use crate::model::Model;
use crate::weights::LoadReport;

/// A model that reads texts: every token's hidden state depends on the whole of its row.
pub trait Encoder: Model {
    /// The vocabulary and the longest row.
    fn limits(&self) -> Limits;

    /// The number of layers.
    fn layers(&self) -> usize;

    /// The output `[N, D]` in float32 of a layer for the batch's N tokens: 0 is what the embeddings give,
    /// [`layers`](Self::layers) the last hidden states. Later layers are not computed. `train` switches dropout on,
    /// drawn from libtorch's generator: seed it first.
    ///
    /// # Errors
    /// [`Error::Batch`](crate::Error::Batch) for a layer that the model does not have, a row that continues another or
    /// a cache, and token types out of range; libtorch's.
    fn layer_output(&self, batch: &Batch, layer: usize, train: bool) -> Result<Tensor>;

    /// The last hidden states `[N, D]` in float32.
    ///
    /// # Errors
    /// As [`layer_output`](Self::layer_output).
    fn hidden(&self, batch: &Batch, train: bool) -> Result<Tensor> {
        self.layer_output(batch, self.layers(), train)
    }

    /// One embedding of length 1 for each of the batch's B rows, `[B, D]` in float32: products of two are cosines.
    /// all-MiniLM pools by [`Pooling::Mean`]. For gradients or plain pooled states use [`Pooling::of`].
    ///
    /// # Errors
    /// As [`layer_output`](Self::layer_output).
    fn embed(&self, batch: &Batch, pooling: Pooling) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        unit_length(&pooling.of(&self.hidden(batch, false)?, batch)?)
    }
}

/// A model that gives each text, or each pair of texts, one of C labels.
pub trait Classifier: Model {
    /// The vocabulary and the longest row.
    fn limits(&self) -> Limits;

    /// The C labels, in the order of the logits: `id2label` of the configuration.
    fn labels(&self) -> &[String];

    /// The logits `[B, C]` in float32 of the batch's B rows. `train` switches dropout on, drawn from libtorch's
    /// generator: seed it first.
    ///
    /// # Errors
    /// As [`Encoder::layer_output`].
    fn logits(&self, batch: &Batch, train: bool) -> Result<Tensor>;

    /// Adds a number to each of the C logits, in the head's bias: for classes whose shares are not those of training.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for another number of shifts than labels; libtorch's.
    fn shift_logits(&mut self, by: &[f64]) -> Result<()>;
}

/// Loads the encoder of a folder in the Hugging Face layout, whichever it is: `model_type` in its `config.json` says so.
/// Values are cast to `kind`; loading is strict. Heads in the checkpoint are left aside and reported as ignored.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for an architecture that this crate does not have, and those of
/// [`load`](crate::load).
pub fn load_encoder(folder: &Path, device: Device, kind: Kind) -> Result<(Box<dyn Encoder>, LoadReport)> {
    let (model, report) = Bert::load(folder, device, kind)?;
    Ok((Box::new(model), report))
}

/// Loads the sequence classifier of a folder in the Hugging Face layout, as [`load_encoder`] does an encoder. The
/// checkpoint must hold the head: for a fresh one see [`classifier_on_encoder`].
///
/// # Errors
/// Those of [`load_encoder`], and [`Error::Config`](crate::Error::Config) for labels that contradict each other.
pub fn load_classifier(
    folder: &Path,
    device: Device,
    kind: Kind,
) -> Result<(Box<dyn Classifier>, LoadReport)> {
    let (model, report) = BertClassifier::load(folder, device, kind)?;
    Ok((Box::new(model), report))
}

/// Puts a fresh head for these labels, drawn from `seed`, on the encoder of a folder, to be trained. What is drawn is
/// listed in [`LoadReport::initialised`], a head that the checkpoint has for other labels in [`LoadReport::ignored`].
///
/// # Errors
/// Those of [`load_encoder`], and [`Error::Config`](crate::Error::Config) for no label, or one that is there twice.
pub fn classifier_on_encoder(
    folder: &Path,
    labels: &[&str],
    seed: u64,
    device: Device,
    kind: Kind,
) -> Result<(Box<dyn Classifier>, LoadReport)> {
    let (model, report) = BertClassifier::on_encoder(folder, labels, seed, device, kind)?;
    Ok((Box::new(model), report))
}

impl<M: Encoder + ?Sized> Encoder for Box<M> {
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn layers(&self) -> usize {
        (**self).layers()
    }

    fn layer_output(&self, batch: &Batch, layer: usize, train: bool) -> Result<Tensor> {
        (**self).layer_output(batch, layer, train)
    }
}

impl<M: Classifier + ?Sized> Classifier for Box<M> {
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn labels(&self) -> &[String] {
        (**self).labels()
    }

    fn logits(&self, batch: &Batch, train: bool) -> Result<Tensor> {
        (**self).logits(batch, train)
    }

    fn shift_logits(&mut self, by: &[f64]) -> Result<()> {
        (**self).shift_logits(by)
    }
}
