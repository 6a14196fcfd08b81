//! Runs the PAL path from a recipe: data, plain fine-tuning, stage 1, pairs, alignment, replies, report.
//!
//! ```text
//! cargo run --release -p persona-examples --example pal -- --config examples/recipes/demo.toml
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use persona_examples::pipeline::{self, Run};
use persona_examples::process;
use persona_examples::progress::{INTERRUPTED, Interrupt};
use persona_examples::recipe::Recipe;

/// Runs the PAL path from a recipe; called again, continues what was stopped.
#[derive(Debug, Parser)]
struct Arguments {
    /// The recipe, a TOML file.
    #[arg(long)]
    config: PathBuf,
    /// Throw away what an earlier run left in the recipe's folder.
    #[arg(long)]
    fresh: bool,
}

fn main() -> Result<()> {
    process::bound_memory();
    let arguments = Arguments::parse();
    let (recipe, text) = Recipe::load(&arguments.config)?;
    if arguments.fresh && recipe.out.join("recipe.toml").exists() {
        std::fs::remove_dir_all(&recipe.out).with_context(|| format!("removing {}", recipe.out.display()))?;
    }
    let interrupt = Interrupt::install()?;
    match pipeline::run(&recipe, &text, &interrupt)? {
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
