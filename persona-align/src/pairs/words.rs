//! How alike two replies are.

use std::collections::HashMap;

/// Words without regard to case; text without spaces counts by character.
pub(super) fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() > 1 || text.is_ascii() {
        return words.into_iter().map(str::to_owned).collect();
    }
    text.trim().chars().map(String::from).collect()
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
