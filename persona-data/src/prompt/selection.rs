//! A model's free-text selection, matched back to the persona it was made from.

use serde::{Deserialize, Serialize};

/// What [`crate::PromptSet::match_selection`] made of a generated selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selection {
    /// The chosen description's index, `None` where none applies or nothing matched.
    pub choice: Option<usize>,
    /// What the choice rests on.
    pub how: MatchedBy,
}

/// What a [`Selection`] rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MatchedBy {
    /// The number before the text.
    Number,
    /// The text of one description, but for case, punctuation and spacing.
    Text,
    /// More words in common than with any other description, and at least [`OVERLAP_BOUND`].
    Overlap,
    /// The phrase for "none".
    NonePhrase,
    /// Nothing: the text names no description and is not the phrase for "none" either.
    Nothing,
}

/// The least word overlap (F1 of the two sets of words, from 0 to 1) that counts as a match.
pub const OVERLAP_BOUND: f64 = 0.5;

pub(super) fn match_selection(generated: &str, persona: &[String], none_phrase: &str) -> Selection {
    let line = generated.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let found = |choice, how| Selection { choice: Some(choice), how };
    let none = Selection { choice: None, how: MatchedBy::NonePhrase };

    let (number, text) = split_number(line);
    if let Some(number) = number.filter(|&number| number < persona.len()) {
        return found(number, MatchedBy::Number);
    }
    let plain = normalise(text);
    if !plain.is_empty() {
        if let Some(index) = persona.iter().position(|description| normalise(description) == plain) {
            return found(index, MatchedBy::Text);
        }
        if normalise(none_phrase) == plain {
            return none;
        }
    }
    let mut best = None;
    for (index, description) in persona.iter().enumerate() {
        let overlap = word_overlap(text, description);
        if overlap >= OVERLAP_BOUND && best.is_none_or(|(_, most)| overlap > most) {
            best = Some((index, overlap));
        }
    }
    match best {
        Some((index, _)) => found(index, MatchedBy::Overlap),
        None if words(text).starts_with(&words(none_phrase)) => none,
        None => Selection { choice: None, how: MatchedBy::Nothing },
    }
}

/// The 0-based number that the text starts with, and what follows it. A number counts where a stop, a bracket, a colon
/// or the end of the text comes after it; "2.5" and "32 years" hold none.
fn split_number(line: &str) -> (Option<usize>, &str) {
    let digits: String = line.chars().map(narrow).take_while(char::is_ascii_digit).collect();
    let mut rest = line.chars();
    for _ in 0..digits.len() {
        rest.next();
    }
    let Some(number) = digits.parse::<usize>().ok().and_then(|number| number.checked_sub(1)) else {
        return (None, line);
    };
    let after = rest.as_str().trim_start();
    let mut stop = after.chars();
    match stop.next().map(narrow) {
        None => (Some(number), after),
        Some('.' | ')' | ':' | '。' | '、')
            if !stop.as_str().starts_with(|c: char| narrow(c).is_ascii_digit()) =>
        {
            (Some(number), stop.as_str())
        }
        Some(_) => (None, line),
    }
}

/// A full-width form as its ASCII character.
fn narrow(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        other => other,
    }
}

