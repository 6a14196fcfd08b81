//! Classes of texts: judges of entailment, and whatever else an encoder is to tell apart.

use persona_data::{EncodedText, LabelledText};
use persona_model::{Batch, Classifier, Limits};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::objective::{Contribution, Mean, Objective};

/// The mean cross-entropy of texts or pairs of texts over C classes. Where classes have weights, a text's loss counts by
/// the weight of its label, in numerator and count alike: `sum_i w(y_i) nll_i / sum_i w(y_i)`, as torch's `CrossEntropyLoss`.
///
/// Logged beside the loss, all without weights: `accuracy`, the share of texts whose label has the highest logit, and for
/// each class `f1/CLASS`, the harmonic mean of precision and recall, where the class was given or right at all.
#[derive(Debug)]
pub struct Classify<M> {
    model: M,
    /// One a class; empty for 1 each.
    weights: Vec<f64>,
}

impl<M: Classifier> Classify<M> {
    /// With weight 1 for every class.
    pub fn new(model: M) -> Self {
        Self { model, weights: Vec::new() }
    }

    /// Sets the weight of every class, in the order of the model's labels.
    ///
    /// # Errors
    /// [`Error::Config`] unless there is one a class, each above 0 and finite.
    pub fn class_weights(mut self, weights: &[f64]) -> Result<Self> {
        let classes = self.model.labels();
        let good = weights.iter().all(|weight| *weight > 0.0 && weight.is_finite());
        if weights.len() != classes.len() || !good {
            let classes = classes.join(", ");
            let reason = format!("is {weights:?}; give one above 0 for each of {classes}");
            return Err(Error::Config { key: "class_weights", reason });
        }
        self.weights = weights.to_vec();
        Ok(self)
    }

    /// The model, after training.
    pub fn into_model(self) -> M {
        self.model
    }

    fn weight(&self, label: usize) -> f64 {
        self.weights.get(label).copied().unwrap_or(1.0)
    }
}

/// The batch of some texts, one row each, with their token types where any is not 0.
///
/// # Errors
/// The model's for a text that is too long, has no token, or ids beyond the vocabulary, each with the row.
pub fn text_batch(texts: &[&EncodedText], limits: Limits, device: Device) -> Result<Batch> {
    let rows: Vec<&[u32]> = texts.iter().map(|text| text.ids.as_slice()).collect();
    let types: Vec<&[u32]> = texts.iter().map(|text| text.token_types.as_slice()).collect();
    Ok(Batch::typed_rows_of(&rows, &types, limits, device)?)
}

impl<M: Classifier> Objective for Classify<M> {
    type Item = LabelledText;
    type Model = M;

    fn model(&self) -> &M {
        &self.model
    }

    fn model_mut(&mut self) -> &mut M {
        &mut self.model
    }

    fn describe(&self) -> String {
        let classes = self.model.labels().iter().enumerate().map(|(at, name)| {
            if self.weights.is_empty() { name.clone() } else { format!("{name}={}", self.weight(at)) }
        });
        format!("classify {}", classes.collect::<Vec<_>>().join(" "))
    }

    fn unit(&self) -> &'static str {
        "texts"
    }

    fn id<'a>(&self, item: &'a LabelledText) -> &'a str {
        &item.id
    }

    fn tokens(&self, item: &LabelledText) -> usize {
        item.text.ids.len()
    }

    fn digest(&self, item: &LabelledText, sink: &mut dyn FnMut(&[u8])) {
        sink(&(item.label as u64).to_le_bytes());
        for ids in [&item.text.ids, &item.text.token_types] {
            sink(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| sink(&id.to_le_bytes()));
        }
    }

    fn count(&self, items: &[&LabelledText]) -> f64 {
        items.iter().map(|item| self.weight(item.label)).sum()
    }

    fn evaluate(&self, items: &[&LabelledText], train: bool) -> Result<Contribution> {
        let classes = self.model.labels().len();
        if let Some(item) = items.iter().find(|item| item.label >= classes) {
            let reason =
                format!("{:?} has label {}; the model has {classes} classes, from 0", item.id, item.label);
            return Err(Error::Config { key: "label", reason });
        }
        let texts: Vec<&EncodedText> = items.iter().map(|item| &item.text).collect();
        let device = self.model.device();
        let logits = self.model.logits(&text_batch(&texts, self.model.limits(), device)?, train)?;
        let labels: Vec<i64> = items.iter().map(|item| item.label as i64).collect();
        let labels = Tensor::f_from_slice(&labels)?.f_to_device(device)?;
        let log_probs = logits.f_log_softmax(-1, Kind::Float)?;
        let losses = log_probs.f_gather(1, &labels.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?.f_neg()?;
        let numerator = if self.weights.is_empty() {
            losses.f_sum(Kind::Float)?
        } else {
            let weights: Vec<f32> = items.iter().map(|item| self.weight(item.label) as f32).collect();
            losses.f_mul(&Tensor::f_from_slice(&weights)?.f_to_device(device)?)?.f_sum(Kind::Float)?
        };
        let found = Vec::<i64>::try_from(logits.f_argmax(-1, false)?)?;
        Ok(Contribution { numerator, means: agreement(self.model.labels(), items, &found) })
    }
}

/// Accuracy, and the F1 of each class: 2 TP / (2 TP + FP + FN), a ratio of sums over all micro-batches.
fn agreement(classes: &[String], items: &[&LabelledText], found: &[i64]) -> Vec<(String, Mean)> {
    let count = |holds: &dyn Fn(usize, usize) -> bool| {
        items.iter().zip(found).filter(|(item, found)| holds(item.label, **found as usize)).count() as f64
    };
    let accuracy = Mean { sum: count(&|label, found| label == found), count: items.len() as f64 };
    let f1 = classes.iter().enumerate().map(|(class, name)| {
        let both = 2.0 * count(&|label, found| label == class && found == class);
        let one = count(&|label, found| (label == class) != (found == class));
        (format!("f1/{}", name.to_lowercase()), Mean { sum: both, count: both + one })
    });
    std::iter::once(("accuracy".to_owned(), accuracy)).chain(f1).collect()
}
