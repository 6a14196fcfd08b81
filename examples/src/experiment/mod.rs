//! The systems of PAL's tables from one starting model: what the program `experiment` does.
//!
//! A recipe is a plan of cells: trainings, pairs, replies, judgements. Each is called by a hash of everything that makes
//! it, is made once, and is read afterwards, so that a stopped experiment continues and a changed recipe makes again only
//! what the change reaches.

mod bars;
mod compare;
mod contractions;
mod data;
mod make;
mod measure;
mod page;
mod plan;
mod predictions;
mod recipe;
mod report;
mod store;

use std::fmt::Write;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use persona_data::{
    BadExamples, EncodeOptions, Example, ExampleEncoder, PromptSet, SpecialTokens, TextTokenizer,
};
use persona_model::{Gpt2Config, Model};
use tch::Device;

pub use self::bars::{Bar, Bars};
pub use self::compare::{Better, Compared, better};
pub use self::contractions::{apart, description};
pub use self::plan::{Cell, Condition, Listing, Plan, Sources, Work};
pub use self::predictions::{Direction, Order, Outcome, Predictions, Shape};
pub use self::recipe::{AlignPart, ExperimentData, ExperimentRecipe, JudgePart, ReportPart, Sizes, System};
pub use self::report::ExperimentReport;
pub use self::store::{Finished, Store};

use self::data::{Drawn, Labels, PARTS, Parts};
use self::make::Lab;
use self::store::{read_json, write_json};
use crate::data::bpe_of;
use crate::judge::Judge;
use crate::pipeline::{fits, prompt_set};
use crate::progress::Interrupt;
use crate::recipe::ModelRecipe;
use crate::training::fresh_model;
use crate::workspace::{digest, model_digest};

/// How an experiment ended.
#[derive(Debug)]
pub enum Run {
    /// With a report, which also lies in its folder.
    Finished(Box<ExperimentReport>),
    /// Somebody stopped it, or it made as many cells as it was allowed; the same call continues.
    Stopped,
}

/// Runs a recipe, or what is left of it; `limit` stops after so many newly made cells.
///
/// # Errors
/// The first of any part; what was finished before stays.
pub fn run(
    recipe: &ExperimentRecipe,
    text: &str,
    limit: Option<usize>,
    interrupt: &Interrupt,
) -> Result<Run> {
    let device = persona_model::device(&recipe.device)?;
    let predictions = recipe.predictions.as_deref().map(Predictions::load).transpose()?;
    let store = Store::new(&recipe.out)?;
    let mut prepared = Prepared::of(recipe)?;
    let judge = Judge::load(&recipe.judge.folder, device)?;
    let _held = store.make()?;
    prepared.parts.split.save(store.path("split.json"))?;
    let mut left = limit.unwrap_or(usize::MAX);
    let Some(inputs) = prepared.inputs(recipe, &store, Some((&judge, device)), &mut left)? else {
        return Ok(Run::Stopped);
    };
    let mut facts = inputs.facts;
    facts.extend(predictions.iter().map(|(read, _)| ("in the paper".to_owned(), read.paper.sizes.clone())));
    facts.push(inputs.left_out);
    facts.push(model_fact(recipe, inputs.encoder.tokenizer(), device)?);
    facts.push(("judge".to_owned(), persona_metrics::PersonaJudge::name(&judge)));
    let plan = Plan::of(recipe, &prepared.sources)?;
    let lab = Lab {
        recipe,
        store: &store,
        plan: &plan,
        examples: &inputs.drawn,
        encoder: &inputs.encoder,
        judge: &judge,
        device,
        interrupt,
    };
    let count = plan.cells.len();
    for (at, cell) in plan.cells.iter().enumerate() {
        if store.finished(cell.kind, &cell.key)?.is_some() {
            continue;
        }
        if left == 0 {
            return Ok(Run::Stopped);
        }
        left -= 1;
        println!("[{}/{count}] {}", at + 1, cell.what);
        let began = Instant::now();
        let Some(facts) = lab.make(cell).with_context(|| cell.what.clone())? else {
            return Ok(Run::Stopped);
        };
        let (key, what, seconds) = (cell.key.clone(), cell.what.clone(), began.elapsed().as_secs_f64());
        store.finish(cell.kind, &Finished { key, what, facts, seconds, device: Some(machine(device)) })?;
    }
    let report = report::assemble(&lab, text, facts, predictions)?;
    report.write(&recipe.out)?;
    Ok(Run::Finished(Box::new(report)))
}

