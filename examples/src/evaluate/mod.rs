//! The metrics of a file of replies: what the `evaluate` program does.

mod input;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use persona_metrics::ConsistencyReport;
use persona_metrics::suite::{Bounds, Compared, Measured, Missing, Outcome, Preset, Record, Sampling, Suite};
use serde::Serialize;

use self::input::Records;
use crate::judge::Judge;

/// What is to be measured, and how.
#[derive(Debug)]
pub struct Options<'j> {
    /// Which metrics.
    pub preset: Preset,
    /// How corpora are drawn again for intervals and tests.
    pub sampling: Sampling,
    /// Up to how many records are held in memory for intervals. A longer file is streamed, without them.
    pub intervals_up_to: usize,
    /// Who judges C.score; absent for none.
    pub judge: Option<&'j Judge>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            preset: Preset::Standard,
            sampling: Sampling::default(),
            intervals_up_to: 100_000,
            judge: None,
        }
    }
}

/// The scores of a file, and of a second one beside it.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// The preset.
    pub preset: Preset,
    /// The file.
    pub input: System,
    /// The other system's file.
    pub compare: Option<System>,
    /// The tests of the first system against the other.
    pub tests: Vec<Compared>,
    /// How corpora were drawn again.
    pub sampling: Sampling,
    /// What stood in the files and was not measured.
    pub notes: Vec<String>,
}

/// The scores of one file.
#[derive(Debug, Clone, Serialize)]
pub struct System {
    /// The file, `-` for standard input.
    pub file: PathBuf,
    /// Number of records.
    pub records: usize,
    /// The scores.
    pub scores: Vec<Measured>,
    /// Metrics of the preset without a value for this file.
    pub missing: Vec<Missing>,
    /// C.score with the gold replies' (the first references) and the copy rates beside it, where there is a judge.
    pub consistency: Option<ConsistencyReport>,
}

/// Measures a file, and tests it against another one on the same examples.
///
/// # Errors
/// A file that cannot be read, a line that is no record (both named), records without a part that the first record has,
/// an empty file, two files that do not hold the same examples. Nothing is reported then.
pub fn evaluate(input: &Path, compare: Option<&Path>, options: &Options<'_>) -> Result<Evaluation> {
    let one = read(input, options, compare.is_some())?;
    let other = compare.map(|path| read(path, options, true)).transpose()?;
    let mut notes: BTreeSet<String> = BTreeSet::new();
    let mut system = |path: &Path, read: &Read| -> Result<System> {
        notes.extend(read.notes.iter().map(|note| format!("{}: {note}", path.display())));
        let outcome = match &read.kept {
            Some(records) => read.suite.measured(records, &options.sampling)?,
            None => without_intervals(&read.suite)?,
        };
        let consistency = options.judge.map(|judge| consistency(judge, path, read)).transpose()?;
        Ok(System {
            consistency,
            file: path.to_owned(),
            records: read.count,
            scores: outcome.scores,
            missing: match options.judge {
                Some(_) => {
                    outcome.missing.into_iter().filter(|missing| missing.metric != "C.score").collect()
                }
                None => outcome.missing,
            },
        })
    };
    let first = system(input, &one)?;
    let mut tests = Vec::new();
    let mut second = None;
    if let (Some(path), Some(other)) = (compare, &other) {
        second = Some(system(path, other)?);
        if let (Some(ones), Some(others)) = (&one.kept, &other.kept) {
            let compared = one.suite.compare(ones, others, &options.sampling);
            tests = compared.with_context(|| format!("{} and {}", input.display(), path.display()))?.scores;
        }
    }
    Ok(Evaluation {
        preset: options.preset,
        input: first,
        compare: second,
        tests,
        sampling: options.sampling,
        notes: notes.into_iter().collect(),
    })
}

/// C.score of the replies and of the gold ones, which are the first references.
fn consistency(judge: &Judge, path: &Path, read: &Read) -> Result<ConsistencyReport> {
    let file = path.display();
    let Some(records) = &read.kept else {
        bail!("{file}: C.score holds the replies in memory; allow so many with --intervals-up-to");
    };
    let mut texts = (Vec::new(), Vec::new(), Vec::new());
    for (at, record) in records.iter().enumerate() {
        let number = at + 1;
        let persona = record.personas.as_deref().filter(|persona| !persona.is_empty());
        let persona = persona
            .with_context(|| format!("{file}: record {number} has no `personas`, and C.score needs them"))?;
        let gold = record.references.first();
        let gold = gold.with_context(|| format!("{file}: record {number} has no reference"))?;
        texts.0.push(record.prediction.as_str());
        texts.1.push(gold.as_str());
        texts.2.push(persona);
    }
    let (replies, gold, personas) = texts;
    ConsistencyReport::of(judge, &replies, &gold, &personas).with_context(|| format!("{file}: C.score"))
}

fn without_intervals(suite: &Suite) -> Result<Outcome<Measured>> {
    let Outcome { scores, missing } = suite.scores()?;
    let scores = scores.into_iter().map(|score| Measured { score, interval: None::<Bounds> }).collect();
    Ok(Outcome { scores, missing })
}

/// A file that has been read to its end.
struct Read {
    suite: Suite,
    kept: Option<Vec<Record>>,
    count: usize,
    notes: Vec<String>,
}

fn read(path: &Path, options: &Options<'_>, for_test: bool) -> Result<Read> {
    let mut records = Records::open(path)?;
    let mut suite: Option<Suite> = None;
    let mut kept = Some(Vec::new());
    let mut notes = Vec::new();
    while let Some(batch) = records.next_batch()? {
        let suite = match (&mut suite, batch.records.first()) {
            (Some(suite), _) => suite,
            (suite, Some(record)) => suite.insert(options.preset.suite(record.fields())),
            (None, None) => continue,
        };
        suite.extend(&batch.records).map_err(|error| batch.place(error))?;
        if let Some(list) = &mut kept {
            list.extend(batch.records);
            if list.len() > options.intervals_up_to {
                if for_test {
                    bail!(
                        "{}: more than {} records; a test holds both files in memory: allow it with \
                         --intervals-up-to",
                        path.display(),
                        options.intervals_up_to
                    );
                }
                kept = None;
                notes.push(format!(
                    "no intervals: more than {} records; --intervals-up-to holds more in memory",
                    options.intervals_up_to
                ));
            }
        }
    }
    let Some(suite) = suite else { bail!("{}: no record in it", path.display()) };
    let (count, ignored) = records.finish();
    if !ignored.is_empty() {
        let keys: Vec<String> = ignored.into_iter().map(|key| format!("`{key}`")).collect();
        notes.push(format!("keys that are no part of a record were not read: {}", keys.join(", ")));
    }
    Ok(Read { suite, kept, count, notes })
}
