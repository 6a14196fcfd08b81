//! What holds for every text.

use proptest::prelude::*;

#[cfg(feature = "jieba")]
use super::jieba::cut;
use super::*;
use crate::tokens::split_whitespace;

type Tokenizer = fn(&str, &mut String);

/// The tokenizers, and whether tokenizing their output again changes nothing.
const TOKENIZERS: &[(&str, Tokenizer, bool)] = &[
    ("13a", tokenize_13a, false),
    ("intl", tokenize_intl, false),
    ("zh", tokenize_zh, false),
    ("char", tokenize_char, true),
    ("normalize_answer", normalize_answer, true),
    ("rouge", |text, out| rouge_tokens(text, false, out), true),
    ("rouge, stemmed", |text, out| rouge_tokens(text, true, out), false),
    ("py-rouge", |text, out| py_rouge_tokens(text, None, out), true),
];

/// Texts in which what the tokenizers look at is frequent.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-e0-9]{1,3}",
        4 => "[.,\\-']{1,3}",
        1 => "[ -~]{1,4}",
        1 => prop::sample::select(vec!["the", "a", "an", "cannot", "gonna", "&amp;", "<skipped>", "-\n", "İ", "\u{212a}"])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\u{1c}", "\u{85}", "\u{a0}", "\u{3000}", "\r\n", "\t", " "])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["中", "。", "½", "€", "“", "\u{301}", "é", "Σ", "\u{20000}", "😀", "한"])
            .prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

const KEEPING_ALL: &[&str] = &["intl", "zh", "char"];

fn of(tokenize: Tokenizer, text: &str) -> String {
    let mut out = String::new();
    tokenize(text, &mut out);
    out
}

proptest! {
    #[test]
    fn tokens_are_not_empty_and_hold_no_space(text in texts()) {
        for (name, tokenize, idempotent) in TOKENIZERS {
            let tokens = of(*tokenize, &text);
            let again: Vec<&str> = split_whitespace(&tokens).collect();
            prop_assert_eq!(&again.join(" "), &tokens, "{}", name);
            if *idempotent {
                prop_assert_eq!(&of(*tokenize, &tokens), &tokens, "{}", name);
            }
        }
    }

    #[test]
    fn tokens_are_appended(text in texts(), before in "[a-z.]{1,3}") {
        for (name, tokenize, _) in TOKENIZERS {
            let tokens = of(*tokenize, &text);
            let mut out = before.clone();
            tokenize(&text, &mut out);
            let expected = if tokens.is_empty() { before.clone() } else { format!("{before} {tokens}") };
            prop_assert_eq!(out, expected, "{}", name);
        }
    }

    #[test]
    fn no_character_is_lost_or_added(text in texts()) {
        let without_space = |text: &str| split_whitespace(text).collect::<String>();
        for (name, tokenize, _) in TOKENIZERS.iter().filter(|(name, ..)| KEEPING_ALL.contains(name)) {
            prop_assert_eq!(without_space(&of(*tokenize, &text)), without_space(&text), "{}", name);
        }
    }

    #[test]
    fn a_stem_is_not_longer_and_keeps_other_letters(
        start in "[a-eilnostyñ]{1,9}",
        end in "(ies|ied|eed|ed|ing|y|alli|logi|ational|ness|ion|ll|e)?",
    ) {
        let word = start + &end;
        for rules in [Rules::Nltk, Rules::Original] {
            let mut stemmed = String::new();
            stem(&word, rules, &mut stemmed);
            prop_assert!(stemmed.chars().count() <= word.chars().count(), "{} {}", word, stemmed);
            let common = word.chars().zip(stemmed.chars()).take_while(|(a, b)| a == b).count();
            prop_assert!(stemmed.chars().skip(common).all(|c| c.is_ascii()), "{} {}", word, stemmed);
        }
    }

    #[cfg(feature = "jieba")]
    #[test]
    fn words_of_jieba_make_up_the_text(text in texts(), han in "[\u{4e00}-\u{9fff}]{0,20}") {
        let text = text + &han;
        for hmm in [true, false] {
            let mut all = String::new();
            cut(&text, hmm, |word| {
                assert!(!word.is_empty());
                all.push_str(word);
            });
            prop_assert_eq!(&all, &text);
        }
    }
}
