//! Tests of persona-train against torch's numbers, and of its contracts.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)] // each crate uses its part
#[path = "../../../tests/parity/mod.rs"]
mod parity;

mod adapters;
mod bad_input;
mod classify;
mod damage;
mod non_finite;
mod optimizer;
mod resume;
mod seq2seq;
mod steps;
mod training;

use persona_data::{EncodedExample, Task};
use persona_model::{Gpt2, Gpt2Config, Model};
use persona_train::TrainConfig;
use tch::{Device, Kind};

/// A tiny model with dropout, so that exact continuation has something to lose.
fn tiny(dropout: f64) -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: 30,
        n_positions: 24,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        initializer_range: 0.2,
        resid_pdrop: dropout,
        embd_pdrop: dropout,
        attn_pdrop: dropout,
        ..Gpt2Config::default()
    };
    Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

/// Examples of several lengths and both tasks that can be learned: the target repeats the prompt's last tokens.
fn examples(count: u32) -> Vec<EncodedExample> {
    (0..count)
        .map(|at| {
            let source: Vec<u32> = (0..3 + at % 7).map(|token| (at * 5 + token * 11) % 28).collect();
            let mut target: Vec<u32> = source.iter().rev().take(1 + at as usize % 3).copied().collect();
            target.push(29);
            let task = if at % 2 == 0 { Task::Selection } else { Task::Generation };
            EncodedExample { id: format!("e{at}"), task, source, target }
        })
        .collect()
}

fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        batch_size: 8,
        micro_batch_size: 4,
        learning_rate: 1e-2,
        warmup_steps: 2,
        ..TrainConfig::default()
    }
}

fn weights(model: &dyn Model) -> Vec<f32> {
    Vec::<f32>::try_from(model.parameters().flat()).unwrap()
}
