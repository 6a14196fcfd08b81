//! The published files of natural language inference.

use std::fmt;
use std::io::BufRead;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NliItem, NliLabel};
use crate::error::{Error, Place, Result};
use crate::loaders::{Elements, Lenient, Lines, Source, numbered};

/// The files that [`open_nli`] reads. Each has a name for recipes and command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum NliFormat {
    /// `snli`: SNLI's `.jsonl` (Bowman et al. 2015), `{"gold_label", "sentence1", "sentence2", "pairID", ...}` a line.
    Snli,
    /// `multinli`: MultiNLI's `.jsonl` (Williams et al. 2018), which has SNLI's keys.
    MultiNli,
    /// `ocnli`: OCNLI's `.json` (Hu et al. 2020), `{"sentence1", "sentence2", "label", "id", ...}` a line.
    Ocnli,
    /// `cmnli`: CMNLI's `.json` of CLUE (Xu et al. 2020), as OCNLI's with fewer keys.
    Cmnli,
    /// `dnli`: Dialogue NLI (Welleck et al. 2019): one array of `{"sentence1", "sentence2", "label", "id", ...}` whose
    /// labels are positive, neutral and negative. Its files are called `.jsonl` all the same.
    Dnli,
}

const NAMES: [(&str, NliFormat); 5] = [
    ("snli", NliFormat::Snli),
    ("multinli", NliFormat::MultiNli),
    ("ocnli", NliFormat::Ocnli),
    ("cmnli", NliFormat::Cmnli),
    ("dnli", NliFormat::Dnli),
];

impl NliFormat {
    /// All names, for messages.
    pub(crate) fn names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Snli | Self::MultiNli => "{\"gold_label\", \"sentence1\", \"sentence2\"} on each line",
            Self::Ocnli | Self::Cmnli => "{\"label\", \"sentence1\", \"sentence2\"} on each line",
            Self::Dnli => "{\"label\", \"sentence1\", \"sentence2\"}, in one array",
        }
    }
}

impl fmt::Display for NliFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES.iter().find(|(_, format)| format == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for NliFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, format)| *format).ok_or_else(|| Error::UnknownNliFormat { name: name.to_owned() })
    }
}

impl TryFrom<String> for NliFormat {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<NliFormat> for String {
    fn from(format: NliFormat) -> Self {
        format.to_string()
    }
}

/// Opens a file of natural language inference as it is published, gzipped or not: an iterator over its labelled pairs,
/// each `Ok(item)` or an error that names file and line. Pairs without a label are passed over and counted:
/// [`NliItems::unlabelled`].
///
/// # Errors
/// When the file cannot be opened or is UTF-16.
///
/// ```no_run
/// use persona_data::{NliFormat, open_nli};
///
/// let mut items = open_nli("snli_1.0_dev.jsonl", NliFormat::Snli)?;
/// let all = items.by_ref().collect::<Result<Vec<_>, _>>()?;
/// println!("{} pairs, {} without a label", all.len(), items.unlabelled());
/// # Ok::<(), persona_data::Error>(())
/// ```
pub fn open_nli(path: impl AsRef<Path>, format: NliFormat) -> Result<NliItems> {
    Ok(NliItems::new(Source::open(path.as_ref())?, format))
}

/// As [`open_nli`], from any source of bytes; `name` stands for the file's name.
///
/// # Errors
/// When the first bytes cannot be read or are UTF-16.
pub fn read_nli(bytes: impl BufRead + Send + 'static, name: &str, format: NliFormat) -> Result<NliItems> {
    Ok(NliItems::new(Source::new(bytes, name.to_owned())?, format))
}

/// A record of any of the formats. Ids are texts in some files and numbers in others.
#[derive(Deserialize)]
struct Record {
    gold_label: Option<String>,
    label: Option<String>,
    sentence1: String,
    sentence2: String,
    #[serde(rename = "pairID")]
    pair_id: Option<Id>,
    id: Option<Id>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

enum Records {
    Lines(Lines),
    Array(Elements),
}

/// The labelled pairs of one file; see [`open_nli`].
///
/// An item is called by the file's name and the record's own id, or its number where it has none. A pair whose label is
/// `-` (the annotators disagreed), null or missing (a test set without labels) is unlabelled.
pub struct NliItems {
    records: Records,
    format: NliFormat,
    name: String,
    stem: String,
    number: u64,
    unlabelled: u64,
}

impl NliItems {
    fn new(source: Source, format: NliFormat) -> Self {
        let (name, stem) = (source.name.clone(), source.stem());
        let records = match format {
            NliFormat::Dnli => Records::Array(Elements::new(source, format.expected())),
            _ => Records::Lines(Lines::new(source)),
        };
        Self { records, format, name, stem, number: 0, unlabelled: 0 }
    }

    /// How many pairs without a label were passed over so far.
    #[must_use]
    pub fn unlabelled(&self) -> u64 {
        self.unlabelled
    }

    /// Goes past what cannot be read, counting it.
    #[must_use]
    pub fn lenient(self) -> Lenient<Self> {
        Lenient::new(self)
    }

    fn next_record(&mut self) -> Option<Result<(Record, Place)>> {
        match &mut self.records {
            Records::Array(elements) => elements.next(),
            Records::Lines(lines) => loop {
                let parsed = match lines.next()? {
                    Ok(line) if line.trim().is_empty() => continue,
                    Ok(line) => serde_json::from_str(line),
                    Err(error) => return Some(Err(error)),
                };
                let (place, expected) = (lines.place(), self.format.expected());
                return Some(match parsed {
                    Ok(record) => Ok((record, place)),
                    Err(source) => Err(Error::Json { place, expected, source }),
                });
            },
        }
    }

    /// The item; nothing for a pair without a label.
    fn item(&self, record: Record, place: Place) -> Result<Option<NliItem>> {
        let label = match self.format {
            NliFormat::Snli | NliFormat::MultiNli => record.gold_label,
            NliFormat::Ocnli | NliFormat::Cmnli | NliFormat::Dnli => record.label,
        };
        let Some(label) = label.filter(|label| label != "-") else { return Ok(None) };
        let label: NliLabel =
            label.parse().map_err(|problem| Error::Malformed { place: place.clone(), problem })?;
        let (premise, hypothesis) = (record.sentence1, record.sentence2);
        for (key, text) in [("sentence1", &premise), ("sentence2", &hypothesis)] {
            if text.trim().is_empty() {
                let problem = format!("{key} is empty; remove the pair, there is nothing to judge");
                return Err(Error::Malformed { place, problem });
            }
        }
        let id = match record.pair_id.or(record.id) {
            Some(id) => format!("{}-{id}", self.stem),
            None => numbered(&self.stem, self.number),
        };
        Ok(Some(NliItem { id, premise, hypothesis, label }))
    }
}

impl Iterator for NliItems {
    type Item = Result<NliItem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(record) = self.next_record() else {
                // The number tells whether anything was there, and is not needed again.
                let empty = std::mem::replace(&mut self.number, 1) == 0;
                return empty.then(|| {
                    let place = Place { file: self.name.clone(), line: 1, record: None };
                    let problem =
                        "no pair in the file; is it the right one, and was it fetched whole?".to_owned();
                    Err(Error::Malformed { place, problem })
                });
            };
            self.number += 1;
            match record.and_then(|(record, place)| self.item(record, place)) {
                Ok(Some(item)) => return Some(Ok(item)),
                Ok(None) => self.unlabelled += 1,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
