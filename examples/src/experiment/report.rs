//! What an experiment shows in the end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::bars::{Bar, Bars};
use super::compare::{Better, Compared, better, compare, correct};
use super::make::Lab;
use super::measure::{Remembered, Replied, mean_of, read, table};
use super::plan::{Condition, Measured, PROGRAM, Work};
use super::predictions::{Order, Outcome, Predictions};
use super::recipe::System;
use super::store::{Finished, read_json, write_json};
use crate::report::{Cell, Conversation, Curve, Line, Table};
use crate::results::{Log, conversations};
use crate::systems::SystemReplies;
use crate::workspace::digest;

/// Everything that the report of an experiment holds. It follows from the cells alone: nothing in it depends on when or in
/// how many calls they were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentReport {
    /// The heading.
    pub title: String,
    /// What was run, one paragraph each.
    pub summary: Vec<String>,
    /// Named facts in order.
    pub facts: Vec<(String, String)>,
    /// The tables: original personas, then revised ones.
    pub tables: Vec<(String, Table)>,
    /// In every column the best system against the second best.
    pub best: Vec<Compared>,
    /// Every other row against PAL.
    pub against_pal: Vec<Compared>,
    /// Predictions beside what came out.
    pub outcomes: Vec<Outcome>,
    /// The paper's orders beside ours.
    pub orders: Vec<Order>,
    /// Pictures of bars.
    pub bars: Vec<Bars>,
    /// Pictures of lines.
    pub curves: Vec<Curve>,
    /// Every training: what it is, steps and epochs, and what was measured last.
    pub trainings: Vec<(String, String)>,
    /// Conversations with every system's reply, of the first seed.
    pub conversations: Vec<Conversation>,
    /// The recipe as it was read.
    pub recipe: String,
    /// The predictions as they were read.
    pub predictions: Option<String>,
}

/// Assembles the report of an experiment whose cells are all there.
///
/// # Errors
/// When a cell cannot be read; the metrics' and the tests'.
pub(super) fn assemble(
    lab: &Lab<'_>,
    text: &str,
    facts: Vec<(String, String)>,
    predictions: Option<(Predictions, String)>,
) -> Result<ExperimentReport> {
    let mut tables = Vec::new();
    let mut original = None;
    for condition in [Condition::Original, Condition::Revised] {
        let rows: Vec<(String, &[Measured])> = lab
            .plan
            .rows
            .iter()
            .filter(|row| row.condition == condition)
            .map(|row| (row.system.name().to_owned(), row.seeds.as_slice()))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let mut judge = Remembered::of_gold(lab, condition)?;
        let systems = read(lab, condition, &rows, &mut judge)?;
        tables.push((condition.name().to_owned(), table(&systems, lab.test(condition)?, &judge)?));
        if condition == Condition::Original {
            original = Some((systems, judge));
        }
    }
    let (systems, mut judge) = original.context("no system is measured with the original personas")?;
    let main = tables.first().map(|(_, table)| table).context("there is no table")?;
    let tests = Tests { lab, systems: &systems, judge: &judge };
    let (best, against_pal) = (tests.best(main)?, tests.against_pal()?);
    let curve = curve_tables(lab, &mut judge)?;
    let (outcomes, orders, predictions) = match predictions {
        Some((read, text)) => (read.outcomes(main, &against_pal, &curve), read.orders(main), Some(text)),
        None => (Vec::new(), Vec::new(), None),
    };
    let first: Vec<SystemReplies> =
        systems.iter().filter_map(|system| system.seeds.first().cloned()).collect();
    let report = ExperimentReport {
        title: lab.recipe.title.clone(),
        summary: summary(lab, main, &against_pal, &outcomes),
        facts: [facts, vec![made_on(lab)?]].concat(),
        bars: bars(main),
        curves: curves(lab, main, &curve)?,
        trainings: trainings(lab)?,
        conversations: conversations(&first, &lab.examples.test, lab.recipe.report.conversations),
        recipe: text.to_owned(),
        tables,
        best,
        against_pal,
        outcomes,
        orders,
        predictions,
    };
    Ok(report)
}

