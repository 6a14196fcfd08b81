//! A BERT of rust-bert behind the traits of persona-metrics: sentence embeddings, and judgements of personas.

use anyhow::Result;
use ndarray::Array2;
use persona_metrics::{Judgement, ModelError, PersonaJudge, SentenceEmbedder};
use rust_bert::bert::{BertConfig, BertEmbeddings, BertForSequenceClassification, BertModel};
use tch::{Device, Kind, Tensor, nn};

const CLS: i64 = 256;
const SEP: i64 = 257;
const PAD: i64 = 258;

/// An encoder for embeddings, and a classifier of three classes.
pub struct Encoder {
    _weights: nn::VarStore,
    model: BertModel<BertEmbeddings>,
    classifier: BertForSequenceClassification,
}

impl Encoder {
    /// Random weights.
    pub fn new() -> Result<Self> {
        let weights = nn::VarStore::new(Device::Cpu);
        let labels = ["contradiction", "neutral", "entailment"].map(str::to_owned);
        let config = BertConfig {
            vocab_size: PAD + 1,
            hidden_size: 64,
            intermediate_size: 128,
            max_position_embeddings: 128,
            num_attention_heads: 4,
            num_hidden_layers: 2,
            type_vocab_size: 2,
            id2label: Some((0..).zip(labels).collect()),
            ..BertConfig::default()
        };
        let model = BertModel::new(weights.root() / "embedder", &config);
        let classifier = BertForSequenceClassification::new(weights.root() / "judge", &config)?;
        Ok(Self { _weights: weights, model, classifier })
    }
}

/// Rows of ids, of token types and of the mask, `[B, T]` each; a row is one text, or two.
fn batch(rows: &[Vec<&str>]) -> [Tensor; 3] {
    let encoded: Vec<Vec<(i64, i64)>> = rows
        .iter()
        .map(|texts| {
            let mut row = vec![(CLS, 0)];
            for (segment, text) in (0..).zip(texts) {
                row.extend(text.bytes().map(|byte| (i64::from(byte), segment)));
                row.push((SEP, segment));
            }
            row
        })
        .collect();
    let width = encoded.iter().map(Vec::len).max().unwrap_or(0);
    let filled = |pick: fn(&(i64, i64)) -> i64, fill: i64| {
        let values: Vec<i64> = encoded
            .iter()
            .flat_map(|row| row.iter().map(pick).chain(std::iter::repeat_n(fill, width - row.len())))
            .collect();
        Tensor::from_slice(&values).view([rows.len() as i64, width as i64])
    };
    [filled(|token| token.0, PAD), filled(|token| token.1, 0), filled(|_| 1, 0)]
}

impl SentenceEmbedder for Encoder {
    fn name(&self) -> String {
        "rust-bert random mean".to_owned()
    }

    fn embed(&self, texts: &[&str]) -> Result<Array2<f32>, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let [ids, types, mask] = batch(&texts.iter().map(|&text| vec![text]).collect::<Vec<_>>());
        let output =
            self.model.forward_t(Some(&ids), Some(&mask), Some(&types), None, None, None, None, false)?;
        let mask = mask.unsqueeze(-1).to_kind(Kind::Float);
        let sums = (output.hidden_state * &mask).sum_dim_intlist([1].as_slice(), false, Kind::Float);
        let means = sums / mask.sum_dim_intlist([1].as_slice(), false, Kind::Float);
        let (rows, width) = means.size2()?;
        Ok(Array2::from_shape_vec((rows as usize, width as usize), Vec::try_from(means.flatten(0, -1))?)?)
    }
}

impl PersonaJudge for Encoder {
    fn name(&self) -> String {
        "rust-bert random".to_owned()
    }

    fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let rows: Vec<Vec<&str>> =
            pairs.iter().map(|&(description, reply)| vec![description, reply]).collect();
        let [ids, types, mask] = batch(&rows);
        let output = self.classifier.forward_t(Some(&ids), Some(&mask), Some(&types), None, None, false);
        let scores = Vec::<Vec<f64>>::try_from(output.logits.to_kind(Kind::Double))?;
        scores
            .into_iter()
            .map(|row| {
                let scores =
                    <[f64; 3]>::try_from(row).map_err(|row| format!("{} classes, not 3", row.len()))?;
                Ok(Judgement::from_scores(scores, Judgement::CONTRADICTION_FIRST)?)
            })
            .collect()
    }
}
