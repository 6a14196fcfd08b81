//! One JSON value a line: our own format, and the reader for all formats of that kind.

use std::marker::PhantomData;
use std::path::Path;

use super::source::{Lines, Source};
use super::{Loader, Notes, Record, numbered, write_whole};
use crate::dialogue::Dialogue;
use crate::error::{Error, Place, Result};

/// Dialogues from one record a line; blank lines are nothing.
pub(super) struct JsonLines<R> {
    lines: Lines,
    stem: String,
    number: u64,
    notes: Notes,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> JsonLines<R> {
    pub(super) fn new(source: Source) -> Self {
        let stem = source.stem();
        Self { lines: Lines::new(source), stem, number: 0, notes: Notes::default(), record: PhantomData }
    }
}

impl<R: Record> Loader for JsonLines<R> {
    fn next_dialogue(&mut self) -> Option<Result<Dialogue>> {
        let parsed = loop {
            match self.lines.next()? {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => break serde_json::from_str::<R>(line),
                Err(error) => {
                    self.number += 1;
                    return Some(Err(error));
                }
            }
        };
        self.number += 1;
        let place = self.lines.place();
        let (stem, number) = (&self.stem, self.number);
        Some(match parsed {
            Ok(record) => record.into_dialogue(&|| numbered(stem, number), &place, &mut self.notes),
            Err(source) => Err(Error::Json { place, expected: R::EXPECTED, source }),
        })
    }

    fn notes(&self) -> Notes {
        self.notes
    }
}

impl Record for Dialogue {
    const EXPECTED: &'static str = "a dialogue {\"id\", \"personas\", \"turns\"} on each line";

    fn into_dialogue(self, _: &dyn Fn() -> String, place: &Place, _: &mut Notes) -> Result<Dialogue> {
        for turn in &self.turns {
            let descriptions = self.persona(turn.speaker).len();
            if let Some(&index) = turn.relevant.iter().flatten().find(|&&index| index >= descriptions) {
                let label = i64::try_from(index).unwrap_or(i64::MAX);
                return Err(Error::LabelOutOfRange { place: place.clone(), label, descriptions });
            }
        }
        Ok(self)
    }
}

/// Writes dialogues as JSON, one a line, so that [`open`](crate::open) with
/// [`Format::Jsonl`](crate::Format::Jsonl) gives the same dialogues again; compressed when the name ends in `.gz`. Returns
/// how many were written.
///
/// The file appears under its name when it is whole: until then, and after a failure, what stood there stays.
///
/// # Errors
/// [`Error::Write`] when the file cannot be written or renamed.
pub fn write_jsonl<'a>(
    path: impl AsRef<Path>,
    dialogues: impl IntoIterator<Item = &'a Dialogue>,
) -> Result<u64> {
    let mut count = 0;
    write_whole(path.as_ref(), |out| {
        for dialogue in dialogues {
            serde_json::to_writer(&mut *out, dialogue)?;
            out.write_all(b"\n")?;
            count += 1;
        }
        Ok(())
    })?;
    Ok(count)
}