/// What a recipe would make, and what of it is there. Trains nothing and writes nothing.
///
/// # Errors
/// The loaders', as of a run.
pub fn dry_run(recipe: &ExperimentRecipe) -> Result<String> {
    let mut prepared = Prepared::of(recipe)?;
    let store = Store::new(&recipe.out)?;
    // Without labels and tokenizer no other cell is there either, and which examples are too long is not known.
    prepared.inputs(recipe, &store, None, &mut 0)?;
    let plan = Plan::of(recipe, &prepared.sources)?;
    let mut text = String::new();
    for (name, fact) in &prepared.parts.facts {
        writeln!(text, "{name:>22} {fact}")?;
    }
    writeln!(text, "\n{}", plan.list(&store)?)?;
    Ok(text)
}

/// What cells are made from, once labels and tokenizer are there.
struct Inputs {
    /// Those too long for the model left out.
    drawn: Drawn,
    encoder: ExampleEncoder,
    facts: Vec<(String, String)>,
    left_out: (String, String),
}

/// What is known before anything is made.
struct Prepared {
    parts: Parts,
    prompts: PromptSet,
    positions: usize,
    /// Of a folder.
    tokenizer: Option<TextTokenizer>,
    sources: Sources,
}

impl Prepared {
    fn of(recipe: &ExperimentRecipe) -> Result<Self> {
        for (key, file) in recipe.data.files() {
            ensure!(
                file.is_file(),
                "`{key}`: {} is not there; give the folder of the data with --data, or `data.folder`",
                file.display()
            );
        }
        let prompts = prompt_set(&recipe.prompts)?;
        let parts = data::load(recipe)?;
        let judge = model_digest(&recipe.judge.folder).context("the judge")?;
        let lacking = parts.lacks_labels(&recipe.data.examples);
        let labels = lacking
            .then(|| digest(&(plan::PROGRAM, "labels", &parts.dialogues, &judge, recipe.judge.rule)))
            .transpose()?;
        let (there, skipped) = (parts.test_examples(&recipe.data.examples), recipe.sizes.test_skip);
        ensure!(
            there > skipped,
            "`sizes.test_skip` is {skipped}, which leaves none of {there} test examples"
        );
        let part_keys = parts.keys(recipe)?;
        // Labels by the judge are of all parts together: whoever has unlabelled turns depends on them.
        let part_keys = part_keys.map(|key| labels.as_ref().map_or(key.clone(), |labels| key + labels));
        let (tokenizer, positions, start, tokenizer_key) = match &recipe.model {
            ModelRecipe::Folder { folder, .. } => {
                let read = || -> Result<_> {
                    let tokenizer = TextTokenizer::from_folder(folder, &SpecialTokens::default())?;
                    Ok((tokenizer, Gpt2Config::from_folder(folder)?.n_positions, model_digest(folder)?))
                };
                let (tokenizer, positions, start) =
                    read().with_context(|| format!("`model.folder`, {}", folder.display()))?;
                (Some(tokenizer), positions, start, None)
            }
            ModelRecipe::Fresh { vocabulary, positions, .. } => {
                let key =
                    digest(&(plan::PROGRAM, "tokenizer", &part_keys[0], vocabulary, &prompts.fingerprint()))?;
                (None, *positions, digest(&recipe.model)?, Some(key))
            }
        };
        let fingerprint = tokenizer.as_ref().map(TextTokenizer::fingerprint);
        let encoding = digest(&(prompts.fingerprint(), fingerprint, &tokenizer_key, positions))?;
        let sources = Sources { parts: part_keys, encoding, start, judge, labels, tokenizer: tokenizer_key };
        Ok(Self { parts, prompts, positions, tokenizer, sources })
    }

