//! What was predicted before the first run and what the paper reports, beside what came out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use persona_metrics::stats::kendall;
use serde::{Deserialize, Serialize};

use super::compare::{Better, COLUMNS, Compared, better};
use super::measure::mean_of;
use super::recipe::System;
use crate::report::Table;

/// A file of predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictions {
    /// When and on what grounds they were written.
    pub written: String,
    /// What the paper reports.
    pub paper: Paper,
    /// Rows against PAL.
    pub rows: Vec<Predicted>,
    /// The curve of alignment.
    #[serde(default)]
    pub curve: Vec<PredictedCurve>,
}

/// What the paper reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Which tables.
    pub source: String,
    /// How much it trains and measures on, to read what was cut against.
    pub sizes: String,
    /// Our name of each of its columns.
    pub columns: Vec<String>,
    /// The values of its rows.
    pub rows: BTreeMap<System, Vec<f64>>,
    /// Orders that it shows without numbers, best first.
    #[serde(default)]
    pub orders: Vec<PaperOrder>,
}

/// An order that the paper shows in a figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperOrder {
    /// Which figure.
    pub source: String,
    /// Our names of the columns that it holds for.
    pub columns: Vec<String>,
    /// The first is above each of the others.
    pub best_first: Vec<System>,
}

/// Where a value lies beside PAL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Below, by a difference that [counts](Compared::counts).
    Lower,
    /// Not told apart.
    Same,
    /// Above, by a difference that [counts](Compared::counts).
    Higher,
}

impl Direction {
    /// In a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Same => "not told apart",
            Self::Higher => "higher",
        }
    }
}

/// A prediction of a row beside PAL's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicted {
    /// The row; `gold` is the gold replies'.
    pub row: PredictedRow,
    /// The column.
    pub column: String,
    /// Where the row's value lies.
    pub expect: Direction,
    /// Why.
    pub why: String,
}

/// A row that something is predicted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PredictedRow {
    /// A system.
    System(System),
    /// The gold replies.
    Gold(Gold),
}

/// The gold replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gold {
    /// The gold replies.
    Gold,
}

impl PredictedRow {
    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System(system) => system.name(),
            Self::Gold(_) => "gold",
        }
    }
}

/// How a value moves along the alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Highest at the end.
    Rises,
    /// Highest before the first step.
    Falls,
    /// Highest on the way.
    RisesThenFalls,
}

impl Shape {
    /// In a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rises => "highest at the end",
            Self::Falls => "highest before alignment",
            Self::RisesThenFalls => "highest on the way",
        }
    }

    /// Where the highest of some values stands. Of equal ones the first counts; nothing where all are equal.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.windows(2).all(|two| matches!(two, [a, b] if a == b)) {
            return None;
        }
        let mut best = None;
        for (at, &value) in values.iter().enumerate() {
            if best.is_none_or(|(_, highest)| value > highest) {
                best = Some((at, value));
            }
        }
        let (at, _) = best?;
        Some(match at {
            0 => Self::Falls,
            at if at + 1 == values.len() => Self::Rises,
            _ => Self::RisesThenFalls,
        })
    }
}

/// A prediction of the curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictedCurve {
    /// The column.
    pub column: String,
    /// Where it is highest.
    pub expect: Shape,
    /// Why.
    pub why: String,
}

/// A prediction beside what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it is about.
    pub about: String,
    /// The column.
    pub column: String,
    /// What was predicted.
    pub predicted: String,
    /// What came out; absent where it was not measured.
    pub outcome: Option<String>,
    /// Numbers behind it.
    pub numbers: String,
    /// What the paper has, where it has a number.
    pub paper: Option<String>,
    /// Whether it came out as predicted; absent where it was not measured.
    pub holds: Option<bool>,
    /// Why it was predicted.
    pub why: String,
}

/// The paper's order of the systems beside ours, in one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The column.
    pub column: String,
    /// The table or figure.
    pub source: String,
    /// The paper's, best first; those between which it shows no order are one text.
    pub paper: Vec<String>,
    /// Ours, best first; those of one value are one text.
    pub ours: Vec<String>,
    /// Kendall's tau-b of the values, where the paper has numbers and they have an order.
    pub tau: Option<f64>,
    /// Pairs of systems that stand the other way round, the paper's better one first.
    pub turned: Vec<(String, String)>,
}

