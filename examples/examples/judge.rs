//! Trains, measures and uses a judge of (description, reply).
//!
//! ```text
//! cargo run --release -p persona-examples --example judge -- train --config examples/recipes/judge.toml
//! ```

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use persona_data::{EntailmentRule, Format, LabelChoice};
use persona_examples::judge::{
    JudgeRecipe, LabelOptions, SHIPPED, ScorePart, Trained, evaluate, label, match_shares, train, write_pairs,
};
use persona_examples::process;
use persona_examples::progress::{INTERRUPTED, Interrupt};
use persona_examples::workspace::Start;

/// A judge tells whether a reply follows from a description of its speaker, contradicts it, or neither.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a judge from a recipe; called again, continues what was stopped.
    Train {
        /// The recipe, a TOML file.
        #[arg(long)]
        config: PathBuf,
        /// Remove what an earlier run made in the recipe's folder, once recipe and data are read.
        #[arg(long)]
        fresh: bool,
    },
    /// Writes the training pairs of a recipe as JSON lines, to be looked at.
    Pairs {
        /// The recipe, a TOML file.
        #[arg(long)]
        config: PathBuf,
        /// The file to write.
        #[arg(long)]
        output: PathBuf,
    },
    /// Measures a judge on the published judgements of PERSONA-CHAT's validation set.
    Evaluate {
        /// The judge's folder; the shipped judge where it is left out.
        #[arg(long, default_value = SHIPPED, hide_default_value = true)]
        judge: PathBuf,
        /// valid_persona_nli_scores.tsv.
        #[arg(long)]
        scores: PathBuf,
        /// Of which dialogues: valid1, valid2, valid1-train, valid1-dev or valid1-calibration.
        #[arg(long, default_value = "valid2")]
        part: ScorePart,
        /// A folder for evaluation.json and calibration.svg.
        #[arg(long)]
        out: Option<PathBuf>,
        /// cpu, cuda, cuda:N or auto.
        #[arg(long, default_value = "auto")]
        device: String,
    },
    /// Shifts a judge's logits so that it finds each class as often as published judgements have it.
    MatchShares {
        /// The judge's folder.
        #[arg(long)]
        judge: PathBuf,
        /// valid_persona_nli_scores.tsv.
        #[arg(long)]
        scores: PathBuf,
        /// Of which dialogues; another part than the judge is measured on.
        #[arg(long, default_value = "valid1-calibration")]
        part: ScorePart,
        /// The folder of the judge with the shifts.
        #[arg(long)]
        out: PathBuf,
        /// cpu, cuda, cuda:N or auto.
        #[arg(long, default_value = "auto")]
        device: String,
    },
    /// Labels which descriptions the turns of dialogues draw on.
    Label {
        /// The judge's folder; the shipped judge where it is left out.
        #[arg(long, default_value = SHIPPED, hide_default_value = true)]
        judge: PathBuf,
        /// Dialogues in any format that persona-data reads.
        #[arg(long)]
        input: PathBuf,
        /// The labelled dialogues as JSON lines; compressed where the name ends in .gz.
        #[arg(long)]
        output: PathBuf,
        /// The input's format; recognised by content where it is left out.
        #[arg(long)]
        format: Option<Format>,
        /// Which of several entailed descriptions comes first: best-confidence or lowest-index.
        #[arg(long, default_value = "best-confidence", value_parser = choice)]
        choice: LabelChoice,
        /// The least probability of entailment, beside its being the likeliest class; PAL's labels have 0.99 or none.
        #[arg(long, default_value_t = 0.0)]
        threshold: f64,
        /// Label turns anew that have labels.
        #[arg(long)]
        relabel: bool,
        /// cpu, cuda, cuda:N or auto.
        #[arg(long, default_value = "auto")]
        device: String,
    },
}

fn choice(name: &str) -> Result<LabelChoice, String> {
    match name {
        "best-confidence" => Ok(LabelChoice::BestConfidence),
        "lowest-index" => Ok(LabelChoice::LowestIndex),
        other => Err(format!("{other:?} is neither best-confidence nor lowest-index")),
    }
}

fn main() -> Result<()> {
    process::bound_memory();
    match Arguments::parse().command {
        Command::Train { config, fresh } => {
            let (recipe, text) = JudgeRecipe::load(&config)?;
            let start = if fresh { Start::Fresh } else { Start::Continue };
            match train(&recipe, &text, start, &Interrupt::install()?)? {
                Trained::Judge { folder, evaluation } => {
                    for (name, value) in evaluation {
                        println!("{name:>22} {value:.4}");
                    }
                    println!("judge: {}", folder.display());
                }
                Trained::Interrupted => {
                    println!("stopped; the same command continues");
                    std::process::exit(INTERRUPTED);
                }
            }
        }
        Command::Pairs { config, output } => {
            let count = write_pairs(&JudgeRecipe::load(&config)?.0, &output)?;
            println!("{count} pairs: {}", output.display());
        }
        Command::Evaluate { judge, scores, part, out, device } => {
            let device = persona_model::device(&device)?;
            println!("{}", evaluate(&judge, &scores, part, device, out.as_deref())?);
        }
        Command::MatchShares { judge, scores, part, out, device } => {
            let device = persona_model::device(&device)?;
            println!("{}", match_shares(&judge, &scores, part, device, &out)?);
        }
        Command::Label { judge, input, output, format, choice, threshold, relabel, device } => {
            let rule = EntailmentRule { choice, threshold };
            let options = LabelOptions { format, rule, relabel };
            let device = persona_model::device(&device)?;
            print!("{}", label(&judge, &input, &output, device, &options)?);
        }
    }
    Ok(())
}
