//! The formats by name, and how a file shows which one it is.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::source::{Source, read_error};
use crate::error::{Error, Place, Result};

/// The formats that [`open`](crate::open) reads. Each has a name for recipes and command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Format {
    /// `parlai`: PERSONA-CHAT and ConvAI2 as ParlAI writes them. Numbered lines, the number 1 beginning a dialogue: persona
    /// lines (of the answering speaker, of the other, of both or of none), then utterance and response with a tab between,
    /// then perhaps candidates after an empty column, with bars between them.
    Parlai,
    /// `spc-csv`: Synthetic-Persona-Chat's tables. Cells may hold line breaks: one description or one turn a line.
    SpcCsv,
    /// `spc-jsonl`: the same as `{"id", "user_1_personas", "user_2_personas", "utterances": [[1, "text"], ...]}`.
    SpcJsonl,
    /// `xpersona`: one array of `{"persona", "dialogue": [[utterance, response], ...]}`.
    Xpersona,
    /// `pal`: one array of `[persona, history, response, labels]`, joined back to dialogues. [`PalRecords`](crate::PalRecords)
    /// reads the records as they are.
    Pal,
    /// `derived`: one `{"id", "persona", "turns": [[utterance, response], ...], "labels"}` a line.
    Derived,
    /// `jsonl`: one [`Dialogue`](crate::Dialogue) a line, as [`write_jsonl`](crate::write_jsonl) writes it.
    Jsonl,
}

const NAMES: [(&str, Format); 7] = [
    ("parlai", Format::Parlai),
    ("spc-csv", Format::SpcCsv),
    ("spc-jsonl", Format::SpcJsonl),
    ("xpersona", Format::Xpersona),
    ("pal", Format::Pal),
    ("derived", Format::Derived),
    ("jsonl", Format::Jsonl),
];

/// How much of a file is looked at.
const HEAD: u64 = 1 << 16;

impl Format {
    /// The format a file looks to have by its first 64 KiB of (decompressed) text; its name plays no part.
    ///
    /// # Errors
    /// When the file cannot be read, is UTF-16, is empty, or looks like none of the formats.
    pub fn detect(path: impl AsRef<Path>) -> Result<Self> {
        let mut source = Source::open(path.as_ref())?;
        let mut head = Vec::new();
        let outcome = source.bytes.by_ref().take(HEAD).read_to_end(&mut head);
        let file = source.name;
        outcome.map_err(|e| read_error(e, Place { file: file.clone(), line: 1, record: None }))?;
        // Where the head ends within a character, or the text is broken, the loader will tell.
        let head = String::from_utf8_lossy(&head);
        if head.trim().is_empty() {
            return Err(Error::Empty { file });
        }
        by_head(head.trim_start()).ok_or(Error::UndetectedFormat { file })
    }

    /// All names, for messages.
    pub(crate) fn names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }

    fn name(self) -> &'static str {
        NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }
}

fn by_head(head: &str) -> Option<Format> {
    let line = head.lines().next().unwrap_or_default();
    let has = |key: &str| line.contains(&format!("\"{key}\""));
    match head.chars().next()? {
        '[' => match head.trim_start_matches(|c: char| c.is_whitespace() || c == '[').chars().next()? {
            '{' => Some(Format::Xpersona),
            '"' => Some(Format::Pal),
            _ => None,
        },
        '{' if has("user_1_personas") || has("utterances") => Some(Format::SpcJsonl),
        '{' if has("personas") => Some(Format::Jsonl),
        '{' if has("persona") => Some(Format::Derived),
        first if first.is_ascii_digit() => Some(Format::Parlai),
        _ if line.to_lowercase().contains("user 1 personas") => Some(Format::SpcCsv),
        _ => None,
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, format)| *format).ok_or_else(|| Error::UnknownFormat { name: name.to_owned() })
    }
}

impl TryFrom<String> for Format {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (name, format) in NAMES {
            assert_eq!(name.parse::<Format>().unwrap(), format);
            assert_eq!(format.to_string(), name);
            assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{name}\""));
        }
        let message = "csv".parse::<Format>().unwrap_err().to_string();
        assert!(message.contains("\"csv\"") && message.contains("spc-csv, spc-jsonl"), "{message}");
    }

    #[test]
    fn heads_show_the_format() {
        for (head, want) in [
            ("1 your persona: i sail.\n", Some(Format::Parlai)),
            ("user 1 personas,user 2 personas,Best Generated Conversation\r\n", Some(Format::SpcCsv)),
            (r#"{"id": "a", "user_1_personas": []"#, Some(Format::SpcJsonl)),
            (r#"[{"persona": []"#, Some(Format::Xpersona)),
            (r#"[ [ ["i sail ."], ["#, Some(Format::Pal)),
            (r#"{"id": "a", "persona": ["#, Some(Format::Derived)),
            (r#"{"id": "a", "personas": [["#, Some(Format::Jsonl)),
            ("id,text\n", None),
            ("[1, 2]", None),
            ("{}", None),
        ] {
            assert_eq!(by_head(head), want, "{head}");
        }
    }
}