impl Predictions {
    /// Reads a file; the second value is its text.
    ///
    /// # Errors
    /// When it cannot be read, with the line of what is wrong; when a row of the paper has not a value for every column;
    /// when a table has no such column.
    pub fn load(path: &Path) -> Result<(Self, String)> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("`predictions`: reading {}", path.display()))?;
        let read: Self =
            toml::from_str(&text).with_context(|| format!("the predictions {}", path.display()))?;
        for (system, values) in &read.paper.rows {
            ensure!(
                values.len() == read.paper.columns.len(),
                "{}: `paper.rows` has {} values of {}, for {} columns",
                path.display(),
                values.len(),
                system.name(),
                read.paper.columns.len()
            );
        }
        for (at, column) in read.columns() {
            ensure!(
                COLUMNS.contains(&column),
                "{}: {at}: there is no column {column:?}; the columns are {}",
                path.display(),
                COLUMNS.join(", ")
            );
        }
        Ok((read, text))
    }

    /// Every column that is named, with where.
    fn columns(&self) -> impl Iterator<Item = (String, &str)> {
        let paper = self.paper.columns.iter().map(|column| ("`paper.columns`".to_owned(), column));
        let orders = self.paper.orders.iter().flat_map(|order| {
            order.columns.iter().map(|column| (format!("`paper.orders`, {}", order.source), column))
        });
        let rows = self
            .rows
            .iter()
            .enumerate()
            .map(|(at, row)| (format!("number {} of `rows`, {}", at + 1, row.row.name()), &row.column));
        let curve = self.curve.iter().enumerate();
        let curve = curve.map(|(at, row)| (format!("number {} of `curve`", at + 1), &row.column));
        paper.chain(orders).chain(rows).chain(curve).map(|(at, column)| (at, column.as_str()))
    }

    /// What the paper has of a system in our column.
    fn paper_value(&self, system: System, column: &str) -> Option<f64> {
        let at = self.paper.columns.iter().position(|name| name == column)?;
        self.paper.rows.get(&system)?.get(at).copied()
    }

    /// Every prediction beside what came out. `tests` are systems against PAL; `curve` has the table of every step.
    #[must_use]
    pub fn outcomes(&self, table: &Table, tests: &[Compared], curve: &[(u64, Table)]) -> Vec<Outcome> {
        let rows = self.rows.iter().map(|predicted| self.row(predicted, table, tests));
        let curves = self.curve.iter().map(|predicted| {
            let points: Vec<(u64, f64)> = curve
                .iter()
                .filter_map(|(step, table)| {
                    Some((*step, mean_of(table, System::Pal.name(), &predicted.column)?))
                })
                .collect();
            let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
            let shape = Shape::of(&values);
            let came = (values.len() > 2).then(|| shape.map_or("the same throughout", Shape::name));
            let numbers: Vec<String> =
                points.iter().map(|(step, value)| format!("{step}: {value:.3}")).collect();
            Outcome {
                about: "PAL along its alignment".to_owned(),
                column: predicted.column.clone(),
                predicted: predicted.expect.name().to_owned(),
                outcome: came.map(str::to_owned),
                numbers: numbers.join(", "),
                paper: None,
                holds: came.map(|_| shape == Some(predicted.expect)),
                why: predicted.why.clone(),
            }
        });
        rows.chain(curves).collect()
    }

    fn row(&self, predicted: &Predicted, table: &Table, tests: &[Compared]) -> Outcome {
        let Predicted { row, column, expect, why } = predicted;
        let pal = mean_of(table, System::Pal.name(), column);
        let value = mean_of(table, row.name(), column);
        let test = tests.iter().find(|test| test.system == row.name() && test.column == *column);
        // Gold is no system: there is nothing to test, and any difference counts.
        let counts = match row {
            PredictedRow::Gold(_) => Some(true),
            PredictedRow::System(_) => test.map(Compared::counts),
        };
        let came = match (value, pal, counts) {
            (Some(value), Some(pal), Some(counts)) => Some(direction(value - pal, counts)),
            _ => None,
        };
        let mut numbers = match (value, pal) {
            (Some(value), Some(pal)) => format!("{value:.3} against {pal:.3}"),
            _ => "not measured".to_owned(),
        };
        if let Some(test) = test {
            let Compared { p_holm, agreeing, seeds, .. } = test;
            numbers += &format!(", p {p_holm:.3} (Holm), the sign of {agreeing} of {seeds} seeds");
        } else if came.is_some() {
            numbers += ", not tested";
            if *expect == Direction::Same {
                numbers += ": any difference counts, and this cannot come true unless they are equal";
            }
        }
        let paper = match row {
            PredictedRow::System(system) => {
                let values = (self.paper_value(*system, column), self.paper_value(System::Pal, column));
                match values {
                    (Some(value), Some(pal)) => Some(format!("{value} against {pal}")),
                    _ => None,
                }
            }
            PredictedRow::Gold(_) => None,
        };
        Outcome {
            about: format!("{} beside PAL", row.name()),
            column: column.clone(),
            predicted: expect.name().to_owned(),
            outcome: came.map(|came| came.name().to_owned()),
            numbers,
            paper,
            holds: came.map(|came| came == *expect),
            why: why.clone(),
        }
    }

    /// The paper's orders beside ours, of the systems that both have.
    #[must_use]
    pub fn orders(&self, table: &Table) -> Vec<Order> {
        let mut orders = Vec::new();
        for column in &self.paper.columns {
            let values = self.paper.rows.keys().filter_map(|&system| {
                let ours = mean_of(table, system.name(), column)?;
                Some((system.name(), self.paper_value(system, column)?, ours))
            });
            let values: Vec<(&str, f64, f64)> = values.collect();
            let (paper, ours): (Vec<f64>, Vec<f64>) = values.iter().map(|(_, p, o)| (*p, *o)).unzip();
            let tau = kendall(&paper, &ours).ok().map(|tau| tau.coefficient);
            orders.extend(order(column, &self.paper.source, &values, tau));
        }
        for shown in &self.paper.orders {
            for column in &shown.columns {
                let ranks = shown.best_first.iter().enumerate().filter_map(|(at, system)| {
                    // Of what follows the first, the figure's order is not read off.
                    let rank = if at == 0 { 1.0 } else { 0.0 };
                    Some((system.name(), rank, mean_of(table, system.name(), column)?))
                });
                orders.extend(order(column, &shown.source, &ranks.collect::<Vec<_>>(), None));
            }
        }
        orders
    }
}