    /// Labels and tokenizer, made or read, and the examples that fit the model, which the sources then know; nothing where
    /// no cell is left to make.
    fn inputs(
        &mut self,
        recipe: &ExperimentRecipe,
        store: &Store,
        judge: Option<(&Judge, Device)>,
        left: &mut usize,
    ) -> Result<Option<Inputs>> {
        let (judge, device) = judge.unzip();
        if let Some(key) = &self.sources.labels {
            let labels: Option<Labels> = kept(store, ("labels", key), device, left, || {
                self.parts.judged(judge.context("there is no judge to label by")?, recipe)
            })?;
            let Some(labels) = labels else { return Ok(None) };
            self.parts.set_labels(labels)?;
        }
        let mut drawn = self.parts.drawn(recipe);
        let tokenizer = match self.tokenizer.take() {
            Some(tokenizer) => tokenizer,
            None => match fresh_tokenizer((recipe, self), store, device, &drawn.train, left)? {
                Some(tokenizer) => tokenizer,
                None => return Ok(None),
            },
        };
        let options = EncodeOptions {
            max_length: self.positions,
            bad_examples: BadExamples::Drop,
            ..EncodeOptions::default()
        };
        let encoder = ExampleEncoder::new(&tokenizer, &self.prompts, options)?;
        let facts = facts(recipe, self, &drawn, store)?;
        let room = recipe.decode.max_new_tokens;
        let left_out = leave_out(&mut drawn, &encoder, room, &mut self.sources.parts)?;
        Ok(Some(Inputs { drawn, encoder, facts, left_out }))
    }
}

/// A device, and how many threads compute.
fn machine(device: Device) -> String {
    format!("{device:?}, {} threads", tch::get_num_threads())
}

