//! Personas to talk to: some that ship, and those that a user writes.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The shipped personas; a user calls them by their number, from 1.
pub const PERSONAS: [&[&str]; 6] = [
    &[
        "I have two dogs.",
        "I work at a bakery.",
        "I like to hike on weekends.",
        "My favorite color is green.",
    ],
    &[
        "I am a retired teacher.",
        "I have three grandchildren.",
        "I grow tomatoes in my garden.",
        "I drink a lot of tea.",
    ],
    &[
        "I play the guitar in a band.",
        "I am a vegetarian.",
        "I live in a small town.",
        "I am afraid of flying.",
    ],
    &[
        "I am studying to be a nurse.",
        "I have a twin sister.",
        "I love scary movies.",
        "I run every morning.",
    ],
    &[
        "I drive a truck for a living.",
        "I collect old coins.",
        "I am divorced.",
        "My favorite food is pizza.",
    ],
    &[
        "I am a software engineer.",
        "I moved here from Canada.",
        "I have a cat named Milo.",
        "I am learning to cook.",
    ],
];

/// Between descriptions that are given in one line.
const BETWEEN: char = '|';

/// The persona that a user names: the number of a shipped one, a file with one description a line, or the descriptions
/// themselves with `|` between them.
///
/// # Errors
/// A number that no shipped persona has; a file that is not there, cannot be read, or holds nothing; no description.
pub fn given_persona(given: &str) -> Result<Vec<String>> {
    let given = given.trim();
    if let Ok(number) = given.parse::<usize>() {
        let found = number.checked_sub(1).and_then(|at| PERSONAS.get(at));
        let found = found.with_context(|| {
            format!("there is no persona {number}; the numbers go from 1 to {}", PERSONAS.len())
        })?;
        return Ok(found.iter().map(|text| (*text).to_owned()).collect());
    }
    let path = Path::new(given);
    if path.is_file() {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {given}"))?;
        let persona = descriptions(text.trim_start_matches('\u{feff}').lines());
        ensure!(!persona.is_empty(), "{given} holds no description; write one a line");
        return Ok(persona);
    }
    let one_word = !given.contains(|c: char| c.is_whitespace() || c == BETWEEN);
    ensure!(
        !one_word || given.is_empty(),
        "{given:?} is no file, and one word is no description; write sentences with {BETWEEN} between them, such as \
         \"I ski. {BETWEEN} I have a dog.\""
    );
    let persona = descriptions(given.split(BETWEEN));
    ensure!(!persona.is_empty(), "no description is given; write sentences with {BETWEEN} between them");
    Ok(persona)
}

fn descriptions<'t>(parts: impl Iterator<Item = &'t str>) -> Vec<String> {
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_files_and_sentences() {
        assert_eq!(given_persona(" 1 ").unwrap()[0], "I have two dogs.");
        assert_eq!(given_persona("I ski. | I read.|").unwrap(), ["I ski.", "I read."]);
        assert_eq!(given_persona("I ski.").unwrap(), ["I ski."]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.txt");
        std::fs::write(&path, "\u{feff}I ski.\r\n\n I have a dog. \n").unwrap();
        assert_eq!(given_persona(&path.display().to_string()).unwrap(), ["I ski.", "I have a dog."]);
        std::fs::write(&path, " \n").unwrap();
        let message = |given: &str| given_persona(given).unwrap_err().to_string();
        assert!(message(&path.display().to_string()).contains("holds no description"));
        for number in ["0", "7", "99999999999999999999999"] {
            assert!(!message(number).is_empty());
        }
        assert!(message("7").contains("1 to 6"));
        assert!(message("nowhere.txt").contains("no file"));
        assert!(message(" | ").contains("no description") && message("").contains("no description"));
    }
}
