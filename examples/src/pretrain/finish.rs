//! What follows the training: the model's folder, and what is measured for its card.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use persona_data::{Dialogue, EncodedExample, PromptSet, Role, Speaker};
use persona_infer::{DecodeConfig, Engine, EngineConfig, Request};
use persona_model::{Gpt2, Model};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::Kind;

use super::Prepared;
use super::card::{Measured, ShownReply, card};
use super::documents::Document;
use super::measure::perplexities;
use super::recipe::PretrainRecipe;
use crate::report::{Curve, Line};
use crate::results::{self, Log};

/// The model's folder in the training's.
pub(super) const MODEL: &str = "model";

/// Writes the model with its weights in bfloat16, measures it as it was written, and writes the card.
///
/// # Errors
/// When a file cannot be written or read; the model's.
pub(super) fn finish(
    recipe: &PretrainRecipe,
    (text, command): (&str, &str),
    prepared: &Prepared,
    (train, valid): (&[EncodedExample], &[EncodedExample]),
    model: &Gpt2,
    training: &Path,
) -> Result<Measured> {
    let folder = training.join(MODEL);
    model.copy(Kind::BFloat16)?.save(&folder)?;
    prepared.tokenizer.save(&folder)?;
    let (shipped, _) = Gpt2::load(&folder, model.device(), Kind::Float)?;

    println!("{:>22} counting n-grams, measuring the model as it was written", "card");
    let log_path = training.join("log.jsonl");
    let log = Log::read(&log_path)?;
    let documents = one_a_dialogue(prepared);
    let perplexities = perplexities(&shipped, &documents, &prepared.corpus.train)?;
    let unigram = results::unigram_losses(train, valid, prepared.tokenizer.vocab_size());
    let weights = folder.join("model.safetensors");
    let bytes = std::fs::metadata(&weights).with_context(|| format!("reading {}", weights.display()))?.len();
    let measured = Measured {
        command: command.to_owned(),
        parameters: shipped.parameters().count(),
        vocabulary: prepared.tokenizer.vocab_size(),
        bytes,
        sources: prepared.corpus.sources.clone(),
        train: prepared.train.1,
        held_out: prepared.held_out.1,
        steps: log.points("loss").last().map_or(0.0, |point| point.0) as u64,
        tokens: log.sum("tokens"),
        seconds: log.sum("seconds"),
        machine: format!("{:?}, threads: {}", model.device(), tch::get_num_threads()),
        loss: log.last("eval_loss").context("the log has no eval_loss")?,
        perplexities,
        replies: replies(recipe, prepared, &documents, &shipped)?,
    };

    let curve = Curve {
        title: format!("{}: loss", recipe.title),
        x: "step".to_owned(),
        y: "nats a token".to_owned(),
        lines: [("training", "loss"), ("held out", "eval_loss")]
            .map(|(name, key)| Line { name: name.to_owned(), points: log.points(key) })
            .into(),
        levels: unigram.get(&None).map(|loss| ("unigram of tokens".to_owned(), *loss)).into_iter().collect(),
    };
    let write = |name: &str, bytes: &[u8]| persona_model::write_atomically(&folder.join(name), bytes);
    if let Some(svg) = curve.svg()? {
        write("curves.svg", svg.as_bytes())?;
    }
    let log = std::fs::read(&log_path).with_context(|| format!("reading {}", log_path.display()))?;
    write("log.jsonl", &log)?;
    write("recipe.toml", text.as_bytes())?;
    write("measured.json", &serde_json::to_vec_pretty(&measured)?)?;
    // Last: a folder with a card is whole.
    write("README.md", card(recipe, &measured)?.as_bytes())?;
    Ok(measured)
}

/// The held-out documents of the second speaker, whom every source gives a persona, with their dialogues.
fn one_a_dialogue(prepared: &Prepared) -> Vec<(&Document, &Dialogue)> {
    let dialogues: HashMap<&str, &Dialogue> =
        prepared.corpus.held_out.iter().map(|dialogue| (dialogue.id.as_str(), dialogue)).collect();
    let of = |document: &Document| {
        let (id, part) = document.id.rsplit_once('#')?;
        part.starts_with('2').then(|| dialogues.get(id).copied()).flatten()
    };
    prepared.held_out.0.iter().filter_map(|document| Some((document, of(document)?))).collect()
}

/// Turns before a shown reply, at least.
const BEFORE: usize = 3;

/// Greedy replies to drawn documents.
fn replies(
    recipe: &PretrainRecipe,
    prepared: &Prepared,
    documents: &[(&Document, &Dialogue)],
    model: &Gpt2,
) -> Result<Vec<ShownReply>> {
    let prompts = PromptSet::english()?;
    let tokenizer = &prepared.tokenizer;
    let mut drawn = documents.to_vec();
    drawn.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.seed));
    let (mut requests, mut shown) = (Vec::new(), Vec::new());
    for (document, dialogue) in drawn {
        if requests.len() == recipe.card.replies {
            break;
        }
        let turns = dialogue.turns.get(document.of.clone()).unwrap_or_default();
        let reply = turns.iter().enumerate().skip(BEFORE).find(|(_, turn)| turn.speaker == Speaker::Two);
        let Some((at, gold)) = reply else { continue };
        let Some(prompt) = document.turns.get(at).and_then(|range| document.ids.get(..range.start)) else {
            continue;
        };
        let ends = [tokenizer.eos_id()];
        let request = Request::new(prompt.to_vec(), DecodeConfig::default());
        requests.push(request.ending_at(&ends).stopping_at(["\n"]));
        let line = |turn: &persona_data::Turn| {
            let role = if turn.speaker == Speaker::Two { Role::Agent } else { Role::Partner };
            format!("{}: {}", prompts.tag(role), turn.text)
        };
        shown.push(ShownReply {
            persona: dialogue.persona(Speaker::Two).to_vec(),
            history: turns.iter().take(at).map(line).collect(),
            gold: gold.text.clone(),
            reply: String::new(),
        });
    }
    let engine = Engine::new(model, EngineConfig::default())?.with_tokenizer(tokenizer)?;
    for (shown, completions) in shown.iter_mut().zip(engine.complete(&requests)?) {
        let text = completions.into_iter().next().and_then(|completion| completion.text);
        shown.reply = text.unwrap_or_default().trim().to_owned();
    }
    Ok(shown)
}
