//! How alike two replies are.

use std::collections::HashMap;

/// Words between spaces, without regard to case. A Han or kana character and a full-width mark is a word of its own:
/// Chinese and Japanese have no spaces between words.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for part in text.to_lowercase().split_whitespace() {
        let mut word = String::new();
        for c in part.chars() {
            if is_east_asian(c) {
                words.extend([std::mem::take(&mut word), c.to_string()]);
            } else {
                word.push(c);
            }
        }
        words.push(word);
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_east_asian(c: char) -> bool {
    matches!(c,
        '\u{3001}'..='\u{30ff}' // punctuation, hiragana, katakana
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff01}'..='\u{ffef}' // full-width and half-width forms
        | '\u{20000}'..='\u{3134f}'
    )
}

/// Twice the shared words over all words, each counted as often as it stands.
pub(super) fn dice(a: &[String], b: &[String]) -> f64 {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in a {
        *counts.entry(word).or_default() += 1;
    }
    let mut shared = 0;
    for word in b {
        if let Some(count) = counts.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    2.0 * shared as f64 / (a.len() + b.len()).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_languages_without_spaces_are_characters() {
        assert_eq!(words("I like Dogs ."), ["i", "like", "dogs", "."]);
        assert_eq!(words("我有2只iPad。"), ["我", "有", "2", "只", "ipad", "。"]);
        assert_eq!(words(" \u{3000}"), [""; 0]);
        let apart = words("我很好 。和我的两只狗一起放松。");
        assert!((dice(&apart, &words("我很好。和我的两只狗一起放松。")) - 1.0).abs() < 1e-12);
    }
}