fn direction(difference: f64, counts: bool) -> Direction {
    if !counts || difference == 0.0 {
        Direction::Same
    } else if difference < 0.0 {
        Direction::Lower
    } else {
        Direction::Higher
    }
}

/// `values` are a system's name, the paper's value and ours; nothing where the paper tells none of them apart.
fn order(column: &str, source: &str, values: &[(&str, f64, f64)], tau: Option<f64>) -> Option<Order> {
    // The better of two values is the greater one.
    let sign = if better(column) == Some(Better::Lower) { -1.0 } else { 1.0 };
    let paper: Vec<(&str, f64)> = values.iter().map(|(name, paper, _)| (*name, sign * paper)).collect();
    let ours: Vec<(&str, f64)> = values.iter().map(|(name, _, ours)| (*name, sign * ours)).collect();
    let ranks = best_first(&paper);
    if ranks.len() < 2 {
        return None;
    }
    let both: Vec<_> = paper.iter().zip(&ours).collect();
    let mut turned = Vec::new();
    for ((one, paper), (_, ours)) in &both {
        for ((two, other_paper), (_, other_ours)) in &both {
            if paper > other_paper && ours < other_ours {
                turned.push(((*one).to_owned(), (*two).to_owned()));
            }
        }
    }
    let (column, source) = (column.to_owned(), source.to_owned());
    Some(Order { column, source, paper: ranks, ours: best_first(&ours), tau, turned })
}

/// The names from the greatest value to the least; those of equal values together.
fn best_first(values: &[(&str, f64)]) -> Vec<String> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let names = |equal: &[(&str, f64)]| equal.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" and ");
    sorted.chunk_by(|(_, a), (_, b)| a == b).map(names).collect()
}

#[cfg(test)]
mod tests;
