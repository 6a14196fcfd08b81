//! A judge that has learned nothing: one layer, weights drawn from a seed.

use std::path::Path;

use persona_data::{NliLabel, WordPieceOptions, train_wordpiece};
use persona_model::{BertClassifier, BertConfig, Model};
use tch::{Device, Kind};

/// Writes it to a folder.
pub(crate) fn write(folder: &Path) {
    let texts = [
        "i have a dog .",
        "do you like to ski ? i love to sing in the choir .",
        "no , my two dogs are brown",
    ];
    let options = WordPieceOptions { vocab_size: 120, min_frequency: 1 };
    let tokenizer = train_wordpiece(texts.into_iter().map(String::from), &options, 48).unwrap();
    let mut config = BertConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 32,
        max_position_embeddings: 48,
        pad_token_id: Some(0),
        ..BertConfig::default()
    };
    config.set_labels(&NliLabel::ALL.map(NliLabel::name));
    BertClassifier::new(config, 1, Device::Cpu, Kind::Float).unwrap().save(folder).unwrap();
    tokenizer.save(folder).unwrap();
}
