//! Published labels of PERSONA-CHAT's replies: a judge's scores, and pairs found to be entailed.

use std::path::Path;

use super::NliLabel;
use crate::error::{Error, Place, Result};
use crate::loaders::{Elements, Lines, Source};

/// A judge's scores of one description and one reply.
#[derive(Debug, Clone, PartialEq)]
pub struct PersonaScore {
    /// The dialogue's place in the published file, from 0.
    pub dialogue: usize,
    /// The description's place in the persona, from 0.
    pub description_index: usize,
    /// The reply's place among the second speaker's, from 0.
    pub reply_index: usize,
    /// The class with the highest logit.
    pub label: NliLabel,
    /// The logits in the order of [`NliLabel::ALL`].
    pub logits: [f64; 3],
    /// The description.
    pub description: String,
    /// The reply.
    pub reply: String,
}

const COLUMNS: [&str; 9] = [
    "dialog",
    "persona_idx",
    "turn",
    "label",
    "logit_contradiction",
    "logit_neutral",
    "logit_entailment",
    "persona",
    "response",
];

/// The scores that a judge gave every description and reply of a part of PERSONA-CHAT, as a table with tabs
/// (`valid_persona_nli_scores.tsv`): an iterator over `Result<`[`PersonaScore`]`>`.
///
/// The judge was a RoBERTa-large trained on MultiNLI, then on Dialogue NLI. A label that is not that of the highest logit
/// is an error, as is a line of another form; the iterator goes on with the next line.
pub struct PersonaScores {
    lines: Lines,
    header_read: bool,
}

impl PersonaScores {
    /// Opens a file, gzipped or not.
    ///
    /// # Errors
    /// When the file cannot be opened or is UTF-16.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { lines: Lines::new(Source::open(path.as_ref())?), header_read: false })
    }

    fn header(&mut self) -> Result<()> {
        let found = match self.lines.next() {
            Some(line) => line?.to_owned(),
            None => String::new(),
        };
        if found.split('\t').eq(COLUMNS) {
            return Ok(());
        }
        let place = Place { line: 1, ..self.lines.place() };
        let problem =
            format!("the first line is {found:?}; expected the columns {}, with tabs", COLUMNS.join(" "));
        Err(Error::Malformed { place, problem })
    }
}

impl Iterator for PersonaScores {
    type Item = Result<PersonaScore>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.header_read {
            self.header_read = true;
            if let Err(error) = self.header() {
                return Some(Err(error));
            }
        }
        let parsed = match self.lines.next()? {
            Ok(line) => score(line),
            Err(error) => return Some(Err(error)),
        };
        Some(parsed.map_err(|problem| Error::Malformed { place: self.lines.place(), problem }))
    }
}

fn score(line: &str) -> Result<PersonaScore, String> {
    let cells: Vec<&str> = line.split('\t').collect();
    let [
        dialogue,
        description_index,
        reply_index,
        label,
        contradiction,
        neutral,
        entailment,
        description,
        reply,
    ] = cells[..]
    else {
        return Err(format!("the line has {} cells; expected {}", cells.len(), COLUMNS.len()));
    };
    let index = |column: usize, cell: &str| {
        cell.parse::<usize>()
            .map_err(|_| format!("{} is {cell:?}; expected a number from 0", COLUMNS[column]))
    };
    let logit = |column: usize, cell: &str| match cell.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{} is {cell:?}; expected a finite number", COLUMNS[column])),
    };
    let label: NliLabel = label.parse()?;
    let logits = [logit(4, contradiction)?, logit(5, neutral)?, logit(6, entailment)?];
    if logits.iter().any(|&logit| logit > logits[label.index()]) {
        return Err(format!("the label is {label}, and another logit of {logits:?} is higher"));
    }
    for (column, text) in [(7, description), (8, reply)] {
        if text.trim().is_empty() {
            return Err(format!("{} is empty", COLUMNS[column]));
        }
    }
    Ok(PersonaScore {
        dialogue: index(0, dialogue)?,
        description_index: index(1, description_index)?,
        reply_index: index(2, reply_index)?,
        label,
        logits,
        description: description.to_owned(),
        reply: reply.to_owned(),
    })
}

/// Descriptions with replies that a judge found to follow from them, as one array of `[description, reply]`
/// (`train_entailed_sentences.json`), in the order of the dialogues: an iterator over `Result<(description, reply)>`.
///
/// Every reply was judged with all descriptions of its speaker: a description of the same speaker that is not listed with
/// a reply is neutral to it, or contradicts it. [`sampled_neutrals`](super::sampled_neutrals) draws on that.
pub struct EntailedPairs(Elements);

impl EntailedPairs {
    /// Opens a file, gzipped or not.
    ///
    /// # Errors
    /// When the file cannot be opened or is UTF-16.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self(Elements::new(Source::open(path.as_ref())?, "[description, reply]")))
    }
}

impl Iterator for EntailedPairs {
    type Item = Result<(String, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.0.next::<(String, String)>()?;
        Some(item.and_then(|((description, reply), place)| {
            if description.trim().is_empty() || reply.trim().is_empty() {
                let problem = "the description or the reply is empty; remove the pair".to_owned();
                return Err(Error::Malformed { place, problem });
            }
            Ok((description, reply))
        }))
    }
}
