//! Room to work in, kept by each thread from example to example.

use std::cell::Cell;

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::lcs::{Subsequences, Tie};
use super::measure::ROUGE;
use crate::error::Result;
use crate::ngrams::clipped_matches;
use crate::text::rouge_tokens;

/// Above so many tokens the room of an example is not kept: it would have to be cleared for every short one after it.
const KEPT: usize = 1 << 12;

/// Tokens of an example as numbers: equal tokens have equal numbers, counted from 0. Tokens are told apart by 128-bit
/// hashes: of a billion different ones, two share a hash with a chance of about 1e-21.
#[derive(Debug, Default)]
pub(super) struct Numbers(FxHashMap<u128, u32>);

impl Numbers {
    fn number(&mut self, hash: u128) -> u32 {
        let new = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(hash).or_insert(new)
    }

    /// How many different tokens there are.
    pub(super) fn different(&self) -> usize {
        self.0.len()
    }
}

/// The stems of words that have come before, both as hashes.
#[derive(Debug, Default)]
pub(super) struct Stems {
    known: FxHashMap<u128, u128>,
    word: String,
}

impl Stems {
    /// Words whose stems are kept.
    const WORDS: usize = 1 << 15;

    fn hash(&mut self, token: &[u8]) -> u128 {
        let hash = xxh3_128(token);
        if let Some(&stem) = self.known.get(&hash) {
            return stem;
        }
        self.word.clear();
        rouge_tokens(str::from_utf8(token).unwrap_or_default(), true, &mut self.word);
        let stem = xxh3_128(self.word.as_bytes());
        if self.known.len() >= Self::WORDS {
            self.known.clear();
        }
        self.known.insert(hash, stem);
        stem
    }
}

/// The lines (or sentences) of a text, as numbers.
#[derive(Debug, Default)]
pub(super) struct Lines {
    tokens: Vec<u32>,
    ends: Vec<usize>,
}

impl Lines {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.ends.clear();
    }

    /// Appends a token.
    pub(super) fn push(&mut self, token: &str, numbers: &mut Numbers) {
        self.tokens.push(numbers.number(xxh3_128(token.as_bytes())));
    }

    /// Appends the tokens of a text that stand between spaces.
    pub(super) fn push_all(&mut self, text: &str, numbers: &mut Numbers) {
        self.tokens.extend(tokens(text).map(|token| numbers.number(xxh3_128(token))));
    }

    /// Appends the stems of the tokens of a text that stand between spaces, which are words of rouge_score.
    pub(super) fn push_stems(&mut self, text: &str, stems: &mut Stems, numbers: &mut Numbers) {
        self.tokens.extend(tokens(text).map(|token| numbers.number(stems.hash(token))));
    }

    /// Ends a line. What is pushed after the last end belongs to no line.
    pub(super) fn end_line(&mut self) {
        self.ends.push(self.tokens.len());
    }

    /// Tokens since the last end of a line.
    pub(super) fn open(&self) -> usize {
        self.tokens.len() - self.ends.last().copied().unwrap_or_default()
    }

    /// Whether there are two lines or more.
    pub(super) fn are_several(&self) -> bool {
        self.ends.len() > 1
    }

    /// The tokens of all lines in a row.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &[u32]> + Clone {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |&end| self.tokens.get(std::mem::replace(&mut start, end)..end).unwrap_or_default())
    }
}

fn tokens(text: &str) -> impl Iterator<Item = &[u8]> {
    text.as_bytes().split(|&byte| byte == b' ').filter(|token| !token.is_empty())
}

/// Everything that is used again.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) numbers: Numbers,
    pub(super) hypothesis: Lines,
    pub(super) reference: Lines,
    pub(super) subsequences: Subsequences,
    /// The tokens of a text, with spaces between them.
    pub(super) tokens: String,
    pub(super) stems: Stems,
    /// By token: how many the hypothesis and the reference have left.
    left: Vec<(u32, u32)>,
    /// By place of a line: whether it is part of a common subsequence.
    marked: Vec<bool>,
}

impl Room {
    /// For each order from 1 to `orders`: n-grams that both texts have, each as often as the text that has fewer.
    pub(super) fn matches(&self, orders: usize) -> Vec<u64> {
        clipped_matches(
            self.hypothesis.tokens(),
            &[self.reference.tokens()],
            self.numbers.different(),
            orders,
        )
    }

    /// Unites, for each line of the reference, the places in it of its longest common subsequences with the lines of
    /// the hypothesis (Lin 2004, section 3.2); `powers` asks for the weighted form. `line` is handed the line's tokens,
    /// by place whether it is part of the union, and by token how many hypothesis and reference have, which it may
    /// lower for the lines to come.
    ///
    /// # Errors
    /// A pair of lines too long for a table.
    pub(super) fn united_places(
        &mut self,
        powers: Option<&[f64]>,
        mut line: impl FnMut(&[u32], &[bool], &mut [(u32, u32)]),
    ) -> Result<()> {
        let Self { numbers, hypothesis, reference, subsequences, left, marked, .. } = self;
        left.clear();
        left.resize(numbers.different(), (0, 0));
        for &token in hypothesis.tokens() {
            left.get_mut(token as usize).into_iter().for_each(|left| left.0 += 1);
        }
        for &token in reference.tokens() {
            left.get_mut(token as usize).into_iter().for_each(|left| left.1 += 1);
        }
        for reference in reference.lines() {
            marked.clear();
            marked.resize(reference.len(), false);
            for hypothesis in hypothesis.lines() {
                let mark = |place: usize| marked.get_mut(place).into_iter().for_each(|marked| *marked = true);
                match powers {
                    Some(powers) => {
                        subsequences.weighted_places(ROUGE, reference, hypothesis, powers, mark)?;
                    }
                    None => subsequences.places(ROUGE, reference, hypothesis, Tie::Reference, mark)?,
                }
            }
            line(reference, marked, left);
        }
        Ok(())
    }
}

thread_local! {
    static ROOM: Cell<Option<Box<Room>>> = const { Cell::new(None) };
}

/// Calls `work` with this thread's room, in which no token has a number yet.
pub(super) fn with_room<T>(work: impl FnOnce(&mut Room) -> T) -> T {
    let mut room = ROOM.take().unwrap_or_default();
    room.numbers.0.clear();
    let result = work(&mut room);
    let tokens = room.numbers.0.capacity().max(room.hypothesis.tokens.len()).max(room.reference.tokens.len());
    if tokens <= KEPT {
        ROOM.set(Some(room));
    }
    result
}
