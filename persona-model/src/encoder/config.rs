//! `config.json` of BERT and RoBERTa, and the names of their tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{self, OtherKeys};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::parameters::{Init, ParameterSpec};
use crate::weights::TensorName;

/// `model_type`: which of the two, where they differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BertType {
    /// Positions count from 0. The classifier's head is a pooler (dense, tanh) and a linear layer.
    #[default]
    Bert,
    /// Positions count from the padding id + 1. The classifier's head is dense, tanh and a linear layer, with dropout
    /// before the first too.
    Roberta,
}

/// `config.json` of a BERT or RoBERTa, with Hugging Face's keys and defaults. Keys that are not known here are kept and
/// written back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the keys are Hugging Face's
pub struct BertConfig {
    pub model_type: BertType,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub initializer_range: f64,
    pub layer_norm_eps: f64,
    /// 0 for BERT and 1 for RoBERTa where the key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
    /// `hidden_dropout_prob` where the key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier_dropout: Option<f64>,
    /// Labels by the index of their logit, which JSON writes as text. See [`BertConfig::labels`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id2label: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label2id: Option<BTreeMap<String, usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_labels: Option<usize>,
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for BertConfig {
    /// BERT base: 110 million parameters.
    fn default() -> Self {
        Self {
            model_type: BertType::Bert,
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: None,
            classifier_dropout: None,
            id2label: None,
            label2id: None,
            num_labels: None,
            other: OtherKeys::new(),
        }
    }
}

/// What a checkpoint is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Hidden states.
    Encoder,
    /// Classes, by the checkpoint's head.
    Classifier,
    /// Classes, by a fresh head.
    FreshHead,
}

impl BertConfig {
    /// Reads `config.json` of a folder, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], and [`Error::Config`] for another architecture or values out of range.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let keys: OtherKeys = config::read(folder)?;
        let model_type = keys.get("model_type").and_then(Value::as_str);
        if !matches!(model_type, Some("bert" | "roberta")) {
            return Err(config::unknown_model_type(model_type, "the encoders here are `bert` and `roberta`"));
        }
        let config: Self = config::read(folder)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that the values make a model. Labels are checked by [`labels`](Self::labels).
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what would be right.
    pub fn validate(&self) -> Result<()> {
        config::check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        config::check_layers("num_hidden_layers", self.num_hidden_layers)?;
        config::check_divides(
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        config::check_dropouts(&[
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ])?;
        config::check_epsilon("layer_norm_eps", self.layer_norm_eps)?;
        config::check_deviation("initializer_range", self.initializer_range)?;
        if self.first_position() >= self.max_position_embeddings {
            let (positions, first) = (self.max_position_embeddings, self.first_position());
            let reason = format!("is {positions}, but positions count from pad_token_id + 1 = {first}");
            return Err(Error::Config { key: "max_position_embeddings", reason });
        }
        match self.other.get("position_embedding_type").and_then(Value::as_str) {
            None | Some("absolute") => {}
            Some(kind) => {
                let reason = format!("is `{kind}`; this model has `absolute`");
                return Err(Error::Config { key: "position_embedding_type", reason });
            }
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if self.other.get(key).and_then(Value::as_bool) == Some(true) {
                let reason = format!("`{key}` is true; this model is an encoder");
                return Err(Error::Config { key: "model_type", reason });
            }
        }
        Ok(())
    }

    /// The classes in the order of the logits: `id2label`, or LABEL_0, LABEL_1, ... where it is missing, `num_labels`
    /// of them (2 where that is missing too).
    ///
    /// # Errors
    /// [`Error::Config`] where `id2label` does not count from 0, a label is there twice, or `label2id` or `num_labels`
    /// says otherwise.
    pub fn labels(&self) -> Result<Vec<String>> {
        let fail = |key, reason: String| Err(Error::Config { key, reason });
        let labels: Vec<String> = match &self.id2label {
            None => {
                config::check_sizes(&[("num_labels", self.num_labels.unwrap_or(2))])?;
                (0..self.num_labels.unwrap_or(2)).map(|id| format!("LABEL_{id}")).collect()
            }
            Some(map) => {
                let label = |id: usize| map.get(&id.to_string()).cloned();
                match (0..map.len()).map(label).collect() {
                    Some(labels) => labels,
                    None => {
                        let ids: Vec<&str> = map.keys().map(String::as_str).collect();
                        let reason = format!("has the ids {}; they must count from 0", ids.join(", "));
                        return fail("id2label", reason);
                    }
                }
            }
        };
        if labels.is_empty() {
            return fail("id2label", "has no labels".to_owned());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = labels.iter().find(|label| !seen.insert(*label)) {
            return fail("id2label", format!("has the label `{twice}` twice"));
        }
        if let Some(num_labels) = self.num_labels.filter(|&num_labels| num_labels != labels.len()) {
            return fail("num_labels", format!("is {num_labels}, but id2label has {} labels", labels.len()));
        }
        if let Some(map) = &self.label2id {
            let inverse: BTreeMap<&str, usize> =
                labels.iter().enumerate().map(|(id, label)| (label.as_str(), id)).collect();
            if map.len() != labels.len()
                || map.iter().any(|(label, id)| inverse.get(label.as_str()) != Some(id))
            {
                let named = serde_json::to_string(map).unwrap_or_default();
                return fail("label2id", format!("is {named}, but id2label has {}", labels.join(", ")));
            }
        }
        Ok(labels)
    }

    /// Replaces the classes: `id2label` and `label2id`.
    pub fn set_labels(&mut self, labels: &[&str]) {
        let numbered = || labels.iter().enumerate();
        self.id2label = Some(numbered().map(|(id, &label)| (id.to_string(), label.to_owned())).collect());
        self.label2id = Some(numbered().map(|(id, &label)| (label.to_owned(), id)).collect());
        self.num_labels = None;
    }

    /// The position of a row's first token.
    pub(super) fn first_position(&self) -> usize {
        match self.model_type {
            BertType::Bert => 0,
            BertType::Roberta => self.pad_token_id.unwrap_or(1) as usize + 1,
        }
    }

    /// `model_type` as the file has it; with a point, it stands before the encoder's names in a classifier.
    pub(super) fn model_type(&self) -> &'static str {
        match self.model_type {
            BertType::Bert => "bert",
            BertType::Roberta => "roberta",
        }
    }

    /// The class of transformers that reads what is saved.
    pub(super) fn architecture(&self, purpose: Purpose) -> &'static str {
        match (self.model_type, purpose) {
            (BertType::Bert, Purpose::Encoder) => "BertModel",
            (BertType::Bert, _) => "BertForSequenceClassification",
            (BertType::Roberta, Purpose::Encoder) => "RobertaModel",
            (BertType::Roberta, _) => "RobertaForSequenceClassification",
        }
    }

