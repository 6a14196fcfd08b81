//! PAL's records: windows of dialogues, one a response.

use std::io::BufRead;
use std::path::Path;

use super::array::Elements;
use super::{Lenient, Loader, Notes, Source, numbered, relevant};
use crate::dialogue::{Dialogue, Example, Role, Speaker, Turn, Utterance};
use crate::error::{Error, Place, Result};

const EXPECTED: &str = "[persona, history, response, labels]";

/// Persona, history (oldest first, the partner's utterance last), response, labels.
type Record = (Vec<String>, Vec<String>, String, Vec<i64>);

/// PAL's records as they stand in the file: an iterator over `Result<`[`Example`]`>`.
///
/// A record is `[persona, history, response, labels]`; labels are indexes from 0 of the descriptions that the response
/// draws on, and `[-1]` (or nothing) says that none applies. An example's id is the file's name with the record's number.
/// Records of one dialogue share text: to split, read dialogues ([`open`](crate::open) with
/// [`Format::Pal`](crate::Format::Pal)).
pub struct PalRecords {
    elements: Elements,
    name: String,
    stem: String,
    number: u64,
}

impl PalRecords {
    /// Opens a file, gzipped or not.
    ///
    /// # Errors
    /// When the file cannot be opened or is UTF-16.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::from_source(Source::open(path.as_ref())?))
    }

    /// Reads from any source of bytes, called `name` in errors.
    ///
    /// # Errors
    /// When the first bytes cannot be read or are UTF-16.
    pub fn read(bytes: impl BufRead + Send + 'static, name: &str) -> Result<Self> {
        Ok(Self::from_source(Source::new(bytes, name.to_owned())?))
    }

    /// Goes past what cannot be read, counting it.
    #[must_use]
    pub fn lenient(self) -> Lenient<Self> {
        Lenient::new(self)
    }

    fn from_source(source: Source) -> Self {
        let (name, stem) = (source.name.clone(), source.stem());
        Self { elements: Elements::new(source, EXPECTED), name, stem, number: 0 }
    }
}

impl Iterator for PalRecords {
    type Item = Result<Example>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(item) = self.elements.next::<Record>() else {
            // The number tells whether anything was there, and is not needed again.
            let empty = self.number == 0;
            self.number = 1;
            return empty.then(|| Err(Error::Empty { file: self.name.clone() }));
        };
        self.number += 1;
        Some(item.and_then(|((persona, history, response, labels), place)| {
            let relevant = Some(relevant(&labels, persona.len(), &place)?);
            let length = history.len();
            let history = history.into_iter().enumerate().map(|(at, text)| {
                let role = if (length - at) % 2 == 1 { Role::Partner } else { Role::Agent };
                Utterance { role, text }
            });
            let (id, history) = (numbered(&self.stem, self.number), history.collect());
            Ok(Example { id, persona, history, response, relevant, candidates: Vec::new() })
        }))
    }
}

/// Dialogues put together from consecutive records.
///
/// A record goes on with the dialogue before it when the personas are equal and all of its history but the last utterance
/// is how that dialogue ends; a record with one utterance of history (or none) begins a dialogue. A record that cannot be
/// read costs the dialogue around it: the one before it, whose end it may have been, and what follows it up to the next
/// beginning. A dialogue is called by its first record's number.
pub(super) struct Joined {
    elements: Elements,
    stem: String,
    current: Option<Dialogue>,
    skipping: Skipping,
    ended: bool,
    notes: Notes,
}

enum Skipping {
    /// Nothing is wrong.
    No,
    /// The record before could not be read.
    Any,
    /// The rest of a dialogue with this persona.
    Persona(Vec<String>),
}

impl Joined {
    pub(super) fn new(source: Source) -> Self {
        let stem = source.stem();
        Self {
            elements: Elements::new(source, EXPECTED),
            stem,
            current: None,
            skipping: Skipping::No,
            ended: false,
            notes: Notes::default(),
        }
    }

    /// Adds a record; gives the dialogue that it leaves behind.
    fn add(&mut self, record: Record, place: &Place) -> Result<Option<Dialogue>> {
        let (persona, mut history, response, labels) = record;
        let mut response = Turn::new(Speaker::Two, response);
        response.relevant = Some(relevant(&labels, persona.len(), place)?);
        let begins = history.len() <= 1;
        let skip = match &self.skipping {
            Skipping::No => false,
            Skipping::Any => !begins,
            Skipping::Persona(broken) => !begins && *broken == persona,
        };
        if skip {
            self.skipping = Skipping::Persona(persona);
            return Ok(None);
        }
        self.skipping = Skipping::No;
        if let Some(current) = self.current.as_mut()
            && !begins
            && current.persona(Speaker::Two) == persona
            && ends_with(&current.turns, history.split_last().map_or(&[], |(_, past)| past))
        {
            current.turns.extend(history.pop().map(|text| Turn::new(Speaker::One, text)));
            current.turns.push(response);
            return Ok(None);
        }
        self.notes.fragments += u64::from(!begins);
        let length = history.len();
        let speaker = |at: usize| if (length - at) % 2 == 1 { Speaker::One } else { Speaker::Two };
        let past = history.into_iter().enumerate().map(|(at, text)| Turn::new(speaker(at), text));
        let turns = past.chain([response]).collect();
        let id = numbered(&self.stem, place.record.unwrap_or_default());
        Ok(self.current.replace(Dialogue { id, personas: [Vec::new(), persona], turns }))
    }
}

fn ends_with(turns: &[Turn], texts: &[String]) -> bool {
    turns.len() >= texts.len()
        && turns.iter().rev().zip(texts.iter().rev()).all(|(turn, text)| turn.text == *text)
}

impl Loader for Joined {
    fn next_dialogue(&mut self) -> Option<Result<Dialogue>> {
        while !self.ended {
            match self.elements.next::<Record>() {
                None => self.ended = true,
                Some(item) => match item.and_then(|(record, place)| self.add(record, &place)) {
                    Ok(None) => {}
                    Ok(Some(whole)) => return Some(Ok(whole)),
                    Err(error) => {
                        self.current = None;
                        self.skipping = Skipping::Any;
                        return Some(Err(error));
                    }
                },
            }
        }
        self.current.take().map(Ok)
    }

    fn notes(&self) -> Notes {
        self.notes
    }
}
