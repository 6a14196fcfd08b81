//! What is to be made, in order, and the hash of what makes it: known before anything is made.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;
use persona_data::Task;
use persona_infer::Strategy;
use persona_train::TrainConfig;
use serde::Serialize;

use super::recipe::{ExperimentRecipe, System};
use super::store::Store;
use crate::recipe::ModelRecipe;
use crate::workspace::digest;

/// Part of every key: raised when a cell of the same recipe would come out otherwise.
pub(super) const PROGRAM: &str = concat!("persona-examples ", env!("CARGO_PKG_VERSION"), ", experiment 1");

/// What everything is made from, as hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sources {
    /// Train, Valid#1, choose, test, and test with revised personas; labels by the judge are part of them.
    pub parts: [String; 5],
    /// Tokenizer, prompts and positions.
    pub encoding: String,
    /// The starting model: its files, or its shape.
    pub start: String,
    /// The judge's files.
    pub judge: String,
    /// The cell of labels by the judge, where the data lack some.
    pub labels: Option<String>,
    /// The cell of a fresh model's tokenizer.
    pub tokenizer: Option<String>,
}

/// Which personas the test examples have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// As the dialogues were written.
    Original,
    /// Rewritten.
    Revised,
}

impl Condition {
    /// How it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Original => "original personas",
            Self::Revised => "revised personas",
        }
    }
}

/// A model that replies, makes pairs or is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelAt {
    /// The starting model; a fresh one is drawn from the seed.
    Start(u64),
    /// The end of a training, by its cell.
    Trained(usize),
    /// An alignment after so many steps, by its cell.
    Aligned(usize, u64),
}

/// How a cell is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Labels of the turns that have none. Made before everything else.
    Labels,
    /// The tokenizer of a fresh model, on the training examples. Made before everything else.
    Tokenizer,
    /// A training on the training examples.
    Train {
        /// Where it starts.
        from: ModelAt,
        /// Every example for each of these.
        tasks: Vec<Task>,
        /// The loop.
        config: TrainConfig,
    },
    /// Pairs of Valid#1, and of the examples to choose on.
    Pairs {
        /// Whose replies are rejected.
        by: ModelAt,
        /// Its seed.
        seed: u64,
    },
    /// DPO.
    Align {
        /// Where it starts, and the reference.
        from: ModelAt,
        /// The cell of the pairs.
        pairs: usize,
        /// The loop.
        config: TrainConfig,
        /// Steps whose weights are kept.
        kept: Vec<u64>,
    },
    /// Further steps on the gold replies of pairs.
    Further {
        /// Where it starts.
        from: ModelAt,
        /// The cell of the pairs.
        pairs: usize,
        /// The loop.
        config: TrainConfig,
    },
    /// Replies to the test examples.
    Replies {
        /// Whose.
        by: ModelAt,
        /// Nothing where the persona is not read.
        strategy: Option<Strategy>,
        /// With which personas.
        condition: Condition,
    },
    /// The judgements of replies.
    Judgements {
        /// The cell of the replies.
        replies: usize,
    },
}

/// Something that is made once and kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The hash of what makes it.
    pub key: String,
    /// For its folder.
    pub kind: &'static str,
    /// What it is, in words.
    pub what: String,
    /// How it is made.
    pub work: Work,
}

impl Cell {
    /// Optimiser steps, of a training.
    #[must_use]
    pub fn steps(&self) -> Option<u64> {
        match &self.work {
            Work::Train { config, .. } | Work::Align { config, .. } | Work::Further { config, .. } => {
                Some(config.steps)
            }
            _ => None,
        }
    }
}

/// Replies and their judgements, by cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The replies.
    pub replies: usize,
    /// Their judgements.
    pub judgements: usize,
}

/// A row of a table, with a cell a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The system.
    pub system: System,
    /// With which personas.
    pub condition: Condition,
    /// In the order of the seeds.
    pub seeds: Vec<Measured>,
}

