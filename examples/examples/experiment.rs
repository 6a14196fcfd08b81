//! Runs the systems of PAL's tables from one starting model, and sets them beside each other and beside the paper.
//!
//! ```text
//! cargo run --release -p persona-examples --example experiment -- examples/recipes/personachat.toml --data data/personachat_en
//! cargo run --release -p persona-examples --example experiment -- examples/recipes/personachat.toml --dry-run
//! ```

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use persona_examples::experiment::{self, ExperimentRecipe, Run};
use persona_examples::process;
use persona_examples::progress::{INTERRUPTED, Interrupt};

/// Runs an experiment from a recipe; called again, continues what was stopped and makes what a changed recipe needs.
#[derive(Debug, Parser)]
struct Arguments {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// The folder of the data, in place of the recipe's.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Make nothing and write nothing: list the cells with their steps, and say which are there.
    #[arg(long)]
    dry_run: bool,
    /// Stop after so many newly made cells; the same command continues.
    #[arg(long, conflicts_with = "dry_run")]
    limit: Option<usize>,
}

fn main() -> Result<()> {
    process::bound_memory();
    let arguments = Arguments::parse();
    let (recipe, text) = ExperimentRecipe::load(&arguments.recipe, arguments.data.as_deref())?;
    if arguments.dry_run {
        print!("{}", experiment::dry_run(&recipe)?);
        return Ok(());
    }
    let interrupt = Interrupt::install()?;
    match experiment::run(&recipe, &text, arguments.limit, &interrupt)? {
        Run::Finished(report) => {
            println!("\n{}", report.text(140));
            println!("report: {}", recipe.out.join("report.html").display());
            Ok(())
        }
        Run::Stopped => {
            println!("stopped; the same command continues");
            std::process::exit(INTERRUPTED);
        }
    }
}
