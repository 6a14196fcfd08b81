//! Files of preference pairs: JSONL in the shapes that TRL reads.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};

use super::{Pair, PreferenceRecord};
use crate::error::{Error, Result};

/// Writes pairs as JSONL. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Io`]; what stood there before is then untouched.
pub fn write_pairs(path: &Path, pairs: &[Pair]) -> Result<()> {
    write(path, pairs)
}

/// Writes records as JSONL, each in its own shape. The file appears whole or not at all.
///
/// # Errors
/// As [`write_pairs`].
pub fn write_preferences(path: &Path, records: &[PreferenceRecord]) -> Result<()> {
    write(path, records)
}

fn write(path: &Path, pairs: &[impl Serialize]) -> Result<()> {
    let failed = |source| Error::Io { path: path.to_path_buf(), source };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = Path::new(&unfinished);
    let written = (|| {
        let mut file = std::io::BufWriter::new(File::create(unfinished)?);
        for pair in pairs {
            serde_json::to_writer(&mut file, pair)?;
            file.write_all(b"\n")?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(unfinished, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(unfinished);
    }
    written.map_err(failed)
}

/// Reads pairs from JSONL; other keys than the four are left aside, as TRL does.
///
/// # Errors
/// [`Error::Io`]; [`Error::Line`] with the line that is no pair, or no UTF-8, or has an empty prompt or chosen reply;
/// [`Error::NoPairs`] for a file without any.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    read(path, Pair::problem)
}

/// Reads preferences in any shape that TRL takes: `prompt`, `chosen` and `rejected` as texts, or as lists of messages; and
/// both without the prompt, which then is what chosen and rejected begin with. A line that differs from the others is
/// fine.
///
/// # Errors
/// As [`read_pairs`]; also for texts and lists of messages in one line, for chosen and rejected without a beginning in
/// common where there is no prompt, and for a message that holds more than a role and a text, such as `tool_calls`.
pub fn read_preferences(path: &Path) -> Result<Vec<PreferenceRecord>> {
    read(path, PreferenceRecord::problem)
}

/// What some editors write before UTF-8.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Lines of JSON, each with nothing to say against it.
fn read<T: DeserializeOwned>(path: &Path, problem: fn(&T) -> Option<String>) -> Result<Vec<T>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    let bytes = bytes.strip_prefix(UTF8_MARK).unwrap_or(&bytes);
    let mut records = Vec::new();
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record = serde_json::from_slice(line).and_then(|record: T| match problem(&record) {
            None => Ok(record),
            Some(problem) => Err(serde_json::Error::custom(problem)),
        });
        records.push(record.map_err(|source| Error::Line {
            path: path.to_path_buf(),
            line: at + 1,
            source,
        })?);
    }
    if records.is_empty() {
        return Err(Error::NoPairs { path: path.to_path_buf() });
    }
    Ok(records)
}

impl Pair {
    fn problem(&self) -> Option<String> {
        let empty = [("prompt", &self.prompt), ("chosen", &self.chosen)].into_iter();
        empty.filter(|(_, text)| text.trim().is_empty()).map(|(name, _)| format!("`{name}` is empty")).next()
    }
}

impl PreferenceRecord {
    fn problem(&self) -> Option<String> {
        match self {
            Self::Text(pair) => pair.problem(),
            Self::Conversation(pair) => pair.problem().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_pairs_and_with_broken_lines_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_pairs(&path).unwrap_err().to_string()
        };
        assert!(read(b"\n").contains("pairs.jsonl"));
        let good = br#"{"prompt": "p", "chosen": "c", "rejected": ""}"#;
        assert!(read(&[good, &b"\n{\"prompt\": \"\xff\"}"[..]].concat()).contains("pairs.jsonl:2"));
        let empty = br#"{"prompt": " ", "chosen": "c", "rejected": "r"}"#;
        assert!(read(&[&good[..], &b"\n\n"[..], &empty[..]].concat()).contains(":3: `prompt` is empty"));
    }

    #[test]
    fn files_round_trip_and_bad_lines_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let pair = Pair {
            id: String::new(),
            prompt: "p \"q\"\n".into(),
            chosen: " a".into(),
            rejected: " ü".into(),
        };
        write_pairs(&path, std::slice::from_ref(&pair)).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("\"id\""));
        assert_eq!(read_pairs(&path).unwrap(), [pair]);
        std::fs::write(
            &path,
            "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\",\"score\":1}\n\n{\"prompt\":1}\n",
        )
        .unwrap();
        let error = read_pairs(&path).unwrap_err().to_string();
        assert!(error.contains("pairs.jsonl:3:"), "{error}");
        let text = "\u{feff}{\"id\": 7, \"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n";
        std::fs::write(&path, text).unwrap();
        let [pair] = &read_pairs(&path).unwrap()[..] else { panic!("one pair") };
        assert_eq!(pair.id, "7", "after a byte order mark, and a number");
        assert_eq!(read_preferences(&path).unwrap(), [PreferenceRecord::Text(pair.clone())]);
        assert!(write_pairs(&folder.path().join("no/such/place.jsonl"), &[]).is_err());
    }
}