/// Everything that an experiment makes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In order: nothing needs a later one.
    pub cells: Vec<Cell>,
    /// The rows of the tables.
    pub rows: Vec<Row>,
    /// PAL along its alignment: after so many steps, a cell a seed. Step 0 is stage 1 alone.
    pub curve: Vec<(u64, Vec<Measured>)>,
    /// PAL's alignments, by seed, where it is a system.
    pub alignments: Vec<usize>,
    /// Stage 1, by seed.
    pub stage1: Vec<usize>,
}

impl Plan {
    /// The plan of a recipe.
    ///
    /// # Errors
    /// Never of these types.
    pub fn of(recipe: &ExperimentRecipe, sources: &Sources) -> Result<Self> {
        let mut planner = Planner { recipe, sources, plan: Self::default(), places: HashMap::new() };
        for (kind, what, work, key) in [
            ("labels", "labels by the judge", Work::Labels, &sources.labels),
            ("tokenizer", "tokenizer of the fresh model", Work::Tokenizer, &sources.tokenizer),
        ] {
            let cell = |key: &String| Cell { key: key.clone(), kind, what: what.to_owned(), work };
            planner.plan.cells.extend(key.as_ref().map(cell));
        }
        let original = recipe.systems.iter().map(|&system| (system, Condition::Original));
        let revised = recipe.revised.iter().map(|&system| (system, Condition::Revised));
        for (system, condition) in original.chain(revised) {
            planner.plan.rows.push(Row { system, condition, seeds: Vec::new() });
        }
        let steps = if recipe.align.curve.is_empty() { Vec::new() } else { recipe.align.kept() };
        if !steps.is_empty() {
            planner.plan.curve = [0].into_iter().chain(steps).map(|step| (step, Vec::new())).collect();
        }
        // Seed by seed: a recipe cut to the first seeds finds all of theirs made.
        for &seed in &recipe.seeds {
            planner.rows(seed)?;
            planner.curve(seed)?;
        }
        Ok(planner.plan)
    }

    /// A list of the cells, with those marked that are there.
    ///
    /// # Errors
    /// When a cell's file is damaged.
    pub fn list(&self, store: &Store) -> Result<Listing<'_>> {
        let cells = self.cells.iter().map(|cell| {
            let there = store.finished(cell.kind, &cell.key)?;
            Ok((cell, there.map(|finished| finished.seconds)))
        });
        Ok(Listing(cells.collect::<Result<_>>()?))
    }
}

struct Planner<'a> {
    recipe: &'a ExperimentRecipe,
    sources: &'a Sources,
    plan: Plan,
    places: HashMap<String, usize>,
}

