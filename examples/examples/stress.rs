//! A small training for `cargo xtask stress` to stop, kill and damage: a GPT-2 with dropout, early stopping, checkpoints
//! every few steps. Called again it continues.
//!
//! ```text
//! cargo run --release -p persona-examples --example stress -- --out FOLDER
//! ```

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use persona_data::{EncodedExample, Task};
use persona_examples::progress::{INTERRUPTED, Interrupt};
use persona_model::{Gpt2, Gpt2Config};
use persona_train::{Better, EarlyStopping, End, NextToken, Observer, TrainConfig, Trainer};
use tch::{Device, Kind};

/// Trains a small model in a folder.
#[derive(Debug, Parser)]
struct Arguments {
    /// The run's folder.
    #[arg(long)]
    out: PathBuf,
    /// Steps of the whole run.
    #[arg(long, default_value_t = 4000)]
    steps: u64,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 20)]
    checkpoint_every: u64,
    /// Training examples.
    #[arg(long, default_value_t = 200)]
    examples: u32,
    /// The learning rate.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// What stands for the fingerprint of a tokenizer.
    #[arg(long, default_value = "a")]
    tokenizer: String,
}

/// Prints what a run says.
struct Notes;

impl Observer for Notes {
    fn note(&mut self, text: &str) {
        println!("{text}");
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let interrupt = Interrupt::install()?;
    // One thread: the processes of a stress test share a machine with others.
    tch::set_num_threads(1);
    let model = Gpt2Config {
        vocab_size: 64,
        n_positions: 48,
        n_embd: 32,
        n_layer: 2,
        n_head: 2,
        ..Gpt2Config::default()
    };
    let config = TrainConfig {
        steps: arguments.steps,
        batch_size: 8,
        micro_batch_size: 4,
        learning_rate: arguments.learning_rate,
        warmup_steps: 10,
        eval_every: 50,
        checkpoint_every: arguments.checkpoint_every,
        early_stopping: Some(EarlyStopping {
            metric: "eval_loss".to_owned(),
            better: Better::Lower,
            patience: u32::MAX,
        }),
        ..TrainConfig::default()
    };
    let objective = NextToken::new(Gpt2::new(model, 1, Device::Cpu, Kind::Float)?);
    let mut notes = Notes;
    let mut trainer = Trainer::new(objective, config)?
        .in_folder(&arguments.out)
        .made_with("tokenizer", arguments.tokenizer)
        .interrupted_by(interrupt.flag())
        .observed_by(&mut notes);
    let (train, valid) = (examples(0, arguments.examples), examples(7000, 16));
    let outcome = interrupt.while_training(|| trainer.fit(&train, &valid))?;
    if outcome.end == End::Interrupted {
        println!("stopped after step {}", outcome.steps);
        std::process::exit(INTERRUPTED);
    }
    println!("finished after step {}", outcome.steps);
    Ok(())
}

/// Prompts of several lengths whose last tokens are to be said backwards.
fn examples(first: u32, count: u32) -> Vec<EncodedExample> {
    (first..first + count)
        .map(|at| {
            let source: Vec<u32> = (0..4 + at % 23).map(|token| (at * 13 + token * token * 7) % 62).collect();
            let mut target: Vec<u32> = source.iter().rev().take(1 + at as usize % 5).copied().collect();
            target.push(63);
            EncodedExample { id: format!("example {at}"), task: Task::Generation, source, target }
        })
        .collect()
}
