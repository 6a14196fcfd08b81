//! The JSON forms of published data.

use std::marker::PhantomData;

use serde::Deserialize;

use super::array::Elements;
use super::source::Source;
use super::{Loader, Notes, Record, numbered, push_exchange, relevant};
use crate::dialogue::{Dialogue, Speaker, Turn};
use crate::error::{Error, Place, Result};

/// Dialogues from the elements of one array.
pub(super) struct JsonArray<R> {
    elements: Elements,
    stem: String,
    number: u64,
    notes: Notes,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> JsonArray<R> {
    pub(super) fn new(source: Source) -> Self {
        let stem = source.stem();
        let elements = Elements::new(source, R::EXPECTED);
        Self { elements, stem, number: 0, notes: Notes::default(), record: PhantomData }
    }
}

impl<R: Record> Loader for JsonArray<R> {
    fn next_dialogue(&mut self) -> Option<Result<Dialogue>> {
        let item = self.elements.next::<R>()?;
        self.number += 1;
        let (stem, number) = (&self.stem, self.number);
        Some(item.and_then(|(record, place)| {
            record.into_dialogue(&|| numbered(stem, number), &place, &mut self.notes)
        }))
    }

    fn notes(&self) -> Notes {
        self.notes
    }
}

/// See [`Format::SpcJsonl`](crate::Format::SpcJsonl).
#[derive(Deserialize)]
pub(super) struct Spc {
    id: String,
    user_1_personas: Vec<String>,
    user_2_personas: Vec<String>,
    utterances: Vec<(Speaker, String)>,
}

impl Record for Spc {
    const EXPECTED: &'static str = "{\"id\", \"user_1_personas\", \"user_2_personas\", \"utterances\": [[1 or 2, text], ...]} on each line";

    fn into_dialogue(self, _: &dyn Fn() -> String, _: &Place, _: &mut Notes) -> Result<Dialogue> {
        let turns = self.utterances.into_iter().map(|(speaker, text)| Turn::new(speaker, text)).collect();
        Ok(Dialogue { id: self.id, personas: [self.user_1_personas, self.user_2_personas], turns })
    }
}

/// See [`Format::Xpersona`](crate::Format::Xpersona).
#[derive(Deserialize)]
pub(super) struct Xpersona {
    persona: Vec<String>,
    dialogue: Vec<(String, String)>,
}

impl Record for Xpersona {
    const EXPECTED: &'static str = "{\"persona\", \"dialogue\": [[utterance, response], ...]}";

    fn into_dialogue(self, id: &dyn Fn() -> String, _: &Place, notes: &mut Notes) -> Result<Dialogue> {
        let mut turns = Vec::with_capacity(2 * self.dialogue.len());
        for (utterance, response) in self.dialogue {
            push_exchange(&mut turns, utterance, Turn::new(Speaker::Two, response), notes);
        }
        Ok(Dialogue { id: id(), personas: [Vec::new(), self.persona], turns })
    }
}

/// See [`Format::Derived`](crate::Format::Derived).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Derived {
    id: String,
    persona: Vec<String>,
    turns: Vec<(String, String)>,
    labels: Option<Vec<Vec<i64>>>,
}

impl Record for Derived {
    const EXPECTED: &'static str = "{\"id\", \"persona\", \"turns\": [[utterance, response], ...], \"labels\": [[0, ...], ...]} on each line";

    fn into_dialogue(self, _: &dyn Fn() -> String, place: &Place, notes: &mut Notes) -> Result<Dialogue> {
        if let Some(labels) = &self.labels
            && labels.len() != self.turns.len()
        {
            let problem =
                format!("{} labels for {} exchanges; give one list each", labels.len(), self.turns.len());
            return Err(Error::Malformed { place: place.clone(), problem });
        }
        let mut labels = self.labels.into_iter().flatten();
        let mut turns = Vec::with_capacity(2 * self.turns.len());
        for (utterance, response) in self.turns {
            let mut response = Turn::new(Speaker::Two, response);
            if let Some(labels) = labels.next() {
                response.relevant = Some(relevant(&labels, self.persona.len(), place)?);
            }
            push_exchange(&mut turns, utterance, response, notes);
        }
        Ok(Dialogue { id: self.id, personas: [Vec::new(), self.persona], turns })
    }
}
