//! Talks to a model with a persona.
//!
//! ```text
//! cargo run --release -p persona-examples --example chat
//! cargo run --release -p persona-examples --example chat -- --model target/demo/align/model --persona 3 --sample
//! ```

use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use persona_data::PromptSet;
use persona_examples::chat::{Chat, ChatOptions, SHIPPED, given_persona, load};
use persona_examples::process;
use persona_infer::DecodeConfig;

/// Talks to a model with a persona; /help lists what else a line can be. Lines may be piped in.
#[derive(Debug, Parser)]
struct Arguments {
    /// The model's folder in the Hugging Face layout; the shipped persona-mini, which does not select, where it is left out.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// The number of a shipped persona, a file with one description a line, or descriptions with | between them.
    #[arg(long, default_value = "1")]
    persona: String,
    /// Reply without selecting a description first: for models that were not trained to.
    #[arg(long)]
    no_select: bool,
    /// How many turns the model reads; by default 3, as PAL's data have, where it selects, and all that fit where not.
    #[arg(long, value_name = "TURNS")]
    history: Option<usize>,
    /// Draw replies; greedy otherwise.
    #[arg(long)]
    sample: bool,
    /// Below 1 likelier tokens are drawn more often.
    #[arg(long, default_value_t = 0.8, requires = "sample")]
    temperature: f64,
    /// Only the fewest likeliest tokens of this mass are drawn.
    #[arg(long, default_value_t = 0.9, requires = "sample")]
    top_p: f64,
    /// What is drawn follows from this.
    #[arg(long, default_value_t = 0, requires = "sample")]
    seed: u64,
    /// The most tokens of a reply.
    #[arg(long, default_value_t = 60)]
    max_new_tokens: usize,
    /// cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> Result<ExitCode> {
    process::bound_memory();
    let arguments = Arguments::parse();
    let persona = given_persona(&arguments.persona)?;
    let mut decode = DecodeConfig { max_new_tokens: arguments.max_new_tokens, ..DecodeConfig::default() };
    if arguments.sample {
        decode.temperature = arguments.temperature;
        decode.top_p = Some(arguments.top_p);
        decode.seed = arguments.seed;
    }
    let folder = arguments.model.as_deref().unwrap_or(Path::new(SHIPPED));
    // A language model before any fine-tuning: it was never asked which description matters.
    let select = arguments.model.is_some() && !arguments.no_select;
    let device = persona_model::device(&arguments.device)?;
    let (model, encoder) = load(folder, &PromptSet::english()?, device)?;
    let options = ChatOptions {
        model: folder.display().to_string(),
        decode,
        select,
        history_turns: arguments.history.or(select.then_some(3)),
        terminal: std::io::stdin().is_terminal(),
    };
    let mut chat = Chat::new(&*model, &encoder, options, persona)?;
    match chat.run(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Nobody reads any more.
        Err(error)
            if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    }
}
