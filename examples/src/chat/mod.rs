//! Talking to a model: a persona, a dialogue, and for each reply the description that the model selected.

mod command;
mod line;
mod persona;
mod session;

pub use command::Command;
pub use persona::{PERSONAS, given_persona};
pub use session::{Chat, ChatOptions, Saved, SavedSelection, SavedTurn};

use std::path::Path;

use anyhow::{Context, Result, bail};
use persona_data::{EncodeOptions, ExampleEncoder, PromptSet, SpecialTokens, TextTokenizer};
use persona_model::{CausalLm, load_with_adapter};
use tch::{Device, Kind};

use crate::training::in_chat_format;

/// The folder of the model that ships with the examples.
pub const SHIPPED: &str = "examples/persona-mini";

/// Loads the model of a folder, or an adapter and the base that it names, with an encoder for prompts as long as the model reads.
///
/// # Errors
/// A folder that is not there, with what makes one; those of model and tokenizer.
pub fn load(
    folder: &Path,
    prompts: &PromptSet,
    device: Device,
) -> Result<(Box<dyn CausalLm>, ExampleEncoder)> {
    if !folder.is_dir() {
        bail!(
            "{} is not there. {SHIPPED} ships, at the root of the workspace: start the program there, or talk to a model in \
             the Hugging Face layout with --model FOLDER; these make one:\n  \
             cargo xtask demo    (then --model target/demo/align/model)\n  \
             cargo run --release -p persona-examples --example pretrain -- examples/recipes/persona_mini.toml    (then \
             --model target/persona-mini/pretrain/model --no-select)",
            folder.display()
        );
    }
    let (model, _) = load_with_adapter(folder, device, Kind::Float.into())
        .with_context(|| format!("loading the model in {}", folder.display()))?;
    let prompts = &in_chat_format(prompts.clone(), folder)?;
    let tokenizer = TextTokenizer::from_folder(folder, &SpecialTokens::default())?;
    tokenizer.check_vocabulary(model.limits().vocabulary)?;
    let options = EncodeOptions { max_length: model.limits().positions, ..EncodeOptions::default() };
    let encoder = ExampleEncoder::new(&tokenizer, prompts, options)?;
    Ok((model, encoder))
}
