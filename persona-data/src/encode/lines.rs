//! Tokenising by lines, so that a line that stands in many prompts is tokenised once.

use std::collections::HashMap;

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{ModelWrapper, Tokenizer};

use super::TextTokenizer;
use crate::error::Result;

/// The ids of lines seen before. Neighbouring examples repeat each other's turns and persona: taking these from here
/// makes encoding several times as fast.
#[derive(Debug, Default)]
pub(super) struct LineCache(HashMap<String, Vec<u32>>);

impl LineCache {
    /// As [`TextTokenizer::encode`], with the same ids.
    pub(super) fn encode(&mut self, tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>> {
        if !tokenizer.splits_at_lines() {
            return tokenizer.encode(text);
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        for line in lines(text) {
            if let Some(known) = self.0.get(line) {
                ids.extend_from_slice(known);
                continue;
            }
            let fresh = tokenizer.encode(line)?;
            ids.extend_from_slice(&fresh);
            self.0.insert(line.to_owned(), fresh);
        }
        Ok(ids)
    }
}

/// Whether no token of a text spans the places where [`lines`] cuts it.
///
/// True of GPT-2's kind, which matches runs of letters, of digits, of other marks, and of white space: a line break
/// between two characters that are not white space is a run by itself, with the line before it or without. Other kinds
/// put a mark before the text, join line breaks to what precedes them, or normalise across them, and are left alone;
/// so are those with added tokens that look at, or take in, what stands beside them.
pub(super) fn splits_at_lines(tokenizer: &Tokenizer) -> bool {
    let byte_level = match tokenizer.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(byte_level)) => {
            byte_level.use_regex && !byte_level.add_prefix_space
        }
        _ => false,
    };
    let alone = |(_, token): (u32, tokenizers::AddedToken)| {
        !token.lstrip && !token.rstrip && !token.single_word && !token.content.contains('\n')
    };
    byte_level
        && tokenizer.get_normalizer().is_none()
        && matches!(tokenizer.get_model(), ModelWrapper::BPE(_))
        && tokenizer.get_added_tokens_decoder().into_iter().all(alone)
}

/// Cuts a text after each line break that stands between two characters that are plainly not white space. The pieces
/// joined are the text.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest
            .match_indices('\n')
            .map(|(at, _)| (at, at + 1))
            .find(|&(at, next)| {
                let before = rest.get(..at).and_then(|text| text.chars().next_back());
                let after = rest.get(next..).and_then(|text| text.chars().next());
                before.is_some_and(is_visible) && after.is_some_and(is_visible)
            })
            .map_or(rest.len(), |(_, next)| next);
        let (line, after) = rest.split_at_checked(end)?;
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

/// Characters that no definition of white space includes.
fn is_visible(c: char) -> bool {
    c.is_alphanumeric()
        || c.is_ascii_punctuation()
        || matches!(c, '\u{3001}'..='\u{3020}' | '\u{ff01}'..='\u{ff65}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::{BpeOptions, train_byte_level_bpe};

    #[test]
    fn cuts_fall_between_visible_characters_only() {
        let cut = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(cut("a\nb.\n世\n"), ["a\n", "b.\n", "世\n"]);
        assert_eq!(cut("a \nb\n c\n\nd"), ["a \nb\n c\n\nd"]);
        assert_eq!(cut("\na"), ["\na"]);
        assert!(cut("").is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn by_lines_or_whole_gives_the_same_ids(text in "([a-c1 .:\u{3000}\u{a0}'世？\r]|\n|\n|<s>|'s|\\PC){0,40}") {
            let corpus = ["a b\nc. a\n\nb: 1\n 's\n", "b's \nc\n世\n"].map(str::to_owned);
            let options = BpeOptions { vocab_size: 300, min_frequency: 1 };
            let tokenizer = train_byte_level_bpe(corpus.into_iter(), &options).unwrap();
            prop_assert!(tokenizer.splits_at_lines());
            let mut cache = LineCache::default();
            for _ in 0..2 {
                prop_assert_eq!(cache.encode(&tokenizer, &text).unwrap(), tokenizer.encode(&text).unwrap());
            }
        }
    }
}
