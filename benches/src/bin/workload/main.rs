//! Times this workspace on a workload folder that a script of the peers' reads too, and prints the same JSON line.
//!
//! ```text
//! cargo run --release -p persona-benches --bin workload -- dpo --workload DIR --batch 8 --steps 5 --precompute
//! cargo run --release -p persona-benches --bin workload -- sft --workload DIR --batch 16 --steps 5
//! cargo run --release -p persona-benches --bin workload -- generate --workload DIR --batch 16 --steps 4 --new-tokens 40
//! ```
//!
//! `benches/peers/workload.py` makes a folder, and does the same work with TRL and transformers. A folder holds `model/`, a checkpoint in the Hugging Face layout, and `rows.jsonl`: lines of token ids under `prompt`,
//! `chosen` and `rejected`. A first step warms up and is not counted; each of the others is timed.

mod generate;
mod report;
mod train;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use persona_model::{CausalLm, load_causal_lm};
use serde::Deserialize;
use tch::{Device, Kind};

/// Times this workspace beside its peers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Steps of DPO (sigmoid, beta 0.1, learning rate 1e-6), all weights trained.
    Dpo(train::DpoOptions),
    /// Steps of training on the chosen replies (learning rate 2e-5, gradients clipped at 10), all weights trained.
    Sft(train::SftOptions),
    /// Continues prompts: greedy, or with several samples each at temperature 1 and top-k 50. No token ends a reply.
    Generate(generate::Options),
}

/// What every workload is told.
#[derive(Debug, Args)]
struct Workload {
    /// The folder with `model/` and `rows.jsonl`.
    #[arg(long)]
    workload: PathBuf,
    /// Rows of a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Steps that are counted.
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// `cpu` or `cuda`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// `fp32` or `bf16`.
    #[arg(long, default_value = "fp32")]
    dtype: String,
}

/// A line of `rows.jsonl`.
#[derive(Debug, Deserialize)]
struct Row {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
}

impl Workload {
    fn device(&self) -> Result<Device> {
        Ok(persona_model::device(&self.device)?)
    }

    fn kind(&self) -> Result<Kind> {
        match self.dtype.as_str() {
            "fp32" => Ok(Kind::Float),
            "bf16" => Ok(Kind::BFloat16),
            other => bail!("--dtype {other}: fp32 or bf16"),
        }
    }

    fn model(&self, kind: Kind) -> Result<Box<dyn CausalLm>> {
        let (model, _) = load_causal_lm(&self.workload.join("model"), self.device()?, kind)?;
        Ok(model)
    }

    /// The rows of the warm-up and of all steps.
    fn rows(&self) -> Result<Vec<Row>> {
        let path = self.workload.join("rows.jsonl");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let wanted = self.batch * (self.steps + 1);
        let rows: Vec<Row> = text
            .lines()
            .take(wanted)
            .enumerate()
            .map(|(at, line)| {
                serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), at + 1))
            })
            .collect::<Result<_>>()?;
        if self.batch == 0 || self.steps == 0 || rows.len() < wanted {
            let (batch, steps) = (self.batch, self.steps);
            bail!(
                "{} rows for {steps} steps of {batch} and a first one; give at least 1 of each",
                rows.len()
            );
        }
        Ok(rows)
    }
}

fn main() -> Result<()> {
    persona_model::keep_freed_memory();
    match Arguments::parse().what {
        What::Dpo(options) => train::dpo(&options),
        What::Sft(options) => train::sft(&options),
        What::Generate(options) => generate::run(&options),
    }
}
