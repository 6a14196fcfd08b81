//! Python's string functions, and the character classes of its `re` and of the package `regex`.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

pub(crate) use crate::tokens::is_python_space;

/// Python's `str.strip()`.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

/// Python's `str.rstrip()`.
pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_python_space)
}

/// Python's `" ".join`, token by token; nothing happens for an empty one.
pub(super) fn push_token(token: &str, out: &mut String) {
    if !token.is_empty() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(token);
    }
}

/// `\w` of Python's `re`: letters, numbers and the low line, no marks. [`char::is_alphanumeric`] also has the marks
/// that are vowel signs.
///
/// By Unicode 18, as `\p{..}` of `regex` 2026.11.15. Python 3.11 has Unicode 14, in which letters and numbers that are
/// younger are not assigned.
pub(crate) fn is_python_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    is_common_letter(c)
        || matches!(c.general_category_group(), GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

/// What mteval-v14 asks of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// `\p{N}`
    Number,
    /// `\p{P}`
    Punctuation,
    /// `\p{S}`
    Symbol,
    Other,
}

/// The group of a character by Unicode 18.
pub(super) fn group(c: char) -> Group {
    // Below the Runic golden numbers what is alphabetic is a letter or a mark.
    if is_common_letter(c) || (c < '\u{16ee}' && c.is_alphabetic()) {
        return Group::Other;
    }
    match c.general_category_group() {
        GeneralCategoryGroup::Number => Group::Number,
        GeneralCategoryGroup::Punctuation => Group::Punctuation,
        GeneralCategoryGroup::Symbol => Group::Symbol,
        _ => Group::Other,
    }
}

/// The large blocks that hold letters only, which need no search in the table.
fn is_common_letter(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | 'ぁ'..='ゖ' | 'ァ'..='ヺ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_ways_agree_with_the_table() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let by_table = c.general_category_group();
            let letter_or_number =
                matches!(by_table, GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number);
            assert_eq!(is_python_word(c), letter_or_number || c == '_', "{c:?}");
            let expected = match by_table {
                GeneralCategoryGroup::Number => Group::Number,
                GeneralCategoryGroup::Punctuation => Group::Punctuation,
                GeneralCategoryGroup::Symbol => Group::Symbol,
                _ => Group::Other,
            };
            assert_eq!(group(c), expected, "{c:?}");
        }
    }

    /// How many characters match in `regex` 2026.11.15, and `re.match(r'\w', c)` in Python 3.11 for some.
    #[test]
    fn classes_are_those_of_python() {
        let count = |wanted: Group| {
            (0..=0x10_ffff).filter_map(char::from_u32).filter(|&c| group(c) == wanted).count()
        };
        assert_eq!(unicode_properties::UNICODE_VERSION, (18, 0, 0));
        assert_eq!(count(Group::Number), 2247);
        assert_eq!(count(Group::Punctuation), 860);
        assert_eq!(count(Group::Symbol), 8760);
        for c in "aZ09_éß½²Ⅷ中ほ한".chars() {
            assert!(is_python_word(c), "{c:?}");
        }
        for c in "-. \u{301}\u{93e}Ⓐ。…€".chars() {
            assert!(!is_python_word(c), "{c:?}");
        }
    }

    #[test]
    fn ends_are_stripped_as_in_python() {
        assert_eq!(trim("\u{1c} a b\u{3000}\n"), "a b");
        assert_eq!(trim_end("\u{85}a\u{1f}"), "\u{85}a");
        assert_eq!(trim(" \u{200b}"), "\u{200b}");
    }
}