    /// Every parameter's name, shape and start, in storage order; with a head for `labels` classes, if any.
    pub(super) fn specs(&self, labels: Option<usize>) -> Vec<ParameterSpec> {
        let (d, inner) = (self.hidden_size as i64, self.intermediate_size as i64);
        let prefix = if labels.is_some() { format!("{}.", self.model_type()) } else { String::new() };
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[i64], init| {
            specs.push(ParameterSpec { name, shape: shape.to_vec(), init });
        };
        let normal = Init::Normal(self.initializer_range);
        for (name, rows) in [
            ("word", self.vocab_size),
            ("position", self.max_position_embeddings),
            ("token_type", self.type_vocab_size),
        ] {
            add(format!("{prefix}embeddings.{name}_embeddings.weight"), &[rows as i64, d], normal);
        }
        let mut norm = |name: String| {
            add(format!("{name}.LayerNorm.weight"), &[d], Init::Ones);
            add(format!("{name}.LayerNorm.bias"), &[d], Init::Zeros);
        };
        norm(format!("{prefix}embeddings"));
        for layer in 0..self.num_hidden_layers {
            norm(format!("{prefix}encoder.layer.{layer}.attention.output"));
            norm(format!("{prefix}encoder.layer.{layer}.output"));
        }
        let mut linear = |name: String, outputs: i64, inputs: i64| {
            add(format!("{name}.weight"), &[outputs, inputs], normal);
            add(format!("{name}.bias"), &[outputs], Init::Zeros);
        };
        for layer in 0..self.num_hidden_layers {
            let name = |name: &str| format!("{prefix}encoder.layer.{layer}.{name}");
            for part in ["query", "key", "value"] {
                linear(name(&format!("attention.self.{part}")), d, d);
            }
            linear(name("attention.output.dense"), d, d);
            linear(name("intermediate.dense"), inner, d);
            linear(name("output.dense"), d, inner);
        }
        if let Some(labels) = labels {
            let (dense, out) = self.head_names();
            linear(dense.to_owned(), d, d);
            linear(out.to_owned(), labels as i64, d);
        }
        specs
    }

    /// The two linear layers of the classifier's head.
    pub(super) fn head_names(&self) -> (&'static str, &'static str) {
        match self.model_type {
            BertType::Bert => ("bert.pooler.dense", "classifier"),
            BertType::Roberta => ("classifier.dense", "classifier.out_proj"),
        }
    }