/// Lower-case letters and digits, nothing else.
fn normalise(text: &str) -> String {
    text.chars().map(narrow).filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The words of a text, lower-case, in order: runs of letters and digits; every Han or kana character is a word.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars().map(narrow) {
        let alone = matches!(c, '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}');
        if alone || !c.is_alphanumeric() {
            words.push(std::mem::take(&mut word));
        }
        if alone {
            words.push(c.to_string());
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn word_overlap(a: &str, b: &str) -> f64 {
    let set = |text| {
        let mut words = words(text);
        words.sort_unstable();
        words.dedup();
        words
    };
    let (a, b) = (set(a), set(b));
    let common = a.iter().filter(|word| b.binary_search(word).is_ok()).count();
    if common == 0 { 0.0 } else { 2.0 * common as f64 / (a.len() + b.len()) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(generated: &str) -> (Option<usize>, MatchedBy) {
        let persona: Vec<String> =
            ["I have a turtle.", "I love to cook.", "I am 32.", "2 dogs live with me."]
                .map(str::to_owned)
                .to_vec();
        let selection = match_selection(generated, &persona, "No personal description.");
        (selection.choice, selection.how)
    }

    #[test]
    fn the_phrase_for_none_alone_or_before_other_words() {
        for text in [
            "No personal description.",
            " no personal description",
            "NO PERSONAL DESCRIPTION!\nperson1: hi",
            "No personal description applies here.",
            "9. No personal description.",
        ] {
            assert_eq!(matched(text), (None, MatchedBy::NonePhrase), "{text}");
        }
        assert_eq!(matched("No personal descriptions apply."), (None, MatchedBy::Nothing));
        assert_eq!(matched("No personal description but: I have a turtle"), (Some(0), MatchedBy::Overlap));
    }

    #[test]
    fn a_description_may_begin_like_the_phrase_for_none() {
        let persona: Vec<String> =
            ["None of my dogs bark.", "None at all", "Nonetheless."].map(str::to_owned).to_vec();
        let matched = |text| match_selection(text, &persona, "None");
        let found = |choice, how| Selection { choice: Some(choice), how };
        assert_eq!(matched("None of my dogs bark"), found(0, MatchedBy::Text));
        assert_eq!(matched("none of my dogs ever bark"), found(0, MatchedBy::Overlap));
        assert_eq!(matched("2. None"), found(1, MatchedBy::Number));
        assert_eq!(matched("nonetheless"), found(2, MatchedBy::Text));
        let none = Selection { choice: None, how: MatchedBy::NonePhrase };
        // "None at all" has half its words in common with "None", which is the phrase to the letter.
        assert_eq!(matched("None."), none);
        assert_eq!(matched("None, it is about the weather"), none);
        assert_eq!(matched("Nonesuch"), Selection { how: MatchedBy::Nothing, ..none });
    }

    #[test]
    fn a_number_with_its_text_or_alone() {
        for text in [
            "2. I love to cook.",
            "2.i love to cook",
            "2",
            "2.",
            " 2) cooking",
            "２．I love to cook",
            "2。x",
            "2: y",
            // The text of another description does not count against the number.
            "2. I have a turtle.",
        ] {
            assert_eq!(matched(text), (Some(1), MatchedBy::Number), "{text}");
        }
    }

    #[test]
    fn text_counts_where_no_description_has_the_number() {
        assert_eq!(matched("9. i have a turtle"), (Some(0), MatchedBy::Text));
        assert_eq!(matched("I LOVE to cook"), (Some(1), MatchedBy::Text));
        // The number is part of the description here, not its place in the list.
        assert_eq!(matched("2 dogs live with me"), (Some(3), MatchedBy::Text));
    }

    #[test]
    fn overlap_and_its_bound() {
        assert_eq!(matched("I have a big turtle"), (Some(0), MatchedBy::Overlap));
        assert_eq!(matched("0. I have a turtle and cats"), (Some(0), MatchedBy::Overlap));
        // 1 word in common of 4 + 4: F1 is 0.25.
        assert_eq!(matched("I see it now"), (None, MatchedBy::Nothing));
        for text in ["", "\n \n", "...", "7", "99999999999999999999999. x", "2.5"] {
            assert_eq!(matched(text), (None, MatchedBy::Nothing), "{text}");
        }
    }

    #[test]
    fn chinese_and_an_empty_persona() {
        let persona: Vec<String> = ["我喜欢做饭。", "我有一只乌龟。"].map(str::to_owned).to_vec();
        let selected = |text| match_selection(text, &persona, "没有相关的个人描述。");
        assert_eq!(selected("2。我有一只乌龟。"), Selection { choice: Some(1), how: MatchedBy::Number });
        assert_eq!(selected("我有只乌龟"), Selection { choice: Some(1), how: MatchedBy::Overlap });
        assert_eq!(selected("没有相关的个人描述"), Selection { choice: None, how: MatchedBy::NonePhrase });
        assert_eq!(match_selection("1. x", &[], "none"), Selection { choice: None, how: MatchedBy::Nothing });
    }
}
