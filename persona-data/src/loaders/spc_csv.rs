//! Synthetic-Persona-Chat as tables.

use std::io::{self, Read};

use csv::ByteRecord;

use super::source::{Bytes, Source, read_error};
use super::{Loader, Notes, numbered};
use crate::dialogue::{Dialogue, Speaker, Turn};
use crate::error::{Error, Place, Result};

const COLUMNS: [&str; 3] = ["user 1 personas", "user 2 personas", "Best Generated Conversation"];

/// One dialogue a row; see [`Format::SpcCsv`](crate::Format::SpcCsv).
///
/// Lines of a conversation that start with neither `User 1:` nor `User 2:` are left out and counted. Placeholders such as
/// `[user 1's name]` and speakers who go on after themselves stay.
pub(super) struct SpcCsv {
    rows: csv::Reader<Quotes>,
    name: String,
    stem: String,
    /// Where the three columns stand, once the header is read.
    columns: Option<[usize; 3]>,
    row: ByteRecord,
    number: u64,
    done: bool,
    notes: Notes,
}

impl SpcCsv {
    pub(super) fn new(source: Source) -> Self {
        let stem = source.stem();
        let quotes = Quotes { bytes: source.bytes, at: At::Start, ended: false };
        // The reader's own CR LF rows are counted one line short; the CR is taken off with the other white space.
        let rows = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(quotes);
        let (row, notes) = (ByteRecord::new(), Notes::default());
        Self { rows, name: source.name, stem, columns: None, row, number: 0, done: false, notes }
    }

    /// Reads the next row into `self.row`, past blank lines; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        loop {
            let more = self.rows.read_byte_record(&mut self.row).map_err(|error| {
                let place = Place { line: self.rows.position().line(), ..self.place() };
                match error.into_kind() {
                    csv::ErrorKind::Io(source) => read_error(source, place),
                    other => Error::Malformed { place, problem: format!("not a CSV row: {other:?}") },
                }
            })?;
            // A row is given out at its line end; only one without, as within an open quote, makes the reader meet the end.
            let quotes = self.rows.get_ref();
            if more && quotes.ended && quotes.at == At::Quoted {
                let problem = "the file ends within a quoted cell; was it fetched whole?".into();
                return Err(Error::Malformed { place: self.place(), problem });
            }
            if !more || self.row.iter().any(|cell| !cell.trim_ascii().is_empty()) {
                return Ok(more);
            }
        }
    }

    /// The start of the current row.
    fn place(&self) -> Place {
        let line = self.row.position().map_or(1, csv::Position::line);
        Place { file: self.name.clone(), line, record: None }
    }

    fn header(&mut self) -> Result<Option<[usize; 3]>> {
        if !self.advance()? {
            return Ok(None);
        }
        let found: Vec<String> =
            self.row.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_owned()).collect();
        let mut columns = [0; 3];
        for (column, name) in columns.iter_mut().zip(COLUMNS) {
            *column = found.iter().position(|cell| cell.eq_ignore_ascii_case(name)).ok_or_else(|| {
                Error::MissingColumn { file: self.name.clone(), column: name, found: found.clone() }
            })?;
        }
        Ok(Some(columns))
    }

    /// The text of one cell of the current row.
    fn cell(&self, column: usize) -> Result<&str> {
        let place = self.place();
        let Some(cell) = self.row.get(column) else {
            let problem = format!("the row has {} cells and no cell {}", self.row.len(), column + 1);
            return Err(Error::Malformed { place, problem });
        };
        str::from_utf8(cell).map_err(|broken| {
            let good = cell.get(..broken.valid_up_to()).unwrap_or_default();
            let before = self.row.iter().take(column).chain([good]).flatten();
            let line = place.line + before.filter(|&&byte| byte == b'\n').count() as u64;
            let byte = good.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
            Error::NotUtf8 { place: Place { line, ..place }, byte }
        })
    }

    fn dialogue(&mut self, columns: [usize; 3]) -> Result<Dialogue> {
        let [one, two, conversation] = columns;
        let persona = |cell: &str| lines(cell).map(str::to_owned).collect();
        let personas = [persona(self.cell(one)?), persona(self.cell(two)?)];
        let mut turns = Vec::new();
        let mut stray = 0;
        for line in lines(self.cell(conversation)?) {
            let said =
                |name: &str, speaker| line.strip_prefix(name).map(|text| Turn::new(speaker, text.trim()));
            match said("User 1:", Speaker::One).or_else(|| said("User 2:", Speaker::Two)) {
                Some(turn) => turns.push(turn),
                None => stray += 1,
            }
        }
        self.notes.stray_lines += stray;
        Ok(Dialogue { id: numbered(&self.stem, self.number), personas, turns })
    }
}

/// The lines of a cell that say something.
fn lines(cell: &str) -> impl Iterator<Item = &str> {
    cell.lines().map(str::trim).filter(|line| !line.is_empty())
}

impl Loader for SpcCsv {
    fn next_dialogue(&mut self) -> Option<Result<Dialogue>> {
        if self.done {
            return None;
        }
        // What fails here leaves no way to tell where the next row begins.
        let step = match self.columns {
            Some(columns) => self.advance().map(|more| more.then_some(columns)),
            None => self.header().and_then(|columns| {
                self.columns = columns;
                match columns {
                    Some(columns) => self.advance().map(|more| more.then_some(columns)),
                    None => Ok(None),
                }
            }),
        };
        match step {
            Ok(Some(columns)) => {
                self.number += 1;
                Some(self.dialogue(columns))
            }
            Ok(None) => {
                self.done = true;
                None
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }

    fn notes(&self) -> Notes {
        self.notes
    }
}

/// Bytes on their way to the CSV reader, which does not tell an unfinished quoted cell from a finished one: this follows
/// the quotes by the reader's own rules.
struct Quotes {
    bytes: Bytes,
    at: At,
    ended: bool,
}

/// Where in a cell the bytes read so far end.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Before its first byte, the one place where a quote opens it.
    Start,
    /// In bare text, where a quote is a character like any other.
    Bare,
    /// Within the quotes.
    Quoted,
    /// After a quote within the quotes: the closing one, or the first of two that stand for one.
    Quote,
}

impl At {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Start | Self::Quote, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (_, b',' | b'\n') => Self::Start,
            _ => Self::Bare,
        }
    }
}

impl Read for Quotes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(into)?;
        self.at = into.iter().take(count).fold(self.at, |at, &byte| at.after(byte));
        self.ended |= count == 0 && !into.is_empty();
        Ok(count)
    }
}