/// PAL's table after each step of the curve.
fn curve_tables(lab: &Lab<'_>, judge: &mut Remembered) -> Result<Vec<(u64, Table)>> {
    let tables = lab.plan.curve.iter().map(|(step, cells)| {
        let rows = [(System::Pal.name().to_owned(), cells.as_slice())];
        let systems = read(lab, Condition::Original, &rows, judge)?;
        Ok((*step, table(&systems, &lab.examples.test, judge)?))
    });
    tables.collect()
}

/// Tests of significance, each made once.
struct Tests<'a> {
    lab: &'a Lab<'a>,
    systems: &'a [Replied],
    judge: &'a Remembered,
}

impl Tests<'_> {
    /// In every column with a better end the best system against the second best: models of their own, without gold and
    /// without what a label helps.
    fn best(&self, table: &Table) -> Result<Vec<Compared>> {
        let own: Vec<&'static str> = self
            .lab
            .recipe
            .systems
            .iter()
            .filter(|system| system.is_own())
            .map(|system| system.name())
            .collect();
        let mut found = Vec::new();
        for column in &table.columns {
            let Some(end) = better(&column.name) else { continue };
            let values = own.iter().filter_map(|&name| Some((name, mean_of(table, name, &column.name)?)));
            let mut values: Vec<(&str, f64)> = values.collect();
            values.sort_by(|(_, a), (_, b)| match end {
                Better::Higher => b.total_cmp(a),
                Better::Lower => a.total_cmp(b),
            });
            let [(first, _), (second, _), ..] = values.as_slice() else { continue };
            let tests = self.of(first, second)?;
            found.extend(tests.into_iter().filter(|test| test.column == column.name));
        }
        Ok(found)
    }

    /// Every other system against PAL, corrected together by column.
    fn against_pal(&self) -> Result<Vec<Compared>> {
        let pal = System::Pal.name();
        let mut all = Vec::new();
        if self.systems.iter().any(|system| system.name == pal) {
            for system in self.systems.iter().filter(|system| system.name != pal) {
                all.extend(self.of(&system.name, pal)?);
            }
        }
        correct(&mut all)?;
        Ok(all)
    }

    /// The tests of two systems, kept in a cell of their own.
    fn of(&self, system: &str, against: &str) -> Result<Vec<Compared>> {
        let find = |name: &str| self.systems.iter().find(|system| system.name == name);
        let (Some(one), Some(two)) = (find(system), find(against)) else { return Ok(Vec::new()) };
        let trials = self.lab.recipe.report.trials;
        let key =
            digest(&(PROGRAM, "tests", (system, self.keys(system)), (against, self.keys(against)), trials))?;
        let path = self.lab.store.cell("tests", &key).join("tests.json");
        if self.lab.store.finished("tests", &key)?.is_some() {
            return read_json(&path);
        }
        println!("testing {system} against {against}");
        let tests = compare((one, two), &self.lab.examples.test, self.judge, trials)?;
        write_json(&path, &tests)?;
        let what = format!("{system} against {against}");
        let finished = Finished { key, what, facts: Vec::new(), seconds: 0.0, device: None };
        self.lab.store.finish("tests", &finished)?;
        Ok(tests)
    }

    /// What a system's judged replies are known by.
    fn keys(&self, name: &str) -> Vec<&str> {
        let mut rows = self.lab.plan.rows.iter();
        let row = rows.find(|row| row.condition == Condition::Original && row.system.name() == name);
        let cells = row.map(|row| row.seeds.as_slice()).unwrap_or_default();
        cells.iter().filter_map(|cell| Some(self.lab.plan.cells.get(cell.judgements)?.key.as_str())).collect()
    }
}

