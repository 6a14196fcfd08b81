//! Records from a file of JSON lines, a batch at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use persona_metrics::Error;
use persona_metrics::suite::Record;
use rayon::prelude::*;

/// Lines that are parsed and counted together.
const BATCH: usize = 1 << 14;
/// A shorter file is read before anybody could look at a bar.
const SHOWN_FROM: u64 = 16 << 20;

/// A file of records that is being read.
pub(super) struct Records {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    bar: ProgressBar,
    lines: usize,
    records: usize,
    ignored: BTreeSet<String>,
}

/// Some records, and the lines they stand on.
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    path: PathBuf,
    /// Records before the batch.
    before: usize,
    /// The line of each record, counted from 1.
    lines: Vec<usize>,
}

impl Batch {
    /// Turns the index of an example in an error into a line of the file.
    pub(super) fn place(&self, error: Error) -> anyhow::Error {
        let index = match &error {
            Error::Example { index, .. } => index.checked_sub(self.before),
            _ => None,
        };
        match (index.and_then(|index| self.lines.get(index)), error) {
            (Some(line), Error::Example { source, .. }) => {
                anyhow::Error::new(*source).context(format!("{}:{line}", self.path.display()))
            }
            (_, error) => anyhow::Error::new(error).context(self.path.display().to_string()),
        }
    }
}

impl Records {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (reader, size): (Box<dyn BufRead>, u64) = if path == Path::new("-") {
            (Box::new(io::stdin().lock()), 0)
        } else {
            let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            let metadata = file.metadata().with_context(|| format!("opening {}", path.display()))?;
            if metadata.is_dir() {
                return Err(anyhow!("{} is a folder; give a file of JSON lines", path.display()));
            }
            (Box::new(BufReader::with_capacity(1 << 20, file)), metadata.len())
        };
        let bar = if size >= SHOWN_FROM && io::stderr().is_terminal() {
            let bar = ProgressBar::new(size).with_prefix(path.display().to_string());
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes} {eta} left");
            bar.set_style(style.context("the progress bar's template")?);
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        } else {
            ProgressBar::hidden()
        };
        Ok(Self { path: path.to_owned(), reader, bar, lines: 0, records: 0, ignored: BTreeSet::new() })
    }

    /// The next records; `None` at the end. Blank lines are no records.
    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>> {
        let mut texts = Vec::new();
        let mut numbers = Vec::new();
        while texts.len() < BATCH {
            let mut line = Vec::new();
            let read = self.reader.read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("reading {}:{}", self.path.display(), self.lines + 1))?;
            if read == 0 {
                break;
            }
            self.lines += 1;
            self.bar.inc(read as u64);
            if self.lines == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            if !line.trim_ascii().is_empty() {
                texts.push(line);
                numbers.push(self.lines);
            }
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let parsed: Vec<Result<(Record, BTreeSet<String>)>> =
            texts.par_iter().map(|line| parse(line)).collect();
        let mut records = Vec::with_capacity(parsed.len());
        for (record, line) in parsed.into_iter().zip(&numbers) {
            let (record, ignored) = record.with_context(|| format!("{}:{line}", self.path.display()))?;
            self.ignored.extend(ignored);
            records.push(record);
        }
        let before = self.records;
        self.records += records.len();
        Ok(Some(Batch { records, path: self.path.clone(), before, lines: numbers }))
    }

    /// How many records there were, and which keys of theirs nobody reads.
    pub(super) fn finish(self) -> (usize, BTreeSet<String>) {
        self.bar.finish_and_clear();
        (self.records, self.ignored)
    }
}

fn parse(line: &[u8]) -> Result<(Record, BTreeSet<String>)> {
    const FORM: &str = "a record is {\"prediction\": text, \"references\": [text, ...], \"personas\"?: [text, ...], \
                        \"history\"?: [text, ...], \"candidates\"?: [text, ...]} on one line";
    let mut ignored = BTreeSet::new();
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let record = serde_ignored::deserialize(&mut deserializer, |path| {
        ignored.insert(path.to_string());
    });
    let record = record.and_then(|record| deserializer.end().map(|()| record));
    Ok((record.context(FORM)?, ignored))
}
