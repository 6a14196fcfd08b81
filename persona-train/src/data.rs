//! What a run's examples are known by, and which of them has changed.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::hex;
use crate::error::Result;
use crate::objective::Objective;

/// The training or the validation examples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) examples: usize,
    /// SHA-256 of all that is trained on.
    pub(crate) sha256: String,
}

/// Both parts, and a line for every example: the part, the beginning of the example's SHA-256, and its id.
pub(crate) fn describe<O: Objective>(
    objective: &O,
    train: &[O::Item],
    valid: &[O::Item],
) -> ([Part; 2], String) {
    let mut lines = String::new();
    let parts = [("training", train), ("validation", valid)].map(|(part, items)| {
        let mut all = Sha256::new();
        for item in items {
            let mut hash = Sha256::new();
            objective.digest(item, &mut |bytes| hash.update(bytes));
            let hash = hash.finalize();
            all.update(hash);
            let id = objective.id(item).replace(char::is_control, " ");
            let _ = writeln!(lines, "{part} {} {id}", hex(&hash[..8]));
        }
        Part { examples: items.len(), sha256: hex(&all.finalize()) }
    });
    (parts, lines)
}

/// Keeps the lines of a run in a file.
pub(crate) fn keep(path: &Path, lines: &str) -> Result<()> {
    Ok(persona_model::write_atomically(path, lines.as_bytes())?)
}

/// Which example of a part is the first that differs from those that were kept: words for a message, none where the file
/// is gone.
pub(crate) fn first_other(path: &Path, now: &str, part: &str) -> String {
    let Ok(held) = std::fs::read_to_string(path) else { return String::new() };
    let of = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.strip_prefix(part)?.trim_start().to_owned())).collect()
    };
    let (held, now) = (of(&held), of(now));
    let hash = |line: &str| line.split(' ').next().map(str::to_owned);
    let at = (0..held.len().max(now.len()))
        .find(|&at| held.get(at).and_then(|line| hash(line)) != now.get(at).and_then(|line| hash(line)));
    let Some(at) = at else { return String::new() };
    let id = |lines: &[String]| {
        lines
            .get(at)
            .and_then(|line| line.split_once(' '))
            .map_or("none".to_owned(), |(_, id)| format!("`{id}`"))
    };
    format!("; the first that differs is number {}: {} then, {} now", at + 1, id(&held), id(&now))
}
