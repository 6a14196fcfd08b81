//! Tests of persona-model against transformers' numbers, its own contracts, and bad input.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)] // each crate uses its part
#[path = "../../../tests/parity/mod.rs"]
mod parity;

mod adapters;
mod bad_input;
mod batches;
mod causal_lm;
mod embeddings;
mod encoder_input;
mod encoders;
#[cfg(feature = "hub")]
mod hub;
mod mapped;
mod nf4;
mod recompute;
mod rope;
mod saved;
mod seq2seq;
mod seq2seq_files;
mod soft_prompts;
mod wanted_tokens;

use persona_model::{CausalLm, Gpt2, Gpt2Config, Llama, LlamaConfig};
use tch::{Device, Kind, Tensor};

/// A tiny model whose logits differ from token to token.
fn tiny() -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: 40,
        n_positions: 32,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        initializer_range: 0.3,
        resid_pdrop: 0.0,
        embd_pdrop: 0.0,
        attn_pdrop: 0.0,
        ..Gpt2Config::default()
    };
    Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

/// The same with rotary positions and two queries for each key head.
fn tiny_llama() -> Llama {
    let config = LlamaConfig {
        vocab_size: 40,
        max_position_embeddings: 32,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        initializer_range: 0.3,
        ..LlamaConfig::default()
    };
    Llama::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

/// One of each architecture, for what holds of all of them.
fn models() -> [Box<dyn CausalLm>; 2] {
    [Box::new(tiny()), Box::new(tiny_llama())]
}

/// The largest difference of two tensors of one shape.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}
