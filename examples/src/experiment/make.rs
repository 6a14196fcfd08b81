//! Making the cells of a plan.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use persona_align::{PreferenceLoss, read_pairs, reference_log_probs_of, write_pairs};
use persona_data::{EncodedExample, EncodedPair, Example, ExampleEncoder, Task};
use persona_infer::{DecodeConfig, Strategy};
use persona_metrics::{Judgement, PersonaJudge};
use persona_model::{Gpt2, Model};
use persona_train::{NextToken, TrainConfig};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::contractions::apart;
use super::data::Drawn;
use super::plan::{Cell, Condition, ModelAt, Plan, Work};
use super::recipe::ExperimentRecipe;
use super::store::{Store, read_json, write_json};
use crate::judge::Judge;
use crate::pairs;
use crate::progress::Interrupt;
use crate::recipe::ModelRecipe;
use crate::systems::{SystemReplies, reply_from_history, reply_to_all};
use crate::training::{TrainingFolder, fresh_model};

/// What cells are made with.
#[derive(Debug)]
pub(super) struct Lab<'a> {
    /// The recipe.
    pub recipe: &'a ExperimentRecipe,
    /// The folder.
    pub store: &'a Store,
    /// What is made.
    pub plan: &'a Plan,
    /// The examples, those too long for the model left out.
    pub examples: &'a Drawn,
    /// From examples to tokens.
    pub encoder: &'a ExampleEncoder,
    /// Who judges.
    pub judge: &'a Judge,
    /// Where it is computed.
    pub device: Device,
    /// How it is stopped.
    pub interrupt: &'a Interrupt,
}

/// The judgements of a system's replies: for each reply its text as it was judged, and one a description.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Judgements {
    /// The judge's name.
    pub judge: String,
    /// In the order of the replies.
    pub replies: Vec<(String, Vec<Judgement>)>,
}

/// Facts for the report; nothing when a training was interrupted.
type Made = Option<Vec<(String, String)>>;

