//! The tokenizers `13a` and `intl` of sacrebleu 2.6.0 (NIST's mteval-v13a and the international part of mteval-v14).
//!
//! The package applies three or four substitutions to the whole text, one after the other. What they do together is
//! decided by the neighbours of a character, so here the text is read once. The substitutions
//!
//! ```text
//! ([^0-9])([.,]) -> "\1 \2 "        ([.,])([^0-9]) -> " \1 \2"
//! ```
//!
//! consume characters in pairs. In a run of k marks (`.` and `,`) every mark is a token, except that the last one can be
//! left over: when k is odd after a digit, and when k is even after anything else. A mark that is left over stays joined
//! to a digit after it, and, if it is alone in its run, to the digit before it. The edge of the text counts as anything
//! else for `13a`, which pads the text with spaces, and as a digit for the others.

use std::borrow::Cow;

use super::python::{Group, group, is_python_space, push_token, trim_end};

/// What a character does to the tokens around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Belongs to the token around it.
    Other,
    /// As Other, and keeps marks beside it.
    Number,
    /// A token unless it is between numbers.
    Mark,
    /// A token if it stands after a number, else as Other.
    Dash,
    /// A token of its own.
    Alone,
    /// Between tokens.
    Space,
}

/// What tells one tokenizer of this family from another.
pub(super) trait Classes {
    const ASCII: &[Kind; 128];
    /// Whether the text is put between two spaces before it is tokenized.
    const PADDED: bool;
    fn beyond_ascii(c: char) -> Kind;
}

/// The kinds of ASCII characters that mteval-v13a and sacrebleu's `zh` share.
pub(super) const WESTERN_ASCII: &[Kind; 128] = &ascii_kinds(b".,", b"!\"#$%&()*+/:;<=>?@[\\]^_`{|}~", b"-");

/// Kinds by lists of characters; digits are numbers and Python's white space is space.
const fn ascii_kinds(marks: &[u8], alone: &[u8], dashes: &[u8]) -> [Kind; 128] {
    let mut kinds = [Kind::Other; 128];
    let mut code = 0;
    while code < 128 {
        let byte = code as u8;
        kinds[code] = if byte.is_ascii_digit() {
            Kind::Number
        } else if matches!(byte, 9..=13 | 28..=32) {
            Kind::Space
        } else if contains(marks, byte) {
            Kind::Mark
        } else if contains(alone, byte) {
            Kind::Alone
        } else if contains(dashes, byte) {
            Kind::Dash
        } else {
            Kind::Other
        };
        code += 1;
    }
    kinds
}

const fn contains(bytes: &[u8], byte: u8) -> bool {
    let mut index = 0;
    while index < bytes.len() {
        if bytes[index] == byte {
            return true;
        }
        index += 1;
    }
    false
}

struct Western;

impl Classes for Western {
    const ASCII: &[Kind; 128] = WESTERN_ASCII;
    const PADDED: bool = true;

    fn beyond_ascii(c: char) -> Kind {
        if is_python_space(c) { Kind::Space } else { Kind::Other }
    }
}

struct International;

impl Classes for International {
    const ASCII: &[Kind; 128] = &ascii_kinds(b"!\"#%&'()*,-./:;?@[\\]_{}", b"$+<=>^`|~", b"");
    const PADDED: bool = false;

    fn beyond_ascii(c: char) -> Kind {
        if is_python_space(c) {
            return Kind::Space;
        }
        match group(c) {
            Group::Number => Kind::Number,
            Group::Punctuation => Kind::Mark,
            Group::Symbol => Kind::Alone,
            Group::Other => Kind::Other,
        }
    }
}

/// sacrebleu's `13a`, its default.
pub(crate) fn tokenize_13a(text: &str, out: &mut String) {
    tokenize::<Western>(&unescape(trim_end(text)), out);
}

/// sacrebleu's `intl`: punctuation and symbols of all scripts are tokens, except punctuation between numbers.
pub(crate) fn tokenize_intl(text: &str, out: &mut String) {
    tokenize::<International>(trim_end(text), out);
}

/// mteval's way with marks of SGML and with words that go on in the next line.
fn unescape(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    if text.bytes().any(|byte| matches!(byte, b'<' | b'\n' | b'&')) {
        let replacements =
            [("<skipped>", ""), ("-\n", ""), ("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")];
        for (from, to) in replacements {
            if text.contains(from) {
                text = Cow::Owned(text.replace(from, to));
            }
        }
    }
    text
}

/// What stands before a character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Edge,
    Number,
    Other,
}

/// The kind of the character that starts at the byte `at`, and its length in bytes.
fn kind_at<C: Classes>(text: &str, at: usize) -> Option<(Kind, usize)> {
    let byte = *text.as_bytes().get(at)?;
    if byte.is_ascii() {
        return Some((C::ASCII[usize::from(byte & 0x7f)], 1));
    }
    let c = text.get(at..)?.chars().next()?;
    Some((C::beyond_ascii(c), c.len_utf8()))
}