    /// What a tensor of a checkpoint is to this model. Encoders are saved with and without their prefix; the oldest
    /// checkpoints call a norm's weight and bias gamma and beta.
    pub(super) fn tensor_name(&self, name: &str, purpose: Purpose) -> TensorName {
        let prefix = format!("{}.", self.model_type());
        let bare = name.strip_prefix(&prefix).unwrap_or(name);
        let starts = |heads: &[&str]| heads.iter().any(|head| bare.starts_with(head));
        let buffer = matches!(bare, "embeddings.position_ids" | "embeddings.token_type_ids");
        if buffer || starts(&["cls.", "lm_head."]) {
            return TensorName::Ignored;
        }
        if starts(&["classifier."]) {
            return match purpose {
                Purpose::Classifier => TensorName::Parameter(name.to_owned()),
                Purpose::Encoder | Purpose::FreshHead => TensorName::Ignored,
            };
        }
        let has_pooler = self.model_type == BertType::Bert && purpose != Purpose::Encoder;
        if starts(&["pooler."]) && !has_pooler {
            return TensorName::Ignored;
        }
        let bare = match bare.rsplit_once(".LayerNorm.") {
            Some((path, "gamma")) => format!("{path}.LayerNorm.weight"),
            Some((path, "beta")) => format!("{path}.LayerNorm.bias"),
            _ => bare.to_owned(),
        };
        TensorName::Parameter(if purpose == Purpose::Encoder { bare } else { prefix + &bare })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: Value) -> BertConfig {
        serde_json::from_value(keys).unwrap()
    }

    #[test]
    fn labels_are_read_and_written() {
        let mut three = BertConfig::default();
        assert_eq!(three.labels().unwrap(), ["LABEL_0", "LABEL_1"]);
        three.set_labels(&["contradiction", "neutral", "entailment"]);
        let written = serde_json::to_value(&three).unwrap();
        assert_eq!(written["id2label"]["2"], "entailment");
        assert_eq!(written["label2id"]["neutral"], 1);
        assert_eq!(config(written).labels().unwrap(), ["contradiction", "neutral", "entailment"]);
        let many: Vec<String> = (0..12).map(|id| format!("class {id}")).collect();
        three.set_labels(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(three.labels().unwrap(), many, "ids are numbers, not texts");
    }

    #[test]
    fn contradictory_labels_name_the_key() {
        for (key, keys) in [
            ("id2label", serde_json::json!({"id2label": {"1": "a", "2": "b"}})),
            ("id2label", serde_json::json!({"id2label": {}})),
            ("id2label", serde_json::json!({"id2label": {"0": "a", "1": "a"}})),
            ("num_labels", serde_json::json!({"id2label": {"0": "a", "1": "b"}, "num_labels": 3})),
            ("num_labels", serde_json::json!({"num_labels": 0})),
            ("label2id", serde_json::json!({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}})),
            ("label2id", serde_json::json!({"label2id": {"yes": 0, "no": 1}})),
        ] {
            let error = config(keys.clone()).labels().unwrap_err();
            assert!(matches!(&error, Error::Config { key: named, .. } if *named == key), "{keys}: {error}");
        }
    }

    #[test]
    fn names_are_mapped_by_purpose() {
        let bert = BertConfig::default();
        let roberta = BertConfig { model_type: BertType::Roberta, ..BertConfig::default() };
        let parameter = |name: &str| TensorName::Parameter(name.to_owned());
        let norm = "embeddings.LayerNorm.weight";
        assert_eq!(bert.tensor_name("bert.embeddings.LayerNorm.gamma", Purpose::Encoder), parameter(norm));
        assert_eq!(roberta.tensor_name(norm, Purpose::Encoder), parameter(norm));
        assert_eq!(
            roberta.tensor_name(norm, Purpose::FreshHead),
            parameter("roberta.embeddings.LayerNorm.weight")
        );
        let (pooler, head) = ("pooler.dense.bias", "classifier.bias");
        assert_eq!(bert.tensor_name(pooler, Purpose::Encoder), TensorName::Ignored);
        assert_eq!(bert.tensor_name(pooler, Purpose::FreshHead), parameter("bert.pooler.dense.bias"));
        assert_eq!(
            roberta.tensor_name("roberta.pooler.dense.bias", Purpose::Classifier),
            TensorName::Ignored
        );
        assert_eq!(bert.tensor_name(head, Purpose::Classifier), parameter(head));
        assert_eq!(bert.tensor_name(head, Purpose::FreshHead), TensorName::Ignored);
        assert_eq!(roberta.tensor_name("lm_head.dense.weight", Purpose::Classifier), TensorName::Ignored);
        // Another family's prefix is no part of this model.
        assert_eq!(bert.tensor_name("roberta.x", Purpose::Encoder), parameter("roberta.x"));
    }
}
