//! An evaluation as a person reads it.

use std::fmt::{self, Write};

use persona_metrics::Unit;
use persona_metrics::suite::{Compared, Measured, Sampling};

use super::{Evaluation, System};

impl fmt::Display for Evaluation {
    /// A table: a line a score, with interval and test where there are any; then the signatures, and what is missing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![self.head()];
        for score in &self.input.scores {
            rows.push(self.row(score));
        }
        let systems = [Some(("", &self.input)), self.compare.as_ref().map(|other| ("other: ", other))];
        for (name, system) in systems.into_iter().flatten() {
            writeln!(
                f,
                "{name}{}, {} records, preset {}",
                system.file.display(),
                system.records,
                self.preset
            )?;
        }
        f.write_char('\n')?;
        align(f, &rows)?;
        f.write_str(&self.legend())?;
        signatures(f, &self.input)?;
        for (name, system) in systems.into_iter().flatten() {
            if let Some(consistency) = &system.consistency {
                writeln!(f, "\n{name}{}\n{consistency}", system.file.display())?;
            }
        }
        for (name, system) in systems.into_iter().flatten() {
            if let Some(counts) = &system.similarities {
                let steps = ["below 0", "0", "0.2", "0.4", "0.6", "0.8"];
                let counts = steps.iter().zip(counts).map(|(step, count)| format!("{step}: {count}"));
                let counts = counts.collect::<Vec<_>>().join(", ");
                writeln!(f, "{name}similarities from {counts}")?;
            }
        }
        for missing in &self.input.missing {
            writeln!(f, "not measured: {}: {}", missing.metric, missing.why)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

impl Evaluation {
    fn intervals(&self) -> bool {
        self.input.scores.iter().any(|score| score.interval.is_some())
    }

    fn head(&self) -> Vec<String> {
        let mut head = vec!["metric".to_owned(), "score".to_owned()];
        if self.intervals() {
            head.push("interval".to_owned());
        }
        if self.compare.is_some() {
            head.extend(["other", "difference", "p", "p (Holm)"].map(str::to_owned));
        }
        head
    }

    fn row(&self, measured: &Measured) -> Vec<String> {
        let score = &measured.score;
        let shown = |value: f64| number(value, score.unit());
        let mut row = vec![score.name().to_owned(), shown(score.value())];
        if self.intervals() {
            let interval = measured.interval.map(|b| format!("{} to {}", shown(b.low), shown(b.high)));
            row.push(interval.unwrap_or_else(|| "-".to_owned()));
        }
        if let Some(compare) = &self.compare {
            let other = compare.scores.iter().find(|other| other.score.name() == score.name());
            row.push(other.map_or_else(|| "-".to_owned(), |other| shown(other.score.value())));
            match self.tests.iter().find(|test| test.name == score.name()) {
                Some(Compared { difference, p_value, p_holm, .. }) => {
                    row.extend([shown(*difference), format!("{p_value:.4}"), format!("{p_holm:.4}")]);
                }
                None => row.extend(["-", "-", "-"].map(str::to_owned)),
            }
        }
        row
    }

    fn legend(&self) -> String {
        let mut legend = String::from("\n");
        let first = self.input.scores.iter().find_map(|score| score.interval);
        if let Some(bounds) = first {
            let percent = 100.0 * bounds.level;
            let Sampling { trials, seed, .. } = self.sampling;
            legend += &format!(
                "intervals: {percent} %, percentile bootstrap of {trials} draws, seed {seed}; of Distinct and Entropy \
                 by the jackknife\n"
            );
        }
        if !self.tests.is_empty() {
            let Sampling { trials, seed, .. } = self.sampling;
            legend += &format!(
                "p: paired approximate randomisation, two-sided, {trials} trials, seed {seed}; Holm's correction is \
                 over this table\n"
            );
        }
        legend
    }
}

/// Shares are written times 100; small numbers keep two digits that are not 0.
fn number(value: f64, unit: Unit) -> String {
    let value = if unit == Unit::Share { 100.0 * value } else { value };
    if value != 0.0 && value.abs() < 0.1 { format!("{value:.2e}") } else { format!("{value:.2}") }
}

/// The first column to the left, the others to the right.
fn align(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let cell_width =
        |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let width = |column| rows.iter().map(|row| cell_width(row, column)).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                write!(line, "{cell:<width$}")?;
            } else {
                write!(line, "  {cell:>width$}")?;
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Each signature once, with the scores that have it.
fn signatures(f: &mut fmt::Formatter<'_>, system: &System) -> fmt::Result {
    let mut scores = system.scores.as_slice();
    while let Some((first, _)) = scores.split_first() {
        let signature = first.score.signature();
        let same = scores.iter().take_while(|score| score.score.signature() == signature).count();
        let (group, rest) = scores.split_at(same);
        let names: Vec<&str> = group.iter().map(|score| score.score.name()).collect();
        writeln!(f, "{}: {signature}", names.join(", "))?;
        scores = rest;
    }
    Ok(())
}
