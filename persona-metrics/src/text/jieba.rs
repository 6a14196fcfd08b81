//! The words of Chinese text by Python's jieba 0.42.1, on the dictionary and the hidden Markov model of jieba-rs 0.11.
//!
//! jieba-rs is a later jieba in three points, which are taken back here: it segments blocks of more characters (all of the
//! Unicode blocks of Han, where Python's expression ends at U+9FD5), it keeps `1.2.3` and `a-b` whole where the
//! dictionary does not know them, and it has an entry of Python's dictionary once that stands there twice, which changes
//! the total of the frequencies.

use std::sync::LazyLock;

use jieba_rs::Jieba;

static JIEBA: LazyLock<Jieba> = LazyLock::new(|| {
    let mut jieba = Jieba::new();
    // Python adds up the frequencies of all lines. No block holds a line feed, so this is no word, only a frequency.
    jieba.add_word("\n", Some(DOUBLED_FREQUENCY), None);
    jieba
});

/// Frequency of the entry that Python's `dict.txt` has twice.
const DOUBLED_FREQUENCY: usize = 3;

/// Python's `re_han_default`.
fn is_segmented(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '\u{4e00}'..='\u{9fd5}' | '+' | '#' | '&' | '.' | '_' | '%' | '-')
}

/// `jieba.cut(text, HMM=hmm)`: the words in order, white space and punctuation among them; together they are the text.
pub(crate) fn cut(text: &str, hmm: bool, mut word: impl FnMut(&str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let block_end = rest.find(|c| !is_segmented(c)).unwrap_or(rest.len());
        let (block, after) = rest.split_at_checked(block_end).unwrap_or((rest, ""));
        if !block.is_empty() {
            for token in JIEBA.cut(block, hmm) {
                let token = token.word;
                if hmm && joins_runs(token) {
                    split_runs(token, &mut word);
                } else {
                    word(token);
                }
            }
        }
        let width =
            if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        let (single, after) = after.split_at_checked(width).unwrap_or((after, ""));
        if !single.is_empty() {
            word(single);
        }
        rest = after;
    }
}

/// `" ".join(jieba.cut(text, HMM=hmm))`, where white space of the text is a word too.
pub(crate) fn cut_joined(text: &str, hmm: bool, out: &mut String) {
    let mut first = true;
    cut(text, hmm, |word| {
        if !first {
            out.push(' ');
        }
        first = false;
        out.push_str(word);
    });
}

/// Chinese text as words with spaces between them: `" ".join(jieba.cut(text))` of Python's jieba 0.42 in its default mode.
/// For the metrics that want segmented input, such as `Rouge::chinese`; others take `PreTokenization::Jieba`.
///
/// ```
/// assert_eq!(persona_metrics::jieba_words("我喜欢养花。"), "我 喜欢 养花 。");
/// ```
pub fn jieba_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + text.len() / 4);
    cut_joined(text, true, &mut words);
    words
}

/// Whether jieba-rs may have joined the word from runs that Python leaves apart. No entry of the dictionary has these
/// characters.
fn joins_runs(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.contains(['.', '_', '-'])
}

/// Python's `re_skip`, `[a-zA-Z0-9]+(?:\.\d+)?%?`, and what is between its matches.
fn split_runs(word: &str, each: &mut impl FnMut(&str)) {
    let count = |text: &str, is_in: fn(&u8) -> bool| text.bytes().take_while(is_in).count();
    let mut rest = word;
    while !rest.is_empty() {
        let mut end = count(rest, u8::is_ascii_alphanumeric);
        if end == 0 {
            end = count(rest, |byte| !byte.is_ascii_alphanumeric());
        } else {
            let after = rest.get(end..).unwrap_or_default();
            let decimals = after.strip_prefix('.').map_or(0, |after| count(after, u8::is_ascii_digit));
            if decimals > 0 {
                end += 1 + decimals;
            }
            if rest.get(end..).is_some_and(|after| after.starts_with('%')) {
                end += 1;
            }
        }
        let (part, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        each(part);
        rest = after;
    }
}

/// Checks `jieba_tokens.json`: texts and their words with the hidden Markov model and without.
#[cfg(test)]
pub(crate) fn fixture(text: &str) -> usize {
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        cut: Vec<String>,
        cut_no_hmm: Vec<String>,
    }
    #[derive(serde::Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    let Cases { cases } = serde_json::from_str(text).unwrap();
    for case in &cases {
        for (hmm, expected) in [(true, &case.cut), (false, &case.cut_no_hmm)] {
            let mut words = Vec::new();
            cut(&case.text, hmm, |word| words.push(word.to_owned()));
            assert_eq!(&words, expected, "{:?}, hmm {hmm}", case.text);
        }
    }
    cases.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str, hmm: bool) -> String {
        let mut out = String::new();
        cut_joined(text, hmm, &mut out);
        out
    }

    #[test]
    fn fixture_words() {
        crate::text::fixtures::check("jieba_tokens.json", fixture);
    }

    /// `" ".join(jieba.cut(text))` of Python's jieba 0.42.1.
    #[test]
    fn where_the_two_jiebas_differ() {
        assert_eq!(joined("版本1.2.3和a-b_c", true), "版本 1.2 . 3 和 a - b _ c");
        assert_eq!(joined("3.5%的人", true), "3.5% 的 人");
        assert_eq!(joined("\u{9fd6}\u{3400}\u{20000}好", true), "\u{9fd6} \u{3400} \u{20000} 好");
        assert_eq!(joined("a b\r\n\r好", true), "a   b \r\n \r 好");
    }
}
