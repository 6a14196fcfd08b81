//! PERSONA-CHAT and ConvAI2 as text.

use std::collections::VecDeque;

use super::source::{Lines, Source};
use super::{Loader, Notes, numbered, push_exchange};
use crate::dialogue::{Dialogue, Speaker, Turn};
use crate::error::{Error, Place, Result};

const YOUR: &str = "your persona:";
const PARTNERS: &str = "partner's persona:";

/// Dialogues from numbered lines; see [`Format::Parlai`](crate::Format::Parlai).
pub(super) struct Parlai {
    lines: Lines,
    stem: String,
    started: u64,
    /// `None` before the first dialogue and from a bad line to the next dialogue.
    current: Option<Current>,
    ready: VecDeque<Result<Dialogue>>,
    notes: Notes,
}

struct Current {
    dialogue: Dialogue,
    /// Where the dialogue starts.
    place: Place,
    /// The number of its last line.
    last: u64,
    exchanges: u64,
}

impl Parlai {
    pub(super) fn new(source: Source) -> Self {
        let stem = source.stem();
        let lines = Lines::new(source);
        Self { lines, stem, started: 0, current: None, ready: VecDeque::new(), notes: Notes::default() }
    }

    /// Takes one line in; an error costs the dialogue to which the line belongs.
    fn take(&mut self, number: Option<u64>, text: &str, place: Place) -> Result<()> {
        let malformed = |place: Place, problem: String| Error::Malformed { place, problem };
        if number == Some(1) {
            self.begin(place.clone());
        }
        let Some(current) = self.current.as_mut() else {
            if self.started == 0 {
                // Until a dialogue has started, every line would be an error: one is enough.
                self.started = 1;
                let problem =
                    "the file does not start with a line numbered 1; is it ParlAI's format, and whole?";
                return Err(malformed(place, problem.into()));
            }
            return Ok(());
        };
        match number {
            None => return Err(malformed(place, "the line has no number; expected `NUMBER TEXT`".into())),
            Some(number) if number != current.last + 1 => {
                let want = current.last + 1;
                let problem = format!(
                    "the line is numbered {number} where {want} follows; is a line missing before it?"
                );
                return Err(malformed(place, problem));
            }
            Some(number) => current.last = number,
        }
        for (prefix, speaker) in [(YOUR, Speaker::Two), (PARTNERS, Speaker::One)] {
            if let Some(description) = text.strip_prefix(prefix) {
                if current.exchanges > 0 {
                    let problem =
                        "a persona line after the first exchange; is the line numbered 1 missing before it?";
                    return Err(malformed(place, problem.into()));
                }
                current.dialogue.personas[speaker.index()].push(description.trim().to_owned());
                return Ok(());
            }
        }
        let (utterance, response) = exchange(text).map_err(|problem| malformed(place, problem))?;
        current.exchanges += 1;
        push_exchange(&mut current.dialogue.turns, utterance, response, &mut self.notes);
        Ok(())
    }

    /// The current dialogue is whole, and another starts.
    fn begin(&mut self, place: Place) {
        self.finish();
        self.started += 1;
        let id = numbered(&self.stem, self.started);
        let dialogue = Dialogue { id, personas: Default::default(), turns: Vec::new() };
        self.current = Some(Current { dialogue, place, last: 0, exchanges: 0 });
    }

    /// The current dialogue is whole.
    fn finish(&mut self) {
        if let Some(Current { dialogue, place, exchanges, .. }) = self.current.take() {
            self.ready.push_back(if exchanges == 0 {
                let problem =
                    "the dialogue that starts here has a persona and no exchange; was the file cut?".into();
                Err(Error::Malformed { place, problem })
            } else {
                Ok(dialogue)
            });
        }
    }
}

/// `utterance TAB response`, then perhaps a reward, then perhaps candidates.
fn exchange(text: &str) -> Result<(String, Turn), String> {
    let columns: Vec<&str> = text.split('\t').collect();
    let (utterance, response, candidates) = match columns.as_slice() {
        [utterance, response] | [utterance, response, _] => (utterance, response, ""),
        [utterance, response, _, candidates] => (utterance, response, *candidates),
        [_] => return Err("no tab between utterance and response".into()),
        more => {
            return Err(format!("{} columns; expected utterance, response, reward, candidates", more.len()));
        }
    };
    let mut turn = Turn::new(Speaker::Two, response.trim());
    turn.candidates = candidates.split('|').map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect();
    if !turn.candidates.is_empty() && !turn.candidates.contains(&turn.text) {
        return Err("the response is not among its candidates".into());
    }
    Ok((utterance.trim().to_owned(), turn))
}

impl Loader for Parlai {
    fn next_dialogue(&mut self) -> Option<Result<Dialogue>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            let (number, text) = match self.lines.next() {
                None => {
                    self.finish();
                    return self.ready.pop_front();
                }
                Some(Err(error)) => {
                    // What is broken may follow a number that can be read, and 1 says that the dialogue before is whole.
                    let number = self.lines.bytes().split(|&byte| byte == b' ').next();
                    if number == Some(b"1") {
                        self.begin(self.lines.place());
                    }
                    self.current = None;
                    self.started = self.started.max(1);
                    self.ready.push_back(Err(error));
                    continue;
                }
                Some(Ok(line)) if line.trim().is_empty() => continue,
                Some(Ok(line)) => match line.split_once(' ') {
                    Some((number, text)) => (number.parse().ok(), text.to_owned()),
                    None => (None, String::new()),
                },
            };
            let place = self.lines.place();
            if let Err(error) = self.take(number, &text, place) {
                self.current = None;
                self.ready.push_back(Err(error));
            }
        }
    }

    fn notes(&self) -> Notes {
        self.notes
    }
}
