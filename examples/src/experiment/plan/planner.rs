//! From a recipe to its cells.

use std::collections::HashMap;

use anyhow::Result;
use persona_align::RejectedFrom;
use persona_data::Task;
use persona_infer::Strategy;
use persona_train::TrainConfig;
use serde::Serialize;

use super::{Cell, Condition, Measured, ModelAt, PROGRAM, Plan, Row, Sources, Work};
use crate::experiment::recipe::{ExperimentRecipe, System};
use crate::recipe::ModelRecipe;
use crate::workspace::digest;

/// A plan that is being made.
pub(super) struct Planner<'a> {
    recipe: &'a ExperimentRecipe,
    sources: &'a Sources,
    pub(super) plan: Plan,
    places: HashMap<String, usize>,
}

impl<'a> Planner<'a> {
    /// Without a cell.
    pub(super) fn new(recipe: &'a ExperimentRecipe, sources: &'a Sources) -> Self {
        Self { recipe, sources, plan: Plan::default(), places: HashMap::new() }
    }
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
    pub(super) fn rows(&mut self, seed: u64) -> Result<()> {
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
        let decode = self.plan.decode(self.recipe, by, None, seed);
        let made_from = (self.model_key(by), &self.sources.encoding, part, decode, strategy);
        let made_from = (made_from, self.recipe.precision);
        let work = Work::Replies { by, strategy, condition, decode };
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
        match self.recipe.stage1.none_kept.filter(|_| tasks.contains(&Task::Selection)) {
            Some(kept) => self.add(("train", what), work, (made_from, kept)),
            None => self.add(("train", what), work, made_from),
        }
    }

    fn pairs(&mut self, name: &str, by: ModelAt, seed: u64) -> Result<usize> {
        let recipe = self.recipe;
        let [_, valid1, choose, ..] = &self.sources.parts;
        let decode = self.plan.decode(recipe, by, recipe.align.rejected_temperature, seed);
        let made_from = (self.model_key(by), &self.sources.encoding, valid1, choose, decode);
        let made_from = (made_from, recipe.pairs, recipe.precision);
        let what = format!("seed {seed}: pairs by {name}");
        let work = Work::Pairs { by, decode };
        match recipe.align.rejected {
            RejectedFrom::HistoryOnly => self.add(("pairs", what), work, made_from),
            // Other builders may ask the judge.
            other => self.add(("pairs", what), work, (made_from, other, &self.sources.judge)),
        }
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
    pub(super) fn curve(&mut self, seed: u64) -> Result<()> {
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
