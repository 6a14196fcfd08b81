//! Dialogues out of files: one iterator for every format.

use std::io::BufRead;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::dialogue::{Dialogue, Speaker, Turn};
use crate::error::{Error, Place, Result};

mod array;
mod format;
mod json;
mod jsonl;
mod lenient;
mod pal;
mod parlai;
mod source;
mod spc_csv;

pub(crate) use array::Elements;
pub use format::Format;
pub use jsonl::write_jsonl;
pub use lenient::Lenient;
pub use pal::PalRecords;
pub(crate) use source::{Lines, Source, read_error, write_whole};

/// PERSONA-CHAT's mark for "nothing was said", which stands where the second speaker opens the dialogue.
const SILENCE: &str = "__SILENCE__";

/// Opens a data file: an iterator over its dialogues, each `Ok(dialogue)` or an error that names file and line and says
/// what to do.
///
/// The file may be gzipped, whatever its name, and may start with a byte order mark. It is read as the iterator is
/// drawn from, never as a whole. Without a format ([`None`]) the start of the file decides, see [`Format::detect`].
/// After an error the iterator goes on with the next dialogue where the format tells where that begins, and ends
/// otherwise. A file without any dialogue gives [`Error::Empty`].
///
/// # Errors
/// When the file cannot be opened, is UTF-16, or (without a format) looks like none of the formats.
///
/// ```no_run
/// use persona_data::{Format, open};
///
/// for dialogue in open("valid_self_original.txt", Format::Parlai)? {
///     let dialogue = dialogue?;
///     println!("{}: {} turns", dialogue.id, dialogue.turns.len());
/// }
/// # Ok::<(), persona_data::Error>(())
/// ```
pub fn open(path: impl AsRef<Path>, format: impl Into<Option<Format>>) -> Result<Dialogues> {
    let path = path.as_ref();
    let format = match format.into() {
        Some(format) => format,
        None => Format::detect(path)?,
    };
    Ok(Dialogues::new(Source::open(path)?, format))
}

/// As [`open`], from any source of bytes; `name` stands for the file's name in errors and, without its extension, in the
/// dialogues' ids.
///
/// # Errors
/// When the first bytes cannot be read or are UTF-16.
pub fn read(bytes: impl BufRead + Send + 'static, name: &str, format: Format) -> Result<Dialogues> {
    Ok(Dialogues::new(Source::new(bytes, name.to_owned())?, format))
}

/// The dialogues of one file; see [`open`].
///
/// Dialogues whose format has no ids are called by the file's name and their number in it, from 1 (`valid-00017`; PAL's by
/// the number of their first record). One that cannot be read keeps its number: the others' ids do not depend on it.
pub struct Dialogues {
    loader: Box<dyn Loader>,
    name: String,
    format: Format,
    any: bool,
}

impl Dialogues {
    fn new(source: Source, format: Format) -> Self {
        let name = source.name.clone();
        let loader: Box<dyn Loader> = match format {
            Format::Parlai => Box::new(parlai::Parlai::new(source)),
            Format::SpcCsv => Box::new(spc_csv::SpcCsv::new(source)),
            Format::SpcJsonl => Box::new(jsonl::JsonLines::<json::Spc>::new(source)),
            Format::Xpersona => Box::new(json::JsonArray::<json::Xpersona>::new(source)),
            Format::Pal => Box::new(pal::Joined::new(source)),
            Format::Derived => Box::new(jsonl::JsonLines::<json::Derived>::new(source)),
            Format::Jsonl => Box::new(jsonl::JsonLines::<Dialogue>::new(source)),
        };
        Self { loader, name, format, any: false }
    }

    /// The format that is being read.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// What was left out or put together so far.
    #[must_use]
    pub fn notes(&self) -> Notes {
        self.loader.notes()
    }

    /// Goes past what cannot be read, counting it.
    #[must_use]
    pub fn lenient(self) -> Lenient<Self> {
        Lenient::new(self)
    }
}

impl Iterator for Dialogues {
    type Item = Result<Dialogue>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.loader.next_dialogue();
        if item.is_none() && !std::mem::replace(&mut self.any, true) {
            return Some(Err(Error::Empty { file: self.name.clone() }));
        }
        self.any = true;
        item
    }
}

/// What a loader did to the text that is no error, and yet nothing to be silent about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Notes {
    /// Turns left out because they say `__SILENCE__`: the other speaker opens the dialogue.
    pub silences: u64,
    /// Lines of Synthetic-Persona-Chat dialogues left out because no speaker is named (`* * *`, `[A few minutes
    /// later]`); blank lines are not counted.
    pub stray_lines: u64,
    /// PAL records that neither begin a dialogue nor go on from the record before. Each was made a dialogue of its own,
    /// which may share text with others.
    pub fragments: u64,
}

/// One format's reader.
trait Loader: Send {
    /// The next dialogue or error; `None` at the end for good.
    fn next_dialogue(&mut self) -> Option<Result<Dialogue>>;

    /// See [`Dialogues::notes`].
    fn notes(&self) -> Notes;
}

/// One dialogue as a format's JSON has it.
trait Record: DeserializeOwned + Send {
    /// The form, for error messages.
    const EXPECTED: &'static str;

    /// The dialogue; `id` is for formats that have none of their own.
    fn into_dialogue(self, id: &dyn Fn() -> String, place: &Place, notes: &mut Notes) -> Result<Dialogue>;
}

/// The id of the `number`-th dialogue of a file.
pub(crate) fn numbered(stem: &str, number: u64) -> String {
    format!("{stem}-{number:05}")
}

/// The turns of exchanges between the first speaker and the second, without silences.
fn push_exchange(turns: &mut Vec<Turn>, utterance: String, response: Turn, notes: &mut Notes) {
    for turn in [Turn::new(Speaker::One, utterance), response] {
        if turn.text.trim() == SILENCE {
            notes.silences += 1;
        } else {
            turns.push(turn);
        }
    }
}

/// Labels as files write them: indexes from 0, and `[-1]` or nothing for "no description applies".
fn relevant(labels: &[i64], descriptions: usize, place: &Place) -> Result<Vec<usize>> {
    if labels == [-1] {
        return Ok(Vec::new());
    }
    let index = |&label: &i64| {
        let index = usize::try_from(label).ok().filter(|&index| index < descriptions);
        index.ok_or_else(|| Error::LabelOutOfRange { place: place.clone(), label, descriptions })
    };
    labels.iter().map(index).collect()
}
