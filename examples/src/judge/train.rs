//! Training a judge: what `judge train` does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use persona_data::{EncoderTokenizer, NliItem, NliLabel, WordPieceOptions, train_wordpiece};
use persona_model::{BertClassifier, BertConfig, Classifier, Model, classifier_on_encoder, load_classifier};
use persona_train::{Classify, End, Objective, Trainer};
use tch::{Device, Kind};

use super::data::Source;
use super::recipe::{JudgeRecipe, StartRecipe, Weights};
use super::shrink::shrink;
use crate::progress::{Interrupt, TrainingBar};
use crate::workspace::{Start, Workspace};

/// The shrunk model that a run starts from, in its folder.
const START: &str = "start";

/// How a training ended.
#[derive(Debug)]
pub enum Trained {
    /// With a judge in this folder.
    Judge {
        /// The model with its tokenizer.
        folder: PathBuf,
        /// The last evaluation.
        evaluation: Vec<(String, f64)>,
    },
    /// Somebody stopped it; the same call continues.
    Interrupted,
}

/// Trains the judge of a recipe, or what is left of it, in the recipe's folder.
///
/// # Errors
/// Those of data, model and loop; the workspace's for a folder of another recipe.
pub fn train(recipe: &JudgeRecipe, text: &str, start: Start, interrupt: &Interrupt) -> Result<Trained> {
    Workspace::check(&recipe.out, text, start)?;
    let device = persona_model::device(&recipe.device)?;
    let train = load("train", &recipe.train_data, recipe.seed)?;
    let valid = load("valid", &recipe.valid_data, recipe.seed)?;
    if let StartRecipe::Folder { folder } | StartRecipe::Shrunk { folder, .. } = &recipe.model {
        // Before anything is written: a folder that is no encoder is a typing error.
        BertConfig::from_folder(folder).with_context(|| format!("`model.folder`, {}", folder.display()))?;
    }
    let workspace = Workspace::open(&recipe.out, text, start)?;
    let tokenizer = tokenizer(recipe, &workspace, &train)?;
    let model = model(recipe, &tokenizer, &workspace, device)?;
    tokenizer.check_vocabulary(model.limits().vocabulary)?;
    let tokenizer = tokenizer.with_max_tokens(recipe.max_tokens.min(model.limits().positions))?;
    let classes = NliLabel::order_of(model.labels())?;
    let mut encoded = Vec::new();
    for (name, items) in [("train", &train), ("valid", &valid)] {
        let (items, report) = tokenizer.encode_items(items, &classes)?;
        println!("{name:>22} {report}");
        encoded.push(items);
    }
    let [train, valid] = encoded.as_slice() else { unreachable!("two sets") };

    let mut objective = Classify::new(model);
    if let Some(weights) = recipe.class_weights {
        objective = objective.class_weights(&classes.map(|class| weights[class.index()]))?;
    }
    let folder = workspace.path("judge");
    let mut bar = TrainingBar::new("judge");
    let mut trainer = Trainer::new(objective, recipe.train.clone())?
        .in_folder(&folder)
        .interrupted_by(interrupt.flag())
        .observed_by(&mut bar);
    let outcome = interrupt.while_training(|| trainer.fit(train, valid))?;
    if outcome.end == End::Interrupted || interrupt.asked() {
        return Ok(Trained::Interrupted);
    }
    let folder = folder.join("model");
    trainer.into_objective().model().save(&folder)?;
    if recipe.weights == Weights::Bfloat16 {
        let (rounded, _) = load_classifier(&folder, Device::Cpu, recipe.weights.kind())?;
        rounded.save(&folder)?;
    }
    tokenizer.save(&folder)?;
    Ok(Trained::Judge { folder, evaluation: outcome.evaluation })
}

/// Writes the training pairs of a recipe as JSON lines, to be looked at. Returns how many.
///
/// # Errors
/// The loaders'; when the file cannot be written.
pub fn write_pairs(recipe: &JudgeRecipe, output: &Path) -> Result<usize> {
    let items = load("train", &recipe.train_data, recipe.seed)?;
    let mut lines = Vec::new();
    for item in &items {
        serde_json::to_writer(&mut lines, item)?;
        lines.push(b'\n');
    }
    persona_model::write_atomically(output, &lines)?;
    Ok(items.len())
}

fn load(name: &str, sources: &[Source], seed: u64) -> Result<Vec<NliItem>> {
    let mut all = Vec::new();
    for source in sources {
        let (items, fact) = source.load(seed)?;
        println!("{name:>22} {fact}");
        all.extend(items);
    }
    Ok(all)
}

/// The checkpoint's tokenizer, or one of the training pairs, which the run keeps.
fn tokenizer(recipe: &JudgeRecipe, workspace: &Workspace, train: &[NliItem]) -> Result<EncoderTokenizer> {
    match &recipe.model {
        StartRecipe::Folder { folder } => Ok(EncoderTokenizer::from_folder(folder)?),
        StartRecipe::Shrunk { folder, layers, vocabulary } => {
            let start = workspace.path(START);
            shrink(folder, (*layers, *vocabulary, recipe.max_tokens), train, &start)?;
            Ok(EncoderTokenizer::from_folder(&start)?)
        }
        StartRecipe::Fresh { vocabulary, .. } => {
            let folder = workspace.path("tokenizer");
            if !folder.join("tokenizer_config.json").exists() {
                let texts = train.iter().flat_map(|item| [item.premise.clone(), item.hypothesis.clone()]);
                let options = WordPieceOptions { vocab_size: *vocabulary, ..WordPieceOptions::default() };
                train_wordpiece(texts, &options, recipe.max_tokens)?.save(&folder)?;
            }
            Ok(EncoderTokenizer::from_folder(&folder)?)
        }
    }
}

fn model(
    recipe: &JudgeRecipe,
    tokenizer: &EncoderTokenizer,
    workspace: &Workspace,
    device: Device,
) -> Result<Box<dyn Classifier>> {
    let names = NliLabel::ALL.map(NliLabel::name);
    match &recipe.model {
        StartRecipe::Folder { folder } => {
            let labels = BertConfig::from_folder(folder)?.labels();
            let trained = labels.is_ok_and(|labels| NliLabel::order_of(&labels).is_ok());
            let (model, report) = if trained {
                load_classifier(folder, device, Kind::Float)?
            } else {
                classifier_on_encoder(folder, &names, recipe.seed, device, Kind::Float)?
            };
            println!("{:>22} {report}", "starting model");
            Ok(model)
        }
        StartRecipe::Shrunk { .. } => {
            let start = workspace.path(START);
            let (model, report) = classifier_on_encoder(&start, &names, recipe.seed, device, Kind::Float)?;
            println!("{:>22} {report}", "starting model");
            Ok(model)
        }
        &StartRecipe::Fresh { hidden, layers, heads, inner, dropout, .. } => {
            let mut config = BertConfig {
                vocab_size: tokenizer.vocab_size(),
                hidden_size: hidden,
                num_hidden_layers: layers,
                num_attention_heads: heads,
                intermediate_size: inner,
                max_position_embeddings: recipe.max_tokens,
                hidden_dropout_prob: dropout,
                attention_probs_dropout_prob: dropout,
                pad_token_id: Some(0),
                ..BertConfig::default()
            };
            config.set_labels(&names);
            Ok(Box::new(BertClassifier::new(config, recipe.seed, device, Kind::Float)?))
        }
    }
}