fn summary(lab: &Lab<'_>, table: &Table, against_pal: &[Compared], outcomes: &[Outcome]) -> Vec<String> {
    let recipe = lab.recipe;
    let skipped = match recipe.sizes.test_skip {
        0 => String::new(),
        skipped => format!(
            " They are other turns of the same dialogues and personas as the {skipped} that `sizes.test_skip` leaves out."
        ),
    };
    let mut summary = vec![format!(
        "{} systems from one starting model, every training with {} seed(s). Values are means over the seeds with their \
         standard deviation. Everything is measured on {} examples that no training read.{skipped} Labels come from gold \
         replies.",
        recipe.systems.len(),
        recipe.seeds.len(),
        lab.examples.test.len()
    )];
    let (pal, without) = (System::Pal.name(), System::WithoutPairs.name());
    let mut decisive = Vec::new();
    for column in ["C.score max", "C.score sum", "BLEU-1", "Perplexity"] {
        let values = (mean_of(table, pal, column), mean_of(table, without, column));
        let test = against_pal.iter().find(|test| test.system == without && test.column == column);
        if let ((Some(pal), Some(without)), Some(test)) = (values, test) {
            let word = if test.counts() { "counts" } else { "does not count" };
            let Compared { p_holm, p_seeds, agreeing, seeds, .. } = test;
            let p_seeds = p_seeds.map_or(String::new(), |p| format!(", over seeds {p:.2}"));
            decisive.push(format!(
                "{column} {pal:.3} against {without:.3} (p over examples {p_holm:.3}{p_seeds}, the same sign in {agreeing} \
                 of {seeds} seeds: {word})"
            ));
        }
    }
    if !decisive.is_empty() {
        summary.push(format!(
            "The decisive comparison, PAL against the same stage-1 model trained further on the same gold replies \
             without pairs: {}.",
            decisive.join("; ")
        ));
    }
    let measured = outcomes.iter().filter(|outcome| outcome.holds.is_some()).count();
    if measured > 0 {
        let held = outcomes.iter().filter(|outcome| outcome.holds == Some(true)).count();
        summary.push(format!(
            "Of {measured} predictions that could be looked at, {held} came out as predicted."
        ));
    }
    summary.push(
        "C.score rewards a reply that restates its persona: read it beside gold's and the copy rate."
            .to_owned(),
    );
    summary
}

/// Bars of the systems and of the strategies.
fn bars(table: &Table) -> Vec<Bars> {
    let strategies =
        [System::Pal, System::PalRandom, System::PalNotSelect, System::PalOracle].map(System::name);
    let mut pictures = Vec::new();
    for column in ["C.score max", "BLEU-1", "ROUGE-L"] {
        let Some(at) = table.columns.iter().position(|found| found.name == column) else { continue };
        let decimals = table.columns.get(at).map_or(2, |column| column.decimals);
        let bar = |row: &crate::report::Row| match row.cells.get(at)? {
            Cell::Value(value) => Some(Bar { name: row.system.clone(), value: *value, deviation: None }),
            Cell::Spread { mean, deviation } => {
                Some(Bar { name: row.system.clone(), value: *mean, deviation: Some(*deviation) })
            }
            Cell::Missing(_) => None,
        };
        // Gold against itself has all of BLEU and ROUGE, which would only shorten the others.
        let shown = |name: &str| name != "gold" || column.starts_with("C.score");
        let all: Vec<Bar> = table.rows.iter().filter(|row| shown(&row.system)).filter_map(bar).collect();
        let of: Vec<Bar> =
            all.iter().filter(|bar| strategies.contains(&bar.name.as_str())).cloned().collect();
        pictures.push(Bars { title: column.to_owned(), decimals, bars: all });
        if of.len() > 1 {
            pictures.push(Bars { title: format!("{column} by strategy of selection"), decimals, bars: of });
        }
    }
    pictures
}