impl Planner<'_> {
    /// Adds a cell, once: systems share what is made from the same.
    fn add(
        &mut self,
        (kind, what): (&'static str, String),
        work: Work,
        made_from: impl Serialize,
    ) -> Result<usize> {
        let key = digest(&(PROGRAM, kind, made_from))?;
        if let Some(&at) = self.places.get(&key) {
            return Ok(at);
        }
        let at = self.plan.cells.len();
        self.places.insert(key.clone(), at);
        self.plan.cells.push(Cell { key, kind, what, work });
        Ok(at)
    }

    fn key(&self, at: usize) -> &str {
        self.plan.cells.get(at).map_or("", |cell| &cell.key)
    }

    /// What a model is known by. A folder is the same for every seed.
    fn model_key(&self, model: ModelAt) -> String {
        match model {
            ModelAt::Start(seed) => match self.recipe.model {
                ModelRecipe::Folder { .. } => self.sources.start.clone(),
                ModelRecipe::Fresh { .. } => format!("{}, seed {seed}", self.sources.start),
            },
            ModelAt::Trained(at) => self.key(at).to_owned(),
            ModelAt::Aligned(at, step) => format!("{} after {step}", self.key(at)),
        }
    }

    /// Every row's cells of a seed.
    fn rows(&mut self, seed: u64) -> Result<()> {
        let mut rows = std::mem::take(&mut self.plan.rows);
        for Row { system, condition, seeds } in &mut rows {
            let model = self.model(*system, seed)?;
            let name = format!("{}, {}", system.name(), condition.name());
            seeds.push(self.measured(&name, model, system.strategy(seed), *condition, seed)?);
        }
        self.plan.rows = rows;
        Ok(())
    }

    /// Replies of a model, and their judgements.
    fn measured(
        &mut self,
        name: &str,
        by: ModelAt,
        strategy: Option<Strategy>,
        condition: Condition,
        seed: u64,
    ) -> Result<Measured> {
        let [_, _, _, original, revised] = &self.sources.parts;
        let part = match condition {
            Condition::Original => original,
            Condition::Revised => revised,
        };
        let decode = self.recipe.decode;
        let made_from = (self.model_key(by), &self.sources.encoding, part, decode, strategy);
        let made_from = (made_from, self.recipe.precision);
        let work = Work::Replies { by, strategy, condition };
        let replies = self.add(("replies", format!("seed {seed}: replies of {name}")), work, made_from)?;
        let made_from = (self.key(replies).to_owned(), &self.sources.judge);
        let work = Work::Judgements { replies };
        let judgements =
            self.add(("judgements", format!("seed {seed}: judgements of {name}")), work, made_from)?;
        Ok(Measured { replies, judgements })
    }

    /// The model of a system, and everything before it.
    fn model(&mut self, system: System, seed: u64) -> Result<ModelAt> {
        let start = ModelAt::Start(seed);
        let recipe = self.recipe;
        let one_task = || TrainConfig { seed, ..recipe.one_task() };
        Ok(match system {
            System::Start => start,
            System::FineTuning | System::Prompting => {
                let task = if system == System::FineTuning { Task::HistoryOnly } else { Task::Plain };
                let config = TrainConfig { seed, ..recipe.fine_tuning.clone() };
                ModelAt::Trained(self.train(system.name(), vec![task], config)?)
            }
            System::WithoutPa => ModelAt::Trained(self.stage1(seed)?),
            System::WithoutMix => self.align(system, start, seed)?,
            System::OnlyGeneration | System::OnlySelection => {
                let generation = system == System::OnlyGeneration;
                let task = if generation { Task::Generation } else { Task::Selection };
                let name = format!("stage 1, {task} alone");
                let stage1 = self.train(&name, vec![task], one_task())?;
                self.align(system, ModelAt::Trained(stage1), seed)?
            }
            System::WithoutPairs => {
                let from = ModelAt::Trained(self.stage1(seed)?);
                let pairs = self.pairs("stage 1", from, seed)?;
                let align = &recipe.align;
                let rate = align.without_pairs_learning_rate.unwrap_or(align.train.learning_rate);
                let config = TrainConfig { seed, learning_rate: rate, ..align.train.clone() };
                let made_from = (self.model_key(from), self.key(pairs).to_owned(), &config);
                let what = format!("seed {seed}: further training on the gold replies of the pairs");
                let work = Work::Further { from, pairs, config: config.clone() };
                ModelAt::Trained(self.add(("further", what), work, made_from)?)
            }
            System::Pal | System::PalRandom | System::PalNotSelect | System::PalOracle => {
                let from = ModelAt::Trained(self.stage1(seed)?);
                let model = self.align(System::Pal, from, seed)?;
                if let (ModelAt::Aligned(at, _), System::Pal) = (model, system)
                    && !self.plan.alignments.contains(&at)
                {
                    self.plan.alignments.push(at);
                }
                model
            }
        })
    }

    fn stage1(&mut self, seed: u64) -> Result<usize> {
        let config = TrainConfig { seed, ..self.recipe.stage1.train.clone() };
        let at = self.train("stage 1", Task::MIXED.to_vec(), config)?;
        if !self.plan.stage1.contains(&at) {
            self.plan.stage1.push(at);
        }
        Ok(at)
    }

    fn train(&mut self, name: &str, tasks: Vec<Task>, config: TrainConfig) -> Result<usize> {
        let from = ModelAt::Start(config.seed);
        let [train, _, choose, ..] = &self.sources.parts;
        let weights = self.recipe.stage1.task_weights.filter(|_| tasks.len() > 1);
        let made_from = (self.model_key(from), &self.sources.encoding, train, choose, &tasks, weights);
        let made_from = (made_from, &config);
        let what = format!("seed {}: {name}", config.seed);
        let work = Work::Train { from, tasks: tasks.clone(), config: config.clone() };
        self.add(("train", what), work, made_from)
    }

    fn pairs(&mut self, name: &str, by: ModelAt, seed: u64) -> Result<usize> {
        let recipe = self.recipe;
        let [_, valid1, choose, ..] = &self.sources.parts;
        let made_from = (self.model_key(by), &self.sources.encoding, valid1, choose, recipe.decode);
        let made_from = (made_from, recipe.pairs, recipe.precision);
        let what = format!("seed {seed}: pairs by {name}");
        self.add(("pairs", what), Work::Pairs { by, seed }, made_from)
    }

    /// DPO of a system. PAL's goes on to the end of the curve.
    fn align(&mut self, system: System, from: ModelAt, seed: u64) -> Result<ModelAt> {
        let align = &self.recipe.align;
        let own = align.train.steps;
        let kept = if system == System::Pal { align.kept() } else { vec![own] };
        let steps = kept.last().copied().unwrap_or(own);
        let config = TrainConfig { seed, steps, ..align.train.clone() };
        let pairs = self.pairs(system_before(system), from, seed)?;
        let pairs_key = self.key(pairs).to_owned();
        let made_from = (self.model_key(from), pairs_key, align.beta, &config, &kept);
        let what = format!("seed {seed}: alignment of {}", system.name());
        let work = Work::Align { from, pairs, config: config.clone(), kept: kept.clone() };
        Ok(ModelAt::Aligned(self.add(("align", what), work, made_from)?, own))
    }

    /// The curve's cells of a seed.
    fn curve(&mut self, seed: u64) -> Result<()> {
        let mut curve = std::mem::take(&mut self.plan.curve);
        for (step, seeds) in &mut curve {
            let stage1 = ModelAt::Trained(self.stage1(seed)?);
            let model = match (*step, self.align(System::Pal, stage1, seed)?) {
                (0, _) => stage1,
                (step, ModelAt::Aligned(at, _)) => ModelAt::Aligned(at, step),
                (_, other) => other,
            };
            let (name, select) = (format!("PAL after {step} steps"), Some(Strategy::Select));
            seeds.push(self.measured(&name, model, select, Condition::Original, seed)?);
        }
        self.plan.curve = curve;
        Ok(())
    }
}