/// A value of a cell that is made before the plan, with a fact about it; nothing where no cell is left to make.
fn kept<T: serde::Serialize + serde::de::DeserializeOwned>(
    store: &Store,
    (kind, key): (&'static str, &str),
    device: Option<Device>,
    left: &mut usize,
    make: impl FnOnce() -> Result<(T, String)>,
) -> Result<Option<T>> {
    let path = store.cell(kind, key).join("value.json");
    if store.finished(kind, key)?.is_some() {
        return read_json(&path).map(Some);
    }
    let Some(after) = left.checked_sub(1) else { return Ok(None) };
    *left = after;
    println!("making {kind}");
    let began = Instant::now();
    let (value, fact) = make()?;
    write_json(&path, &value)?;
    let facts = vec![(kind.to_owned(), fact)];
    let seconds = began.elapsed().as_secs_f64();
    let device = device.map(machine);
    store.finish(kind, &Finished { key: key.to_owned(), what: kind.to_owned(), facts, seconds, device })?;
    Ok(Some(value))
}

/// The tokenizer of a fresh model, trained on the training examples; nothing where no cell is left to make.
fn fresh_tokenizer(
    (recipe, prepared): (&ExperimentRecipe, &Prepared),
    store: &Store,
    device: Option<Device>,
    train: &[Example],
    left: &mut usize,
) -> Result<Option<TextTokenizer>> {
    let (Some(key), ModelRecipe::Fresh { vocabulary, .. }) = (&prepared.sources.tokenizer, &recipe.model)
    else {
        anyhow::bail!("a model of a folder has its own tokenizer");
    };
    let folder = store.cell("tokenizer", key);
    let made = kept(store, ("tokenizer", key), device, left, || {
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let tokenizer = bpe_of(&prepared.prompts, train, *vocabulary)?;
        tokenizer.save(&folder)?;
        Ok((tokenizer.vocab_size(), format!("{} entries", tokenizer.vocab_size())))
    })?;
    let read = |_| Ok(TextTokenizer::from_folder(&folder, &SpecialTokens::default())?);
    made.map(read).transpose()
}

/// What the data are, what of them is used, and where the labels come from.
fn facts(
    recipe: &ExperimentRecipe,
    prepared: &Prepared,
    drawn: &Drawn,
    store: &Store,
) -> Result<Vec<(String, String)>> {
    let mut facts = prepared.parts.facts.clone();
    if let Some(key) = &prepared.sources.labels {
        let made = store.finished("labels", key)?.map(|finished| finished.facts).unwrap_or_default();
        facts.extend(made.into_iter().map(|(_, fact)| ("labels by the judge".to_owned(), fact)));
    }
    let used = [&drawn.train, &drawn.valid1, &drawn.choose, &drawn.test];
    let mut words = Vec::new();
    for ((name, dialogues), used) in PARTS.iter().zip(&prepared.parts.dialogues).zip(used) {
        let all: usize = dialogues.iter().map(|dialogue| dialogue.example_count(&recipe.data.examples)).sum();
        let none = used.iter().filter(|example| example.selected().is_none()).count();
        let none = 100.0 * none as f64 / used.len().max(1) as f64;
        let cut = if used.len() < all { "cut to " } else { "all " };
        words.push(format!("{name} {cut}{} of {all} ('none' {none:.1} %)", used.len()));
    }
    facts.push(("examples used".to_owned(), words.join("; ")));
    let stage1 = &recipe.stage1.train;
    facts.push((
        "steps".to_owned(),
        format!(
            "fine-tuning {}, stage 1 {} (one task alone {}), alignment {}; seeds {:?}",
            recipe.fine_tuning.steps,
            stage1.steps,
            recipe.one_task().steps,
            recipe.align.train.steps,
            recipe.seeds
        ),
    ));
    Ok(facts)
}

/// Leaves out the examples whose prompts leave no room for a reply. The keys of their parts then tell which ones stay.
fn leave_out(
    drawn: &mut Drawn,
    encoder: &ExampleEncoder,
    room: usize,
    [_, valid1, choose, test, revised]: &mut [String; 5],
) -> Result<(String, String)> {
    let mut count = 0;
    let parts = [(&mut drawn.valid1, valid1), (&mut drawn.choose, choose), (&mut drawn.test, test)];
    let with_revised = drawn.revised.as_mut().map(|examples| (examples, revised));
    for (examples, key) in parts.into_iter().chain(with_revised) {
        let before = examples.len();
        examples.retain(|example| fits(encoder, example, room));
        if examples.len() < before {
            let stay: Vec<&str> = examples.iter().map(|example| example.id.as_str()).collect();
            *key = digest(&(&*key, stay))?;
        }
        count += before - examples.len();
        ensure!(
            !examples.is_empty(),
            "no example leaves {room} tokens for a reply; give the model more positions, or \
             `decode.max_new_tokens` less"
        );
    }
    Ok(("too long for the model".to_owned(), format!("{count} of the examples replied to, left out")))
}

fn model_fact(
    recipe: &ExperimentRecipe,
    tokenizer: &TextTokenizer,
    device: Device,
) -> Result<(String, String)> {
    let (from, model) = match &recipe.model {
        ModelRecipe::Folder { folder, .. } => {
            let (model, report) = persona_model::Gpt2::load(folder, device, tch::Kind::Float)?;
            tokenizer.check_vocabulary(persona_model::CausalLm::limits(&model).vocabulary)?;
            (format!("{}, {report}", folder.display()), model)
        }
        fresh => {
            let seed = recipe.seeds.first().copied().unwrap_or_default();
            ("from scratch".to_owned(), fresh_model(fresh, tokenizer, seed, device)?)
        }
    };
    let precision = toml::Value::try_from(recipe.precision)?;
    let fact = format!(
        "{from}; {} parameters, {} entries; products in {}",
        model.parameters().count(),
        tokenizer.vocab_size(),
        precision.as_str().unwrap_or_default()
    );
    Ok(("starting model".to_owned(), fact))
}
