//! Runs the PAL path from a recipe: data, plain fine-tuning, stage 1, pairs, alignment, replies, report.
//!
//! ```text
//! cargo run --release -p persona-examples --example pal -- --config examples/recipes/demo.toml
//! cargo run --release -p persona-examples --example pal -- --config examples/recipes/gpt2.toml --dry-run
//! ```

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use persona_examples::dry_run::DryRun;
use persona_examples::pipeline::{self, Run};
use persona_examples::process;
use persona_examples::progress::{INTERRUPTED, Interrupt};
use persona_examples::recipe::Recipe;
use persona_examples::workspace::Start;

/// Runs the PAL path from a recipe; called again, continues what was stopped.
#[derive(Debug, Parser)]
struct Arguments {
    /// The recipe, a TOML file.
    #[arg(long)]
    config: PathBuf,
    /// Remove what an earlier run made in the recipe's folder, once recipe, data and model are read.
    #[arg(long)]
    fresh: bool,
    /// Train nothing and write nothing: check the recipe, and say what its trainings would take.
    #[arg(long, conflicts_with = "fresh")]
    dry_run: bool,
}

fn main() -> Result<()> {
    process::bound_memory();
    let arguments = Arguments::parse();
    let (recipe, text) = Recipe::load(&arguments.config)?;
    if arguments.dry_run {
        println!("{}", DryRun::of(&recipe, &text)?);
        return Ok(());
    }
    let start = if arguments.fresh { Start::Fresh } else { Start::Continue };
    let interrupt = Interrupt::install()?;
    match pipeline::run(&recipe, &text, start, &interrupt)? {
        Run::Finished(report) => {
            println!("\n{}", report.text(110)?);
            println!("report: {}", recipe.out.join("report.html").display());
            Ok(())
        }
        Run::Interrupted => {
            println!("stopped; the same command continues");
            std::process::exit(INTERRUPTED);
        }
    }
}
