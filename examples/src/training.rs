//! A training in a folder of its own, as the programs run it.

use std::path::Path;

use anyhow::{Context, Result};
use persona_data::{ChatFormat, PromptSet, TextTokenizer};
use persona_model::{Gpt2, Gpt2Config, Model};
use persona_train::{End, Evaluator, Objective, TrainConfig, Trainer};
use tch::{Device, Kind};

use crate::progress::{Interrupt, TrainingBar};
use crate::recipe::ModelRecipe;

/// Where a training lies, and who watches it.
#[derive(Debug, Clone, Copy)]
pub struct TrainingFolder<'a> {
    /// What the training is called on the screen.
    pub name: &'a str,
    /// Log, checkpoints, and in the end `model`.
    pub folder: &'a Path,
    /// Saved beside the model.
    pub tokenizer: &'a TextTokenizer,
    /// How it is stopped.
    pub interrupt: &'a Interrupt,
}

impl TrainingFolder<'_> {
    /// Trains, or continues, and writes what was trained with its tokenizer to `model`: a whole model in the Hugging Face
    /// layout, the active adapter in PEFT's. Nothing when it was interrupted.
    ///
    /// # Errors
    /// The trainer's and the files'.
    pub fn train<O: Objective>(
        &self,
        objective: O,
        config: &TrainConfig,
        (train, valid): (&[O::Item], &[O::Item]),
        evaluator: Option<&mut dyn Evaluator<O::Model>>,
    ) -> Result<Option<O>> {
        let mut bar = TrainingBar::new(self.name);
        let mut trainer = Trainer::new(objective, config.clone())?
            .in_folder(self.folder)
            .made_with("tokenizer", self.tokenizer.fingerprint())
            .interrupted_by(self.interrupt.flag())
            .observed_by(&mut bar);
        if let Some(evaluator) = evaluator {
            trainer = trainer.evaluated_by(evaluator);
        }
        let outcome = self.interrupt.while_training(|| trainer.fit(train, valid))?;
        if outcome.end == End::Interrupted || self.interrupt.asked() {
            return Ok(None);
        }
        let objective = trainer.into_objective();
        let model = self.folder.join("model");
        if !model.join("tokenizer_config.json").exists() {
            let trained = objective.model();
            match trained.adapters().active() {
                Some(id) => trained.adapters().save(id, &model)?,
                None => trained.save(&model)?,
            }
            self.tokenizer.save(&model)?;
        }
        Ok(Some(objective))
    }
}

/// The file beside a model that was trained with prompts in a chat format.
const CHAT_FORMAT: &str = "chat_format.json";

/// Notes the chat format of the prompts that a model was trained with beside it; nothing where they have none.
///
/// # Errors
/// When it cannot be written.
pub fn keep_chat_format(prompts: &PromptSet, model: &Path) -> Result<()> {
    if *prompts.chat() == ChatFormat::builtin("none")? {
        return Ok(());
    }
    let json = serde_json::to_vec_pretty(prompts.chat())?;
    Ok(persona_model::write_atomically(&model.join(CHAT_FORMAT), &json)?)
}

/// The prompts in the chat format that the model of a folder was trained with.
///
/// # Errors
/// When the file is there and cannot be read, or is no chat format.
pub fn in_chat_format(prompts: PromptSet, model: &Path) -> Result<PromptSet> {
    let path = model.join(CHAT_FORMAT);
    if !path.exists() {
        return Ok(prompts);
    }
    let read = || -> Result<PromptSet> {
        let format: ChatFormat = serde_json::from_slice(&std::fs::read(&path)?)?;
        Ok(prompts.with_chat(format)?)
    };
    read().with_context(|| format!("reading {}", path.display()))
}

/// A fresh GPT-2 of a recipe's shape for a tokenizer, its weights drawn from the seed.
///
/// # Errors
/// When the recipe names a folder; the model's.
pub fn fresh_model(
    recipe: &ModelRecipe,
    tokenizer: &TextTokenizer,
    seed: u64,
    device: Device,
) -> Result<Gpt2> {
    let config = recipe.config(tokenizer.vocab_size()).context("a fresh model has a shape")?;
    let config = Gpt2Config {
        eos_token_id: Some(tokenizer.eos_id()),
        bos_token_id: tokenizer.bos_id(),
        pad_token_id: Some(tokenizer.pad_id()),
        ..config
    };
    Ok(Gpt2::new(config, seed, device, Kind::Float)?)
}