impl Lab<'_> {
    /// Makes a cell. What it needs is there.
    ///
    /// # Errors
    /// Those of what is made.
    pub(super) fn make(&self, cell: &Cell) -> Result<Made> {
        let folder = self.store.cell(cell.kind, &cell.key);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        match &cell.work {
            Work::Labels | Work::Tokenizer => Ok(Some(Vec::new())),
            Work::Train { from, tasks, config } => self.train(cell, *from, tasks, config),
            Work::Pairs { by, decode } => self.pairs(cell, *by, *decode).map(Some),
            Work::Align { from, pairs, config, kept } => self.align(cell, (*from, *pairs), config, kept),
            Work::Further { from, pairs, config } => {
                let pairs = self.encoded_pairs(*pairs)?;
                let [train, valid] = pairs.map(|pairs| pairs.into_iter().map(gold_of).collect::<Vec<_>>());
                let objective = NextToken::new(self.model(*from)?);
                let place = self.place(cell, &folder);
                let done = place.train(objective, config, (&train, &valid), None)?;
                Ok(done.map(|_| vec![epochs(config, train.len())]))
            }
            Work::Replies { by, strategy, condition, decode } => {
                self.replies(cell, *by, (*strategy, *condition), *decode).map(Some)
            }
            Work::Judgements { replies } => self.judgements(cell, *replies).map(Some),
        }
    }

    fn place<'p>(&'p self, cell: &'p Cell, folder: &'p std::path::Path) -> TrainingFolder<'p> {
        TrainingFolder {
            name: &cell.what,
            folder,
            tokenizer: self.encoder.tokenizer(),
            interrupt: self.interrupt,
        }
    }

    fn folder_of(&self, at: usize) -> Result<PathBuf> {
        let cell = self.plan.cells.get(at).context("the plan lacks a cell that it names")?;
        Ok(self.store.cell(cell.kind, &cell.key))
    }

    /// Loads a model, which computes in the recipe's precision.
    fn model(&self, at: ModelAt) -> Result<Gpt2> {
        let load = |folder: PathBuf| Ok::<_, anyhow::Error>(Gpt2::load(&folder, self.device, Kind::Float)?.0);
        let mut model = match at {
            ModelAt::Start(seed) => match &self.recipe.model {
                ModelRecipe::Folder { folder, .. } => load(folder.clone())?,
                fresh => fresh_model(fresh, self.encoder.tokenizer(), seed, self.device)?,
            },
            ModelAt::Trained(at) => load(self.folder_of(at)?.join("model"))?,
            ModelAt::Aligned(at, step) => load(self.folder_of(at)?.join(kept(step)))?,
        };
        model.set_precision(self.recipe.precision);
        Ok(model)
    }

    fn train(&self, cell: &Cell, from: ModelAt, tasks: &[Task], config: &TrainConfig) -> Result<Made> {
        let (mut train, report) = self.encoder.encode_all(&self.examples.train, tasks)?;
        let (valid, _) = self.encoder.encode_all(&self.examples.choose, tasks)?;
        let stage1 = &self.recipe.stage1;
        // A share of a task that is not learned is no share of anything.
        let thinned = if tasks.contains(&Task::Selection) {
            stage1.thinned(&mut train, &self.examples.train, config.seed)?
        } else {
            None
        };
        ensure!(
            !train.is_empty(),
            "no training example is left: {}; give the model more positions, or `stage1.none_kept` a share",
            thinned.as_deref().unwrap_or("none fits the model")
        );
        let mut objective = NextToken::new(self.model(from)?);
        if tasks.len() > 1 {
            objective = stage1.weighted(objective)?;
        }
        let folder = self.store.cell(cell.kind, &cell.key);
        let done = self.place(cell, &folder).train(objective, config, (&train, &valid), None)?;
        let of_task = |(task, counts): (&Task, &persona_data::TaskReport)| {
            format!(
                "{task} {} ({} shortened, {} left out)",
                counts.examples, counts.examples_cut, counts.dropped
            )
        };
        let words: Vec<String> = report.tasks.iter().map(of_task).chain(thinned).collect();
        let examples = ("examples".to_owned(), words.join(", "));
        Ok(done.map(|_| vec![examples, epochs(config, train.len())]))
    }

    fn pairs(&self, cell: &Cell, by: ModelAt, decode: DecodeConfig) -> Result<Vec<(String, String)>> {
        let model = self.model(by)?;
        let folder = self.store.cell(cell.kind, &cell.key);
        let mut facts = Vec::new();
        let examples = [&self.examples.valid1, &self.examples.choose];
        for (name, examples) in PAIR_FILES.into_iter().zip(examples) {
            let making = pairs::Making {
                rejected: self.recipe.align.rejected,
                judge: Some(self.judge),
                decode,
                options: self.recipe.pairs,
            };
            let (made, report) = pairs::make(name, &model, self.encoder, making, examples)?;
            ensure!(
                !made.is_empty(),
                "{}: no pair is left, of {report}; see `pairs` in the recipe",
                cell.what
            );
            write_pairs(&folder.join(format!("{name}.jsonl")), &made)?;
            facts.push((name.replace('_', " "), report.to_string()));
        }
        Ok(facts)
    }

    /// The training pairs and the held-out ones.
    fn encoded_pairs(&self, at: usize) -> Result<[Vec<EncodedPair>; 2]> {
        let folder = self.folder_of(at)?;
        let read = |name: &str| -> Result<Vec<EncodedPair>> {
            let (encoded, _) =
                pairs::encode(&read_pairs(&folder.join(format!("{name}.jsonl")))?, self.encoder)?;
            ensure!(!encoded.is_empty(), "{name}: every pair is too long for the model");
            Ok(encoded)
        };
        let [train, held_out] = PAIR_FILES;
        Ok([read(train)?, read(held_out)?])
    }

    fn align(
        &self,
        cell: &Cell,
        (from, pairs): (ModelAt, usize),
        config: &TrainConfig,
        steps: &[u64],
    ) -> Result<Made> {
        let folder = self.store.cell(cell.kind, &cell.key);
        let reference = self.model(from)?;
        let tokenizer = self.encoder.tokenizer().fingerprint();
        let score = |name: &str, pairs| {
            let cache = folder.join(pairs::reference_file(name));
            reference_log_probs_of(&reference, pairs, config.micro_batch_size, &cache, &tokenizer)
        };
        let [train, held_out] = self.encoded_pairs(pairs)?;
        let [train_name, held_out_name] = PAIR_FILES;
        let (train, held_out) = (score(train_name, train)?, score(held_out_name, held_out)?);
        let objective = PreferenceLoss::sigmoid(self.recipe.align.beta).on(reference);
        // Kept on the way: the weights of the earlier steps are gone when the training ends.
        let mut keep = |model: &Gpt2, step: u64| {
            if steps.contains(&step) {
                model.save(&folder.join(kept(step)))?;
            }
            Ok(Vec::new())
        };
        let place = self.place(cell, &folder);
        let done = place.train(objective, config, (&train, &held_out), Some(&mut keep))?;
        Ok(done.map(|_| vec![epochs(config, train.len())]))
    }

    /// The test examples with either personas.
    ///
    /// # Errors
    /// When there are none with revised personas.
    pub(super) fn test(&self, condition: Condition) -> Result<&[Example]> {
        match condition {
            Condition::Original => Ok(&self.examples.test),
            Condition::Revised => {
                self.examples.revised.as_deref().context("`data.revised` is missing: no revised personas")
            }
        }
    }

    fn replies(
        &self,
        cell: &Cell,
        by: ModelAt,
        (strategy, condition): (Option<Strategy>, Condition),
        decode: DecodeConfig,
    ) -> Result<Vec<(String, String)>> {
        let (name, model, examples) = (&cell.what, self.model(by)?, self.test(condition)?);
        let replies = match strategy {
            Some(strategy) => reply_to_all(name, &model, self.encoder, decode, strategy, examples)?,
            None => reply_from_history(name, &model, self.encoder, decode, examples)?,
        };
        write_json(&self.store.cell(cell.kind, &cell.key).join(REPLIES), &replies)?;
        Ok(Vec::new())
    }

    /// A system's replies, as they were generated.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn replies_of(&self, at: usize) -> Result<SystemReplies> {
        read_json(&self.folder_of(at)?.join(REPLIES))
    }

    fn judgements(&self, cell: &Cell, replies: usize) -> Result<Vec<(String, String)>> {
        let work = self.plan.cells.get(replies).map(|cell| &cell.work);
        let Some(Work::Replies { condition, .. }) = work else {
            anyhow::bail!("the plan judges what are no replies");
        };
        let texts: Vec<String> =
            self.replies_of(replies)?.replies.iter().map(|reply| apart(&reply.text)).collect();
        let judgements = judge_all(self.judge, self.test(*condition)?, texts)?;
        write_json(&self.store.cell(cell.kind, &cell.key).join(JUDGEMENTS), &judgements)?;
        Ok(Vec::new())
    }

    /// The judgements of a system's replies.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn judgements_of(&self, at: usize) -> Result<Judgements> {
        read_json(&self.folder_of(at)?.join(JUDGEMENTS))
    }
}

