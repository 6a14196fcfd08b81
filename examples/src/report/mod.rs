//! What a run shows in the end: one HTML file, and the same numbers as JSON.

use anyhow::{Result, bail};
use serde::{Deserialize, Deserializer, Serialize};

mod curves;
pub(crate) mod files;
pub(crate) mod html;
pub(crate) mod terminal;
pub(crate) mod text;

/// Everything that a report holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// What was run, in a few sentences of plain text, one paragraph each.
    pub summary: Vec<String>,
    /// Named facts in order: data, model, seconds, memory.
    pub facts: Vec<(String, String)>,
    /// Curves of training.
    pub curves: Vec<Curve>,
    /// The systems side by side.
    pub table: Table,
    /// Whether it learned: what was measured against what.
    pub checks: Vec<Check>,
    /// Conversations with every system's reply.
    pub conversations: Vec<Conversation>,
    /// The recipe as it was read.
    pub recipe: String,
}

/// One picture of lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The heading.
    pub title: String,
    /// What x is, with its unit.
    pub x: String,
    /// What y is, with its unit.
    pub y: String,
    /// The lines.
    pub lines: Vec<Line>,
    /// Levels to compare with, each a name and a height.
    #[serde(deserialize_with = "levels")]
    pub levels: Vec<(String, f64)>,
}

/// One line of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points, x ascending.
    #[serde(deserialize_with = "points")]
    pub points: Vec<(f64, f64)>,
}

/// Systems in rows, metrics in columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The metrics.
    pub columns: Vec<Column>,
    /// The systems.
    pub rows: Vec<Row>,
}

/// A metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its signature: variant, tokenisation, version.
    pub signature: String,
    /// Decimals shown.
    pub decimals: usize,
}

/// A system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub system: String,
    /// A value for every column, or why there is none.
    pub cells: Vec<Cell>,
}

/// A value of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A number.
    Value(#[serde(deserialize_with = "number")] f64),
    /// A number that was measured several times.
    Spread {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        deviation: f64,
    },
    /// Why there is none, such as `no judge`.
    Missing(String),
}

/// A claim about learning: what was measured beside what it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is looked at.
    pub name: String,
    /// The measured value.
    #[serde(deserialize_with = "number")]
    pub measured: f64,
    /// What it is compared with, by name.
    pub against: String,
    /// The value compared with.
    #[serde(deserialize_with = "number")]
    pub baseline: f64,
    /// Whether the measured value is on the good side.
    pub holds: bool,
    /// How to read it.
    pub note: String,
}

/// One context with the systems' replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The agent's descriptions.
    pub persona: Vec<String>,
    /// The turns before, oldest first: a speaker's name and what was said.
    pub history: Vec<(String, String)>,
    /// Every system's reply, the gold one among them.
    pub replies: Vec<Reply>,
}

/// One system's reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The system.
    pub system: String,
    /// The description that was highlighted, where the system selects one.
    pub selected: Option<String>,
    /// The reply.
    pub text: String,
}

impl Cell {
    /// The number, or the mean.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Value(value) | Self::Spread { mean: value, .. } => Some(*value),
            Self::Missing(_) => None,
        }
    }
}

impl Table {
    /// An error where a system has more or fewer cells than there are metrics.
    pub(crate) fn check(&self) -> Result<()> {
        for row in &self.rows {
            if row.cells.len() != self.columns.len() {
                bail!(
                    "the report's table has {} columns, but its row {:?} has {} cells: give every row one cell per \
                     column, Cell::Missing where there is no value",
                    self.columns.len(),
                    row.system,
                    row.cells.len()
                );
            }
        }
        Ok(())
    }
}

// JSON has no NaN and no infinity: serde_json writes them as null, which is read back as NaN.

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

fn points<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(f64, f64)>, D::Error> {
    let read = Vec::<(Option<f64>, Option<f64>)>::deserialize(from)?;
    Ok(read.into_iter().map(|(x, y)| (x.unwrap_or(f64::NAN), y.unwrap_or(f64::NAN))).collect())
}

fn levels<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, f64)>, D::Error> {
    let read = Vec::<(String, Option<f64>)>::deserialize(from)?;
    Ok(read.into_iter().map(|(name, y)| (name, y.unwrap_or(f64::NAN))).collect())
}

#[cfg(test)]
mod tests;
