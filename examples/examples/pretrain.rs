//! Pre-trains a small dialogue language model from scratch: vocabulary, model, card.
//!
//! ```text
//! cargo run --release -p persona-examples --example pretrain -- examples/recipes/persona_mini.toml --data FOLDER
//! ```

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use persona_examples::pretrain::{PretrainRecipe, Pretrained, plan, pretrain};
use persona_examples::process;
use persona_examples::progress::{INTERRUPTED, Interrupt};
use persona_examples::workspace::Start;

/// Pre-trains the model of a recipe; called again, continues what was stopped.
#[derive(Debug, Parser)]
struct Arguments {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// The folder that the recipe's data lie in, in place of its `corpus.folder`.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Remove what an earlier run made in the recipe's folder, once recipe and data are read.
    #[arg(long)]
    fresh: bool,
    /// Train no model and write nothing: read the data, and count documents, tokens, steps and parameters.
    #[arg(long, conflicts_with = "fresh")]
    dry_run: bool,
}

fn main() -> Result<()> {
    process::bound_memory();
    let arguments = Arguments::parse();
    let (recipe, text) = PretrainRecipe::load(&arguments.recipe, arguments.data.as_deref())?;
    if arguments.dry_run {
        println!("{}", plan(&recipe)?);
        return Ok(());
    }
    // The folder of the data is the user's own, and not part of what the model follows from.
    let data = if arguments.data.is_some() { " --data FOLDER" } else { "" };
    let command = format!(
        "cargo run --release -p persona-examples --example pretrain -- {}{data}",
        arguments.recipe.display()
    );
    let start = if arguments.fresh { Start::Fresh } else { Start::Continue };
    match pretrain(&recipe, &text, start, &command, &Interrupt::install()?)? {
        Pretrained::Model { folder, measured } => {
            let found = &measured.perplexities.all;
            println!(
                "perplexity per word {:.2} (5-gram {:.2}, unigram {:.1})\nmodel: {}",
                found.model,
                found.ngram,
                found.unigram,
                folder.display()
            );
            Ok(())
        }
        Pretrained::Interrupted => {
            println!("stopped; the same command continues");
            std::process::exit(INTERRUPTED);
        }
    }
}
