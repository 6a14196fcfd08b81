//! Measures the replies of a system, alone or against another one.
//!
//! ```text
//! cargo run --release -p persona-examples --example evaluate -- --input replies.jsonl --preset pal
//! ```
//!
//! A line of the file is `{"prediction", "references", "personas"?, "history"?, "candidates"?}`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use persona_examples::evaluate::{Options, evaluate, load_encoder};
use persona_examples::judge::{Judge, SHIPPED};
use persona_metrics::suite::{Language, Preset, Sampling};
use tch::Kind;

/// Prints the metrics of a file of replies with confidence intervals, and tests them against another system's.
#[derive(Debug, Parser)]
struct Arguments {
    /// JSON lines {"prediction", "references", "personas"?, "history"?, "candidates"?}; `-` for standard input.
    #[arg(long)]
    input: PathBuf,
    /// Whose table is compared with: standard, pal, persona-injection, user-specific, parlai or sacrebleu.
    #[arg(long, default_value_t = Preset::Standard)]
    preset: Preset,
    /// What the texts are written in: english (words between spaces), chinese (words by jieba) or japanese (characters).
    #[arg(long, default_value_t = Language::English)]
    language: Language,
    /// Another system's replies to the same examples, line by line.
    #[arg(long)]
    compare: Option<PathBuf>,
    /// Print JSON in the place of the table.
    #[arg(long)]
    json: bool,
    /// How often the corpus is drawn again for intervals and tests.
    #[arg(long, default_value_t = Sampling::default().trials)]
    draws: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = Sampling::default().seed)]
    seed: u64,
    /// Level of the confidence intervals.
    #[arg(long, default_value_t = Sampling::default().level)]
    level: f64,
    /// A file with more records is streamed, without intervals; 0 leaves them out.
    #[arg(long, default_value_t = Options::default().intervals_up_to)]
    intervals_up_to: usize,
    /// C.score by a persona judge: the one that ships, or the one of a folder, which the program `judge` trains, or any
    /// classifier in the Hugging Face layout with the labels contradiction, neutral and entailment.
    #[arg(long, num_args = 0..=1, default_missing_value = SHIPPED, value_name = "FOLDER")]
    judge: Option<PathBuf>,
    /// BERTScore and sentence similarity by an encoder in the Hugging Face layout: BERT, RoBERTa, or one of
    /// sentence-transformers.
    #[arg(long, value_name = "FOLDER")]
    encoder: Option<PathBuf>,
    /// The layer of which BERTScore compares the vectors; the last where it is left out. bert-score takes 17 for
    /// roberta-large.
    #[arg(long, requires = "encoder")]
    layer: Option<usize>,
    /// What judge and encoder compute in: float32 or bf16.
    #[arg(long, default_value = "float32", value_parser = ["float32", "bf16"])]
    precision: String,
    /// Where they compute: cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.draws > 0, "--draws is at least 1");
    ensure!(arguments.level > 0.0 && arguments.level < 1.0, "--level lies between 0 and 1");
    let device = persona_model::device(&arguments.device)?;
    let kind = if arguments.precision == "bf16" { Kind::BFloat16 } else { Kind::Float };
    let judge = arguments.judge.as_ref().map(|folder| Judge::load_in(folder, device, kind)).transpose()?;
    let encoder = match &arguments.encoder {
        Some(folder) => Some(load_encoder(folder, arguments.layer, device, kind)?),
        None => None,
    };
    let options = Options {
        judge: judge.as_ref(),
        encoder: encoder.as_ref(),
        preset: arguments.preset,
        language: arguments.language,
        sampling: Sampling { trials: arguments.draws, seed: arguments.seed, level: arguments.level },
        intervals_up_to: arguments.intervals_up_to,
    };
    let evaluation = evaluate(&arguments.input, arguments.compare.as_deref(), &options)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&evaluation)?);
    } else {
        print!("{evaluation}");
    }
    Ok(())
}