/// Whose replies are rejected.
fn system_before(system: System) -> &'static str {
    match system {
        System::WithoutMix => "the starting model",
        System::OnlyGeneration => "stage 1, generation alone",
        System::OnlySelection => "stage 1, selection alone",
        _ => "stage 1",
    }
}

/// The cells of a plan with the seconds of those that are there.
#[derive(Debug)]
pub struct Listing<'a>(Vec<(&'a Cell, Option<f64>)>);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>4}  {:<12}{:>7}  {:<8}  what", "", "kind", "steps", "state")?;
        for (at, (cell, there)) in self.0.iter().enumerate() {
            let steps = cell.steps().map_or(String::new(), |steps| steps.to_string());
            let state = if there.is_some() { "cached" } else { "to make" };
            writeln!(f, "{:>4}  {:<12}{steps:>7}  {state:<8}  {}", at + 1, cell.kind, cell.what)?;
        }
        let cached = self.0.iter().filter(|(_, there)| there.is_some()).count();
        let open = self.0.iter().filter(|(_, there)| there.is_none());
        let steps: u64 = open.filter_map(|(cell, _)| cell.steps()).sum();
        let seconds = self.0.iter().filter_map(|(_, there)| *there).fold(0.0, |sum, each| sum + each);
        write!(
            f,
            "{} cells, {cached} cached (made in {seconds:.0} s); {steps} optimiser steps to make",
            self.0.len()
        )
    }
}
