//! What is to be made, in order, and the hash of what makes it: known before anything is made.

mod planner;

use std::fmt;

use anyhow::Result;
use persona_data::Task;
use persona_infer::{DecodeConfig, Strategy};
use persona_train::TrainConfig;
use serde::Serialize;

use self::planner::Planner;
use super::recipe::{ExperimentRecipe, System};
use super::store::Store;

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
        /// How they are decoded.
        decode: DecodeConfig,
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
        /// How they are decoded.
        decode: DecodeConfig,
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
    /// How a model's replies are decoded. Draws come from the seed; without a temperature nothing is drawn.
    fn decode(
        &self,
        recipe: &ExperimentRecipe,
        by: ModelAt,
        temperature: Option<f64>,
        seed: u64,
    ) -> DecodeConfig {
        let learned_none = match by {
            ModelAt::Start(_) => true,
            ModelAt::Trained(_) => false,
            ModelAt::Aligned(at, _) => {
                let work = self.cells.get(at).map(|cell| &cell.work);
                matches!(work, Some(Work::Align { from: ModelAt::Start(_), .. }))
            }
        };
        let decode = recipe.decode_start.filter(|_| learned_none).unwrap_or(recipe.decode);
        let temperature = temperature.unwrap_or(decode.temperature);
        DecodeConfig { temperature, seed: if temperature > 0.0 { seed } else { 0 }, ..decode }
    }

    /// The plan of a recipe.
    ///
    /// # Errors
    /// Never of these types.
    pub fn of(recipe: &ExperimentRecipe, sources: &Sources) -> Result<Self> {
        let mut planner = Planner::new(recipe, sources);
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
