//! The metrics of a file of replies: what the `evaluate` program does.

mod encoded;
mod input;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use persona_metrics::ConsistencyReport;
use persona_metrics::model::TextEncoder;
use persona_metrics::suite::{
    Bounds, Compared, Language, Measured, Missing, Outcome, Preset, Record, Sampling, Suite,
};
use serde::Serialize;

use self::encoded::Encoded;
pub use self::encoded::load_encoder;
use self::input::Records;
use crate::judge::Judge;

/// What is to be measured, and how.
#[derive(Debug)]
pub struct Options<'j> {
    /// Which metrics.
    pub preset: Preset,
    /// What the texts are written in.
    pub language: Language,
    /// How corpora are drawn again for intervals and tests.
    pub sampling: Sampling,
    /// Up to how many records are held in memory for intervals. A longer file is streamed, without them.
    pub intervals_up_to: usize,
    /// Who judges C.score; absent for none.
    pub judge: Option<&'j Judge>,
    /// Whose vectors BERTScore and similarity compare; absent for neither.
    pub encoder: Option<&'j TextEncoder>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            preset: Preset::Standard,
            language: Language::English,
            sampling: Sampling::default(),
            intervals_up_to: 100_000,
            judge: None,
            encoder: None,
        }
    }
}

/// The scores of a file, and of a second one beside it.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// The preset.
    pub preset: Preset,
    /// What the texts are written in.
    pub language: Language,
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
    /// How many similarities lie below 0, then in steps of 0.2 up to 1, where there is an encoder.
    pub similarities: Option<[u64; 6]>,
}

/// Measures a file, and tests it against another one on the same examples.
///
/// # Errors
/// A file that cannot be read, a line that is no record (both named), records without a part that the first record has,
/// an empty file, two files that do not hold the same examples. Nothing is reported then.
pub fn evaluate(input: &Path, compare: Option<&Path>, options: &Options<'_>) -> Result<Evaluation> {
    let one = read(input, options, compare.is_some())?;
    let other = compare.map(|path| read(path, options, true)).transpose()?;
    let encode = |path: &Path, read: &Read| {
        options.encoder.map(|encoder| Encoded::of(encoder, path, read)).transpose()
    };
    let encoded = encode(input, &one)?;
    let mut notes: BTreeSet<String> = BTreeSet::new();
    let mut system = |path: &Path, read: &Read, encoded: Option<&Encoded>| -> Result<System> {
        notes.extend(read.notes.iter().map(|note| format!("{}: {note}", path.display())));
        let Outcome { mut scores, mut missing } = match &read.kept {
            Some(records) => read.suite.measured(records, &options.sampling)?,
            None => without_intervals(&read.suite)?,
        };
        if let Some(encoded) = encoded {
            scores.extend(encoded.measured(&options.sampling)?);
        }
        if options.judge.is_some() {
            missing.retain(|missing| missing.metric != "C.score");
        }
        Ok(System {
            file: path.to_owned(),
            records: read.count,
            scores,
            missing,
            consistency: options.judge.map(|judge| consistency(judge, path, read)).transpose()?,
            similarities: encoded.map(Encoded::histogram),
        })
    };
    let first = system(input, &one, encoded.as_ref())?;
    let mut tests = Vec::new();
    let mut second = None;
    if let (Some(path), Some(other)) = (compare, &other) {
        let others = encode(path, other)?;
        second = Some(system(path, other, others.as_ref())?);
        if let (Some(ones), Some(others)) = (&one.kept, &other.kept) {
            let compared = one.suite.compare(ones, others, &options.sampling);
            let compared = compared.with_context(|| format!("{} and {}", input.display(), path.display()))?;
            tests = compared.scores;
            // C.score is the judge's affair, and what was not measured is said to be so.
            let measured = |metric: &str| first.missing.iter().all(|missing| missing.metric != metric);
            let untested = compared.missing.into_iter();
            let untested = untested.filter(|test| test.metric != "C.score" && measured(&test.metric));
            notes.extend(untested.map(|Missing { metric, why }| format!("not tested: {metric}: {why}")));
        }
        if let (Some(one), Some(other)) = (&encoded, &others) {
            tests.extend(one.compared(other, &options.sampling)?);
            Compared::correct(&mut tests)?;
        }
    }
    Ok(Evaluation {
        preset: options.preset,
        language: options.language,
        input: first,
        compare: second,
        tests,
        sampling: options.sampling,
        notes: notes.into_iter().collect(),
    })
}

