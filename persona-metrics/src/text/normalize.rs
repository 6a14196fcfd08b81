//! How ParlAI, rouge_score and py-rouge take a text apart into words.

use std::borrow::Cow;

use super::porter::{Rules, stem_last};
use super::python::{is_python_space, is_python_word, push_token};

/// ParlAI 1.7.2's `normalize_answer`: lower case, ASCII punctuation made spaces, `a`, `an` and `the` left out, white space
/// made single spaces.
///
/// An article stands between characters that are not [`is_python_word`], so a letter with a combining mark after it is
/// not one word: `a` and U+0301 lose the `a`.
pub(crate) fn normalize_answer(text: &str, out: &mut String) {
    let lowered = if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(text.to_lowercase()) };
    let is_separator = |c: char| c.is_ascii_punctuation() || is_python_space(c);
    for token in lowered.split(is_separator).filter(|token| !token.is_empty()) {
        if token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            push_lower((!is_article(token)).then_some(token), out);
            continue;
        }
        let (mut start, mut word_start, mut in_word) = (0, 0, false);
        let characters = token.char_indices().map(|(at, c)| (at, is_python_word(c)));
        for (at, word) in characters.chain([(token.len(), false)]) {
            if in_word && !word && token.get(word_start..at).is_some_and(is_article) {
                push_lower(token.get(start..word_start), out);
                start = at;
            } else if word && !in_word {
                word_start = at;
            }
            in_word = word;
        }
        push_lower(token.get(start..), out);
    }
}

fn push_lower(token: Option<&str>, out: &mut String) {
    let token = token.unwrap_or_default();
    push_token(token, out);
    lower_last(out, token.len());
}

fn is_article(word: &str) -> bool {
    ["a", "an", "the"].iter().any(|article| word.eq_ignore_ascii_case(article))
}

/// Lower-cases the ASCII letters among the last bytes of a text.
fn lower_last(text: &mut str, bytes: usize) {
    let start = text.len() - bytes;
    if let Some(last) = text.get_mut(start..) {
        last.make_ascii_lowercase();
    }
}

/// The runs of ASCII letters and digits of the lower-cased text, each handed to `finish` with the text so far and the
/// byte where the run starts. What `finish` leaves empty is no token.
///
/// Two characters beyond ASCII have an ASCII letter in lower case: U+0130 becomes `i` and U+0307, U+212A becomes `k`.
fn alphanumeric_runs(text: &str, out: &mut String, mut finish: impl FnMut(&mut String, usize)) {
    // The byte where a run starts that is not finished, behind its separator.
    let mut open: Option<usize> = None;
    for c in text.chars().chain([' ']) {
        let letter = match c {
            'a'..='z' | '0'..='9' => Some(c),
            'A'..='Z' => Some(c.to_ascii_lowercase()),
            '\u{212a}' => Some('k'),
            '\u{130}' => Some('i'),
            _ => None,
        };
        if let Some(letter) = letter {
            if open.is_none() {
                if !out.is_empty() {
                    out.push(' ');
                }
                open = Some(out.len());
            }
            out.push(letter);
        }
        if (letter.is_none() || c == '\u{130}')
            && let Some(start) = open.take()
        {
            finish(out, start);
            if out.len() == start {
                out.truncate(start.saturating_sub(1));
            }
        }
    }
}

/// rouge_score 0.1.2's tokens: runs of ASCII letters and digits in lower case; with `stemming` those of more than three
/// letters are stemmed by [`Rules::Nltk`]. Text in other scripts has no tokens.
pub(crate) fn rouge_tokens(text: &str, stemming: bool, out: &mut String) {
    alphanumeric_runs(text, out, |out, start| {
        if stemming && out.len() - start > 3 {
            stem_last(out, start, Rules::Nltk);
        }
    });
}

/// How [`py_rouge_tokens`] stems: puts the stem of the word that starts at the byte and goes to the end in its place.
pub(crate) type StemLast<'s> = &'s dyn Fn(&mut String, usize);