/// The curve of alignment, and the logs of PAL's trainings.
fn curves(lab: &Lab<'_>, main: &Table, curve: &[(u64, Table)]) -> Result<Vec<Curve>> {
    let line = |column: &str| Line {
        name: column.to_owned(),
        points: curve
            .iter()
            .filter_map(|(step, table)| Some((*step as f64, mean_of(table, System::Pal.name(), column)?)))
            .collect(),
    };
    let mut pictures = Vec::new();
    for (title, y, columns, with_gold) in [
        ("Steps of alignment: C.score", "mean judgement", &["C.score max", "C.score sum"][..], true),
        ("Steps of alignment: overlap with gold", "percent", &["BLEU-1", "BLEU-2", "ROUGE-L"], false),
        ("Steps of alignment: copies and selections", "percent", &["Copy rate", "Selection"], false),
        ("Steps of alignment: perplexity of gold", "perplexity a token", &["Perplexity"], false),
    ] {
        let levels = columns.iter().filter(|_| with_gold);
        let levels = levels
            .filter_map(|column| Some((format!("gold, {column}"), mean_of(main, "gold", column)?)))
            .collect();
        let lines: Vec<Line> = columns.iter().map(|column| line(column)).collect();
        if lines.iter().any(|line| !line.points.is_empty()) {
            let (title, x, y) = (title.to_owned(), "step".to_owned(), y.to_owned());
            pictures.push(Curve { title, x, y, lines, levels });
        }
    }
    for (cells, title, y, key, levels) in [
        (
            &lab.plan.stage1,
            "Stage 1: validation loss, selection",
            "nats a token",
            "eval_loss/selection",
            vec![],
        ),
        (
            &lab.plan.stage1,
            "Stage 1: validation loss, generation",
            "nats a token",
            "eval_loss/generation",
            vec![],
        ),
        (
            &lab.plan.alignments,
            "PAL's alignment: held-out pairs whose chosen reply gains more",
            "share of pairs",
            "eval_rewards/accuracies",
            vec![("chance".to_owned(), 0.5)],
        ),
        (
            &lab.plan.alignments,
            "PAL's alignment: reward margin, held-out pairs",
            "nats times beta",
            "eval_rewards/margins",
            vec![("none".to_owned(), 0.0)],
        ),
    ] {
        let mut lines = Vec::new();
        for &at in cells {
            let Some(cell) = lab.plan.cells.get(at) else { continue };
            let log = Log::read(&lab.store.cell(cell.kind, &cell.key).join("log.jsonl"))?;
            lines.push(Line { name: seed_of(&cell.what).to_owned(), points: log.points(key) });
        }
        if lines.iter().any(|line| !line.points.is_empty()) {
            let (title, x, y) = (title.to_owned(), "step".to_owned(), y.to_owned());
            pictures.push(Curve { title, x, y, lines, levels });
        }
    }
    Ok(pictures)
}

/// `seed 1` of `seed 1: stage 1`.
fn seed_of(what: &str) -> &str {
    what.split_once(':').map_or(what, |(seed, _)| seed)
}

/// Where the cells were made. Products are summed in another order by another device or number of threads.
fn made_on(lab: &Lab<'_>) -> Result<(String, String)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for cell in &lab.plan.cells {
        if let Some(finished) = lab.store.finished(cell.kind, &cell.key)? {
            *counts.entry(finished.device.unwrap_or_else(|| "not noted".to_owned())).or_default() += 1;
        }
    }
    let words: Vec<String> =
        counts.into_iter().map(|(device, count)| format!("{device}: {count} cells")).collect();
    Ok(("made on".to_owned(), words.join("; ")))
}

/// Every training with its facts and its last measurements; of pairs, how they came out.
fn trainings(lab: &Lab<'_>) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for cell in &lab.plan.cells {
        // What is made before the plan is a fact of the data.
        if matches!(cell.work, Work::Labels | Work::Tokenizer) {
            continue;
        }
        let Some(finished) = lab.store.finished(cell.kind, &cell.key)? else { continue };
        let mut words: Vec<String> =
            finished.facts.iter().map(|(name, fact)| format!("{name}: {fact}")).collect();
        if cell.steps().is_some() {
            words.extend(last_values(&lab.store.cell(cell.kind, &cell.key).join("log.jsonl"))?);
        }
        if !words.is_empty() {
            all.push((cell.what.clone(), words.join("; ")));
        }
    }
    Ok(all)
}

/// The last loss of a training and its last values on what is held out.
fn last_values(path: &Path) -> Result<Vec<String>> {
    let log = Log::read(path)?;
    let names: BTreeMap<&str, &str> = [
        ("loss", "last loss"),
        ("eval_loss", "held out"),
        ("eval_loss/selection", "held out, selection"),
        ("eval_loss/generation", "held out, generation"),
        ("eval_rewards/accuracies", "held-out reward accuracy"),
        ("eval_rewards/margins", "held-out reward margin"),
    ]
    .into();
    let value = |(key, name): (&&str, &&str)| Some(format!("{name} {:.4}", log.last(key)?));
    Ok(names.iter().filter_map(value).collect())
}