/// C.score of the replies and of the gold ones, which are the first references.
fn consistency(judge: &Judge, path: &Path, read: &Read) -> Result<ConsistencyReport> {
    let records = read.in_memory(path, "C.score")?;
    let gold = first_references(path, records)?;
    let mut personas = Vec::new();
    for (at, record) in records.iter().enumerate() {
        let persona = record.personas.as_deref().filter(|persona| !persona.is_empty());
        personas.push(persona.with_context(|| {
            format!("{}: record {} has no `personas`, and C.score needs them", path.display(), at + 1)
        })?);
    }
    let replies: Vec<&str> = records.iter().map(|record| record.prediction.as_str()).collect();
    ConsistencyReport::of(judge, &replies, &gold, &personas)
        .with_context(|| format!("{}: C.score", path.display()))
}

/// The first reference of every record.
fn first_references<'r>(path: &Path, records: &'r [Record]) -> Result<Vec<&'r str>> {
    let first = records.iter().enumerate().map(|(at, record)| {
        let reference = record.references.first().map(String::as_str);
        reference.with_context(|| format!("{}: record {} has no reference", path.display(), at + 1))
    });
    first.collect()
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

impl Read {
    /// The records, for what cannot be streamed.
    fn in_memory(&self, path: &Path, what: &str) -> Result<&[Record]> {
        let records = self.kept.as_deref();
        records.with_context(|| {
            format!(
                "{}: {what} needs the replies in memory; allow so many with --intervals-up-to",
                path.display()
            )
        })
    }
}

fn read(path: &Path, options: &Options<'_>, for_test: bool) -> Result<Read> {
    let mut records = Records::open(path)?;
    let mut suite: Option<Suite> = None;
    let mut kept = Some(Vec::new());
    let mut notes = Vec::new();
    let mut unspaced = 0;
    while let Some(batch) = records.next_batch()? {
        let suite = match (&mut suite, batch.records.first()) {
            (Some(suite), _) => suite,
            (suite, Some(record)) => suite.insert(options.preset.suite_in(record.fields(), options.language)),
            (None, None) => continue,
        };
        suite.extend(&batch.records).map_err(|error| batch.place(error))?;
        let is_unspaced = |record: &&Record| Language::is_unspaced(&record.prediction);
        unspaced += batch.records.iter().filter(is_unspaced).count();
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
    if options.language == Language::English && 2 * unspaced > count {
        notes.push(format!(
            "{unspaced} predictions are Chinese or Japanese without spaces, and most of these metrics take such a \
             sentence for one word: give --language chinese or --language japanese"
        ));
    }
    if !ignored.is_empty() {
        let keys: Vec<String> = ignored.into_iter().map(|key| format!("`{key}`")).collect();
        notes.push(format!("keys that are no part of a record were not read: {}", keys.join(", ")));
    }
    Ok(Read { suite, kept, count, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_and_not_tested_is_noted_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, prediction: &str| {
            let path = folder.path().join(name);
            let line = format!("{{\"prediction\": \"{prediction}\", \"references\": [\"i have a dog\"]}}\n");
            std::fs::write(&path, line.repeat(3)).unwrap();
            path
        };
        let (one, other) = (file("one.jsonl", "i have a cat"), file("other.jsonl", "cats"));
        let sampling = Sampling { trials: 10, ..Sampling::default() };
        let options = Options { sampling, ..Options::default() };
        let evaluation = evaluate(&one, Some(&other), &options).unwrap();
        let notes: Vec<&String> =
            evaluation.notes.iter().filter(|note| note.contains("not tested")).collect();
        assert!(notes.iter().any(|note| note.contains("Distinct: ")), "{notes:?}");
        // The copy rate needs personas, and is not measured either.
        assert!(!notes.iter().any(|note| note.contains("needs")), "{notes:?}");
    }

    #[test]
    fn chinese_and_japanese_without_spaces_are_noted_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zh.jsonl");
        std::fs::write(
            &path,
            "{\"prediction\": \"我非常喜欢这只狗。\", \"references\": [\"我非常喜欢这只猫。\"]}\n",
        )
        .unwrap();
        let bleu = |language| {
            let options = Options { preset: Preset::Pal, language, ..Options::default() };
            let evaluation = evaluate(&path, None, &options).unwrap();
            let noted = evaluation.notes.iter().any(|note| note.contains("--language chinese"));
            (evaluation.input.scores[0].score.value(), noted)
        };
        let (spaced, noted) = bleu(Language::English);
        assert!(spaced < 1e-6 && noted, "{spaced}");
        let (words, noted) = bleu(Language::Chinese);
        assert!((words - 6.0 / 7.0).abs() < 1e-9 && !noted, "{words}");
        let (characters, noted) = bleu(Language::Japanese);
        assert!((characters - 8.0 / 9.0).abs() < 1e-9 && !noted, "{characters}");
    }
}