/// The replies of a cell.
const REPLIES: &str = "replies.json";

/// The judgements of a cell.
const JUDGEMENTS: &str = "judgements.json";

/// The pairs trained on, and those held out.
const PAIR_FILES: [&str; 2] = ["pairs", "held_out_pairs"];

/// Where an alignment keeps the weights after a step.
fn kept(step: u64) -> String {
    format!("steps/{step}")
}

/// A pair's prompt with its chosen reply.
fn gold_of(pair: EncodedPair) -> EncodedExample {
    EncodedExample { id: pair.id, task: Task::Generation, source: pair.prompt, target: pair.chosen }
}

fn epochs(config: &TrainConfig, examples: usize) -> (String, String) {
    let seen = config.steps as f64 * config.batch_size as f64 / examples.max(1) as f64;
    (
        "training".to_owned(),
        format!(
            "{} steps of {} of {examples} examples: each seen {seen:.2} times",
            config.steps, config.batch_size
        ),
    )
}

/// Judges a reply to each example.
///
/// # Errors
/// The judge's.
pub(super) fn judge_all(
    judge: &dyn PersonaJudge,
    examples: &[Example],
    texts: Vec<String>,
) -> Result<Judgements> {
    let asked: Vec<(&str, &str)> = examples
        .iter()
        .zip(&texts)
        .flat_map(|(example, text)| example.persona.iter().map(move |line| (line.as_str(), text.as_str())))
        .collect();
    let answers = judge.judge(&asked).map_err(|error| anyhow::anyhow!("the judge: {error}"))?;
    let mut left = answers.as_slice();
    let mut replies = Vec::with_capacity(texts.len());
    for (example, text) in examples.iter().zip(texts) {
        let (now, later) = left
            .split_at_checked(example.persona.len())
            .context("the judge gave fewer answers than it got pairs")?;
        replies.push((text, now.to_vec()));
        left = later;
    }
    Ok(Judgements { judge: judge.name(), replies })
}