/// The tokens of a text that is already stripped.
pub(super) fn tokenize<C: Classes>(text: &str, out: &mut String) {
    let mut token = |from: usize, to: usize| push_token(text.get(from..to).unwrap_or_default(), out);
    let mut start = 0;
    let mut at = 0;
    let mut before = Before::Edge;
    while let Some((kind, width)) = kind_at::<C>(text, at) {
        let mut next = at + width;
        let alone = kind == Kind::Alone || (kind == Kind::Dash && before == Before::Number);
        if alone {
            token(start, at);
            token(at, next);
            start = next;
        } else if kind == Kind::Space {
            token(start, at);
            start = next;
        } else if kind == Kind::Mark {
            let (mut last, mut odd) = (at, true);
            let after = loop {
                match kind_at::<C>(text, next) {
                    Some((Kind::Mark, width)) => {
                        (last, odd) = (next, !odd);
                        next += width;
                    }
                    after => break after,
                }
            };
            let number_before = if before == Before::Edge { !C::PADDED } else { before == Before::Number };
            let number_after = after.map_or(!C::PADDED, |(kind, _)| kind == Kind::Number);
            let joined = odd == number_before && number_after;
            let tokens_end = if joined { last } else { next };
            if at < tokens_end {
                token(start, at);
                start = tokens_end;
            }
            while at < tokens_end {
                let width = kind_at::<C>(text, at).map_or(1, |(_, width)| width);
                token(at, at + width);
                at += width;
            }
        }
        before = if kind == Kind::Number { Before::Number } else { Before::Other };
        at = next;
    }
    token(start, text.len());
}

/// Checks `sacrebleu_tokenizers.json`: texts and what each of sacrebleu's tokenizers makes of them.
#[cfg(test)]
pub(crate) fn fixture(text: &str) -> usize {
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        out: std::collections::BTreeMap<String, String>,
    }
    #[derive(serde::Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    let Cases { cases } = serde_json::from_str(text).unwrap();
    let mut passed_over = 0;
    for Case { text, out } in &cases {
        for (name, expected) in out {
            let mut tokens = String::new();
            match name.as_str() {
                "13a" => tokenize_13a(text, &mut tokens),
                "intl" => tokenize_intl(text, &mut tokens),
                "zh" => crate::text::tokenize_zh(text, &mut tokens),
                "char" => crate::text::tokenize_char(text, &mut tokens),
                "none" => tokens.push_str(trim_end(text)),
                "ja-mecab" => {
                    passed_over += 1;
                    continue;
                }
                other => panic!("an unknown tokenizer: {other}"),
            }
            // The package splits what its tokenizers give at white space; only `char` gives runs of spaces.
            let expected = if name == "char" {
                crate::tokens::split_whitespace(expected).collect::<Vec<_>>().join(" ")
            } else {
                expected.clone()
            };
            assert_eq!(tokens, expected, "{name} of {text:?}");
        }
    }
    crate::text::fixtures::report(&format!(
        "fixture sacrebleu_tokenizers.json: {passed_over} ja-mecab rows passed over, MeCab is not built in"
    ));
    cases.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tokenize: fn(&str, &mut String), text: &str) -> String {
        let mut out = String::new();
        tokenize(text, &mut out);
        out
    }

    #[test]
    fn fixture_tokenizers() {
        crate::text::fixtures::check("sacrebleu_tokenizers.json", fixture);
    }

    /// The outputs of `Tokenizer13a()(text)`.
    #[test]
    fn mteval_13a() {
        let cases = [
            ("It's $3.50, so-so (1990-95).", "It's $ 3.50 , so-so ( 1990 - 95 ) ."),
            ("1,000..5 a..5 a.5 .5 5. ...", "1,000 . . 5 a . .5 a . 5 . 5 5 . . . ."),
            ("a -\nb&amp;lt;c <skipped>&quot;", "a b < c \""),
            ("-5 --5-- 5--5", "-5 --5 - - 5 - -5"),
            ("good\u{3000}“night”…", "good “night”…"),
        ];
        for (text, expected) in cases {
            assert_eq!(of(tokenize_13a, text), expected, "{text}");
        }
    }

    /// The outputs of `TokenizerV14International()(text)`.
    #[test]
    fn mteval_intl() {
        let cases = [
            ("It's €3.50, in 2024.", "It ' s € 3.50 , in 2024."),
            ("“a”—½,½ 1,.2 x,.2", "“ a ” —½,½ 1 , . 2 x , .2"),
            (".5 ..5 5..", ".5 . .5 5 . ."),
        ];
        for (text, expected) in cases {
            assert_eq!(of(tokenize_intl, text), expected, "{text}");
        }
    }
}
