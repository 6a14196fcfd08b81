//! From replies to tables: every column for every seed, then mean and deviation.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use persona_data::Example;
use persona_metrics::stats::Summary;
use persona_metrics::{Judgement, ModelError, PersonaJudge};

use super::make::{Judgements, Lab, judge_all};
use super::plan::{Condition, Measured};
use crate::report::{Cell, Column, Row, Table};
use crate::systems::{self, SystemReplies};

/// A system's replies of every seed, as they are measured: contractions apart.
#[derive(Debug, Clone)]
pub(super) struct Replied {
    /// How it is called.
    pub name: String,
    /// A seed after the other.
    pub seeds: Vec<SystemReplies>,
}

/// Judgements that are at hand, as a judge.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    name: String,
    known: HashMap<(String, String), Judgement>,
}

impl Remembered {
    /// The judgements of the gold replies.
    ///
    /// # Errors
    /// The judge's.
    pub(super) fn of_gold(lab: &Lab<'_>, condition: Condition) -> Result<Self> {
        let examples = lab.test(condition)?;
        let mut judge = Self::default();
        judge.add(examples, judge_all(lab.judge, examples, systems::gold(examples))?);
        Ok(judge)
    }

    /// Takes the judgements of replies to examples.
    pub(super) fn add(&mut self, examples: &[Example], judgements: Judgements) {
        self.name = judgements.judge;
        for (example, (text, values)) in examples.iter().zip(judgements.replies) {
            for (description, value) in example.persona.iter().zip(values) {
                self.known.insert((description.clone(), text.clone()), value);
            }
        }
    }
}

impl PersonaJudge for Remembered {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, ModelError> {
        let known = |&(description, reply): &(&str, &str)| {
            let found = self.known.get(&(description.to_owned(), reply.to_owned())).copied();
            found.ok_or_else(|| format!("no judgement of {reply:?} by {description:?} was kept").into())
        };
        pairs.iter().map(known).collect()
    }
}

/// Reads what was measured of some rows, each with a name, and has the judge remember their judgements.
///
/// # Errors
/// When a cell cannot be read.
pub(super) fn read(
    lab: &Lab<'_>,
    condition: Condition,
    rows: &[(String, &[Measured])],
    judge: &mut Remembered,
) -> Result<Vec<Replied>> {
    let examples = lab.test(condition)?;
    let mut replied = Vec::new();
    for (name, cells) in rows {
        let mut seeds = Vec::new();
        for cell in *cells {
            let judgements = lab.judgements_of(cell.judgements)?;
            let mut replies = lab.replies_of(cell.replies)?;
            let ids = replies.replies.iter().map(|reply| &reply.id);
            ensure!(
                ids.eq(examples.iter().map(|example| &example.id))
                    && judgements.replies.len() == examples.len(),
                "{name}: replies or judgements of other examples than the data have now; remove their cells to make \
                 them again"
            );
            replies.system.clone_from(name);
            for (reply, (text, _)) in replies.replies.iter_mut().zip(&judgements.replies) {
                reply.text.clone_from(text);
            }
            judge.add(examples, judgements);
            seeds.push(replies);
        }
        replied.push(Replied { name: name.clone(), seeds });
    }
    Ok(replied)
}

/// The table of systems, each cell a mean over the seeds with its deviation; then gold.
///
/// # Errors
/// The metrics'.
pub(super) fn table(systems: &[Replied], examples: &[Example], judge: &dyn PersonaJudge) -> Result<Table> {
    let seeds = systems.iter().map(|system| system.seeds.len()).max().unwrap_or_default();
    let mut tables = Vec::new();
    for seed in 0..seeds {
        let of_seed: Vec<SystemReplies> =
            systems.iter().filter_map(|system| system.seeds.get(seed)).cloned().collect();
        tables.push(systems::table(&of_seed, examples, Some(judge))?);
    }
    over_seeds(&tables)
}

/// Means and deviations of tables of the same rows and columns.
///
/// # Errors
/// Where there is no table, and where a value is not finite.
pub(super) fn over_seeds(tables: &[Table]) -> Result<Table> {
    let first = tables.first().context("there is no seed to measure")?;
    let mut rows = Vec::new();
    for (at, row) in first.rows.iter().enumerate() {
        let mut cells = Vec::new();
        for (column, cell) in row.cells.iter().enumerate() {
            let values: Vec<f64> = tables.iter().filter_map(|table| value(table, at, column)).collect();
            cells.push(if values.is_empty() { cell.clone() } else { spread(&values)? });
        }
        rows.push(Row { system: row.system.clone(), cells });
    }
    Ok(Table { columns: first.columns.clone(), rows })
}

fn spread(values: &[f64]) -> Result<Cell> {
    let summary = Summary::of(values)?;
    Ok(match summary.standard_deviation {
        Some(deviation) => Cell::Spread { mean: summary.mean, deviation },
        None => Cell::Value(summary.mean),
    })
}

fn value(table: &Table, row: usize, column: usize) -> Option<f64> {
    table.rows.get(row)?.cells.get(column)?.number()
}

/// The mean of a system in a column, by name.
#[must_use]
pub(super) fn mean_of(table: &Table, system: &str, column: &str) -> Option<f64> {
    let at = table.columns.iter().position(|Column { name, .. }| name == column)?;
    table.rows.iter().find(|row| row.system == system)?.cells.get(at)?.number()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(values: &[f64]) -> Table {
        let column = |name: &str| Column { name: name.into(), signature: String::new(), decimals: 1 };
        let cells = vec![Cell::Value(values[0]), Cell::Missing("none".into())];
        Table { columns: vec![column("a"), column("b")], rows: vec![Row { system: "x".into(), cells }] }
    }

    #[test]
    fn cells_are_means_with_their_deviation() {
        let over = over_seeds(&[table(&[1.0]), table(&[2.0]), table(&[6.0])]).unwrap();
        assert_eq!(over.rows[0].cells[0], Cell::Spread { mean: 3.0, deviation: 7.0f64.sqrt() });
        assert_eq!(over.rows[0].cells[1], Cell::Missing("none".into()));
        assert_eq!(mean_of(&over, "x", "a"), Some(3.0));
        assert_eq!((mean_of(&over, "x", "b"), mean_of(&over, "y", "a")), (None, None));
        assert_eq!(over_seeds(&[table(&[1.5])]).unwrap().rows[0].cells[0], Cell::Value(1.5));
        assert!(over_seeds(&[]).is_err());
    }

    #[test]
    fn only_what_was_judged_is_remembered() {
        let example = Example {
            id: "a#1".into(),
            persona: vec!["i ski.".into(), "i sing.".into()],
            history: Vec::new(),
            response: "x".into(),
            relevant: None,
            candidates: Vec::new(),
        };
        let mut judge = Remembered::default();
        let values = vec![Judgement::Entailment, Judgement::Neutral];
        judge.add(&[example], Judgements { judge: "j".into(), replies: vec![("snow".into(), values)] });
        assert_eq!(judge.judge(&[("i sing.", "snow")]).unwrap(), [Judgement::Neutral]);
        assert!(judge.judge(&[("i sing.", "rain")]).unwrap_err().to_string().contains("rain"));
    }
}
