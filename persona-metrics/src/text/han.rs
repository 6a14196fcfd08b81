//! The tokenizers `zh` and `char` of sacrebleu 2.6.0.

use super::mteval::{Classes, Kind, WESTERN_ASCII, tokenize};
use super::python::{is_python_space, push_token, trim, trim_end};

struct Chinese;

impl Classes for Chinese {
    const ASCII: &[Kind; 128] = WESTERN_ASCII;
    const PADDED: bool = false;

    fn beyond_ascii(c: char) -> Kind {
        if is_python_space(c) {
            Kind::Space
        } else if is_chinese(c) {
            Kind::Alone
        } else {
            Kind::Other
        }
    }
}

/// Whether sacrebleu's `zh` makes the character a token.
///
/// The package means Extension B and the compatibility supplement by U+20000..2A6D6 and U+2F800..2FA1D, but compares
/// with strings of two characters, so that U+2001..2A6D and U+2F81..2FA1 are in the table in their stead: general
/// punctuation (`“`, `…`, `—`), arrows and mathematical operators are tokens, Extension B is not.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{2001}'..='\u{2a6d}' // includes U+2600..27BF, symbols and dingbats
        | '\u{2e80}'..='\u{2fdf}' // radicals
        | '\u{2ff0}'..='\u{303f}' // description characters, punctuation
        | '\u{3100}'..='\u{312f}' // Bopomofo
        | '\u{31a0}'..='\u{31bf}' // Bopomofo extended
        | '\u{31c0}'..='\u{31ef}' // strokes
        | '\u{3200}'..='\u{33ff}' // enclosed and squared characters
        | '\u{3400}'..='\u{4db5}'
        | '\u{4e00}'..='\u{9fbb}'
        | '\u{f900}'..='\u{fa2d}'
        | '\u{fa30}'..='\u{fa6a}'
        | '\u{fa70}'..='\u{fad9}'
        | '\u{fe10}'..='\u{fe1f}'
        | '\u{fe30}'..='\u{fe4f}'
        | '\u{ff00}'..='\u{ffef}' // half-width and full-width forms
    )
}

/// sacrebleu's `zh`: each Chinese character is a token, what is between them is tokenized as by `13a`, without its
/// padding and without its escapes.
pub(crate) fn tokenize_zh(text: &str, out: &mut String) {
    tokenize::<Chinese>(trim(text), out);
}

/// sacrebleu's `char`: each character that is not white space is a token.
pub(crate) fn tokenize_char(text: &str, out: &mut String) {
    for c in trim_end(text).chars().filter(|&c| !is_python_space(c)) {
        push_token(c.encode_utf8(&mut [0; 4]), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tokenize: fn(&str, &mut String), text: &str) -> String {
        let mut out = String::new();
        tokenize(text, &mut out);
        out
    }

    /// The outputs of `TokenizerZh()(text)`.
    #[test]
    fn zh() {
        let cases = [
            ("我有3.5只cat, it's", "我 有 3.5 只 cat , it's"),
            ("“好”…\u{20000}\u{3000}ｆ", "“ 好 ” … \u{20000} ｆ"),
            (".5 是3.", ".5 是 3."),
            ("かな한글", "かな한글"),
        ];
        for (text, expected) in cases {
            assert_eq!(of(tokenize_zh, text), expected, "{text}");
        }
    }

    #[test]
    fn characters() {
        assert_eq!(of(tokenize_char, "a 中\u{3000}e\u{301}\n"), "a 中 e \u{301}");
    }
}