/// The tokens of one sentence in py-rouge 1.1, whose sentences are the lines of a text.
///
/// Runs of ASCII letters and digits in lower case, of which NLTK's word tokenizer takes five apart (`gonna` is `gon na`).
/// It would also do so with `cannot`, which the package keeps whole by writing `_cannot_` wherever the letters occur. With
/// stemming this is what `stem` sees. It is called for tokens of more than three letters.
pub(crate) fn py_rouge_tokens(sentence: &str, stem: Option<StemLast<'_>>, out: &mut String) {
    alphanumeric_runs(sentence, out, |out, start| {
        let Some(word) = out.get(start..) else { return };
        let parts = match word {
            "gimme" => "gim me",
            "gonna" => "gon na",
            "gotta" => "got ta",
            "lemme" => "lem me",
            "wanna" => "wan na",
            _ => {
                if let Some(stem) = stem.filter(|_| word.len() > 3) {
                    replace_last(out, start, "cannot", "_cannot_");
                    stem(out, start);
                    replace_last(out, start, "_cannot_", "cannot");
                }
                return;
            }
        };
        out.truncate(start);
        out.push_str(parts);
    });
}

/// Replaces a string wherever it occurs from the byte `start` on.
fn replace_last(text: &mut String, start: usize, from: &str, to: &str) {
    let Some(last) = text.get(start..).filter(|last| last.contains(from)) else { return };
    let replaced = last.replace(from, to);
    text.truncate(start);
    text.push_str(&replaced);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tokenize: impl Fn(&str, &mut String), text: &str) -> String {
        let mut out = String::new();
        tokenize(text, &mut out);
        out
    }

    #[test]
    fn answers() {
        assert_eq!(of(normalize_answer, "The cat's_a  DOG, an O'Neil!"), "cat s dog o neil");
        assert_eq!(of(normalize_answer, "Athena ana a1 an\u{a0}the"), "athena ana a1");
        // The mark of a decomposed letter, an en dash and a control character end a word; an accented letter does not.
        assert_eq!(of(normalize_answer, "a\u{301} x–the–y añ the\u{200b}an"), "\u{301} x– –y añ \u{200b}");
        assert_eq!(of(normalize_answer, "a\u{7}The"), "\u{7}");
        assert_eq!(of(normalize_answer, "ΟΔΟΣ İ"), "οδος i\u{307}");
    }

    #[test]
    fn words_of_rouge_score() {
        let plain = |text: &str, out: &mut String| rouge_tokens(text, false, out);
        let stemmed = |text: &str, out: &mut String| rouge_tokens(text, true, out);
        assert_eq!(of(plain, "The naïve Cats' (2nd) 100\u{212a}m İX; 中文"), "the na ve cats 2nd 100km i x");
        assert_eq!(of(stemmed, "Was running, ponies and flies die"), "was run poni and fli die");
        assert_eq!(of(plain, "中文…"), "");
    }

    #[test]
    fn every_letter_whose_lower_case_is_ascii() {
        let others: Vec<char> = (0x80..=0x10_ffff)
            .filter_map(char::from_u32)
            .filter(|c| c.to_lowercase().any(|lower| lower.is_ascii_alphanumeric()))
            .collect();
        assert_eq!(others, ['\u{130}', '\u{212a}']);
    }

    #[test]
    fn words_of_py_rouge() {
        let plain = |text: &str, out: &mut String| py_rouge_tokens(text, None, out);
        assert_eq!(of(plain, "I cannot, gonna WANNA gimmes!"), "i cannot gon na wan na gimmes");
        let stem: StemLast<'_> = &|out, start| stem_last(out, start, Rules::Original);
        let stemmed = |text: &str, out: &mut String| py_rouge_tokens(text, Some(stem), out);
        // `_cannot_ion` keeps its suffix: the letter before it is `_`, not `t`.
        assert_eq!(of(stemmed, "cannots cannotion adoption wanna his"), "cannot cannotion adopt wan na his");
    }
}
