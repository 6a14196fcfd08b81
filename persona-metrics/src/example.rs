//! One hypothesis and its references as numbers, in room that a thread keeps from example to example.

use std::cell::Cell;
use std::ops::Range;

use crate::ngrams::clipped_matches;
use crate::token_hash::{fold, token_key};
use crate::tokens::between;

/// The tokens of a hypothesis and of its references. Tokens of the hypothesis have equal numbers where they are equal,
/// counted from 0; a token that only references have is [`ABSENT`].
#[derive(Debug, Default)]
pub(crate) struct Example {
    numbers: Numbers,
    /// Of all texts in a row, the hypothesis first.
    tokens: Vec<u32>,
    /// Where each text ends in `tokens`.
    ends: Vec<usize>,
    matches: Vec<u64>,
}

const ABSENT: u32 = u32::MAX;

/// The room of an example of more tokens is not kept.
const KEPT: usize = 1 << 16;

thread_local! {
    static ROOM: Cell<Option<Box<Example>>> = const { Cell::new(None) };
}

/// Calls `work` on an example. `tokenize` hands each token of a text to its argument.
pub(crate) fn with_example<T>(
    hypothesis: &str,
    references: &[&str],
    mut tokenize: impl FnMut(&str, &mut dyn FnMut(&str)),
    work: impl FnOnce(&mut Example) -> T,
) -> T {
    let mut example = ROOM.take().unwrap_or_default();
    let Example { numbers, tokens, ends, .. } = &mut *example;
    numbers.clear();
    tokens.clear();
    ends.clear();
    tokenize(hypothesis, &mut |token| tokens.push(numbers.number(token)));
    ends.push(tokens.len());
    for reference in references {
        tokenize(reference, &mut |token| tokens.push(numbers.get(token)));
        ends.push(tokens.len());
    }
    let result = work(&mut example);
    if example.tokens.len() <= KEPT {
        ROOM.set(Some(example));
    }
    result
}

thread_local! {
    static TEXT: Cell<String> = const { Cell::new(String::new()) };
}

/// Hands each token of a text to `token`. `tokenize` appends the tokens to a string with a U+0020 between them.
pub(crate) fn tokenized(text: &str, tokenize: impl FnOnce(&str, &mut String), token: &mut dyn FnMut(&str)) {
    let mut tokens = TEXT.take();
    tokens.clear();
    tokenize(text, &mut tokens);
    between(
        &tokens,
        |byte| byte == b' ',
        |found| {
            if !found.is_empty() {
                token(found);
            }
        },
    );
    if tokens.capacity() <= KEPT {
        TEXT.set(tokens);
    }
}

impl Example {
    /// Tokens of the hypothesis.
    pub(crate) fn length(&self) -> usize {
        self.ends.first().copied().unwrap_or_default()
    }

    /// Tokens of each reference.
    pub(crate) fn reference_lengths(&self) -> impl Iterator<Item = usize> {
        spans(&self.ends).map(|span| span.len())
    }

    /// Length of the reference that is closest in length to the hypothesis, the shorter on ties.
    pub(crate) fn closest_length(&self) -> usize {
        let length = self.length();
        self.reference_lengths().min_by_key(|other| (other.abs_diff(length), *other)).unwrap_or_default()
    }

    /// For each order from 1 to `orders`: how many n-grams of the hypothesis are matched, each as often as the
    /// reference that has most of it (Papineni et al. 2002).
    pub(crate) fn matches(&mut self, orders: usize) -> &[u64] {
        let Self { numbers, tokens, ends, matches } = self;
        let text = |span| tokens.get(span).unwrap_or_default();
        let hypothesis = text(0..ends.first().copied().unwrap_or_default());
        let references: Vec<&[u32]> = spans(ends).map(text).collect();
        *matches = clipped_matches(hypothesis, &references, numbers.len(), orders);
        matches
    }
}

/// Where the references stand.
fn spans(ends: &[usize]) -> impl Iterator<Item = Range<usize>> + Clone {
    ends.iter().zip(ends.iter().skip(1)).map(|(&start, &end)| start..end)
}

/// Numbers for tokens, from 0 on in the order in which they come.
#[derive(Debug, Default)]
struct Numbers {
    /// A hash table with open addressing; its length is a power of two.
    slots: Vec<Slot>,
    /// Only slots of this round are taken, so that clearing costs nothing.
    round: u32,
    len: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u128,
    round: u32,
    number: u32,
}

impl Numbers {
    const SMALLEST: usize = 64;

    fn clear(&mut self) {
        self.len = 0;
        self.round = self.round.wrapping_add(1);
        if self.round == 0 || self.slots.is_empty() {
            self.slots.clear();
            self.slots.resize(Self::SMALLEST, Slot::default());
            self.round = 1;
        }
    }

    fn len(&self) -> usize {
        self.len as usize
    }

    /// The slot of a key, or the free one where it would stand.
    fn slot(slots: &[Slot], round: u32, key: u128) -> usize {
        let last = slots.len().wrapping_sub(1);
        let mut place = fold(key as u64 ^ 0x9e37_79b9_7f4a_7c15, (key >> 64) as u64 ^ 0xd1b5_4a32_d192_ed03)
            as usize
            & last;
        while let Some(slot) = slots.get(place) {
            if slot.round != round || slot.key == key {
                break;
            }
            place = (place + 1) & last;
        }
        place
    }

    /// The number of a token, or [`ABSENT`].
    fn get(&self, token: &str) -> u32 {
        let key = token_key(token);
        let slot = self.slots.get(Self::slot(&self.slots, self.round, key));
        slot.filter(|slot| slot.round == self.round).map_or(ABSENT, |slot| slot.number)
    }

    /// The number of a token, a new one if it has none.
    fn number(&mut self, token: &str) -> u32 {
        if 2 * self.len() >= self.slots.len() {
            self.grow();
        }
        let key = token_key(token);
        let (round, new) = (self.round, self.len);
        let place = Self::slot(&self.slots, round, key);
        let Some(slot) = self.slots.get_mut(place) else { return ABSENT };
        if slot.round != round {
            *slot = Slot { key, round, number: new };
            self.len += 1;
        }
        slot.number
    }

    fn grow(&mut self) {
        let mut slots = vec![Slot::default(); (2 * self.slots.len()).max(Self::SMALLEST)];
        for &slot in self.slots.iter().filter(|slot| slot.round == self.round) {
            let place = Self::slot(&slots, self.round, slot.key);
            if let Some(free) = slots.get_mut(place) {
                *free = slot;
            }
        }
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str, token: &mut dyn FnMut(&str)) {
        text.split(' ').filter(|word| !word.is_empty()).for_each(token);
    }

    #[test]
    fn matches_are_clipped_by_the_reference_that_has_most() {
        let references = ["the cat is on the mat", "there is a cat on the mat"];
        with_example("the the the the the the the", &references, words, |example| {
            assert_eq!(example.matches(4), [2, 0, 0, 0]);
            assert_eq!((example.length(), example.closest_length()), (7, 7));
        });
        with_example("a cat on the mat", &references, words, |example| {
            assert_eq!(example.matches(3), [5, 4, 3]);
        });
    }

    #[test]
    fn of_two_lengths_equally_close_the_shorter_counts() {
        with_example("a a a", &["a a a a", "a a"], words, |example| {
            assert_eq!(example.closest_length(), 2);
            assert_eq!(example.reference_lengths().collect::<Vec<_>>(), [4, 2]);
        });
        with_example("a", &[], words, |example| {
            assert_eq!((example.closest_length(), example.matches(2)), (0, &[0, 0][..]));
        });
    }

    #[test]
    fn tokens_of_every_length_and_number_are_told_apart() {
        let tokens: Vec<String> = (0..40).flat_map(|n| ["x".repeat(n), "x".repeat(n) + "\0"]).collect();
        let mut numbers = Numbers::default();
        for round in 0..3 {
            numbers.clear();
            assert_eq!(numbers.get(&tokens[0]), ABSENT, "round {round}");
            for (number, token) in (0..).zip(&tokens) {
                assert_eq!(numbers.number(token), number);
            }
            for (number, token) in (0..).zip(&tokens) {
                assert_eq!((numbers.number(token), numbers.get(token)), (number, number));
            }
            assert_eq!((numbers.len(), numbers.get("y")), (tokens.len(), ABSENT));
        }
    }

    #[test]
    fn split_at_spaces() {
        let tokens = |text: &str| {
            let mut tokens = Vec::new();
            tokenized(text, |text, out| out.push_str(text), &mut |token| tokens.push(token.to_owned()));
            tokens
        };
        assert_eq!(tokens(" a  bc 狗\u{3000} "), ["a", "bc", "狗\u{3000}"]);
        assert_eq!(tokens(""), Vec::<String>::new());
    }

    #[test]
    fn the_counter_of_rounds_may_overflow() {
        let mut numbers = Numbers { round: u32::MAX - 1, ..Numbers::default() };
        for _ in 0..4 {
            numbers.clear();
            assert_eq!((numbers.get("a"), numbers.number("a"), numbers.number("b")), (ABSENT, 0, 1));
        }
    }

    fn slow_matches(hypothesis: &str, references: &[&str], order: usize) -> u64 {
        let count = |text: &str| {
            let mut counts: HashMap<Vec<char>, u64> = HashMap::new();
            let tokens: Vec<char> = text.chars().collect();
            tokens.windows(order).for_each(|gram| *counts.entry(gram.to_vec()).or_default() += 1);
            counts
        };
        let references: Vec<_> = references.iter().map(|text| count(text)).collect();
        let allowed = |gram: &Vec<char>| references.iter().filter_map(|counts| counts.get(gram)).max();
        count(hypothesis).iter().map(|(gram, n)| *n.min(allowed(gram).unwrap_or(&0))).sum()
    }

    proptest! {
        #[test]
        fn as_by_the_definition(
            hypothesis in "[abc]{0,150}|[abc]{60,68}|[a-f]{0,12}",
            references in vec("[abc]{0,70}|[abc]{120,140}|[a-h]{0,12}", 0..4),
        ) {
            let references: Vec<&str> = references.iter().map(String::as_str).collect();
            let characters = |text: &str, token: &mut dyn FnMut(&str)| {
                text.split_inclusive(|_| true).for_each(token);
            };
            with_example(&hypothesis, &references, characters, |example| {
                let slow: Vec<_> = (1..6).map(|order| slow_matches(&hypothesis, &references, order)).collect();
                prop_assert_eq!(example.matches(5), slow);
                Ok(())
            })?;
        }
    }
}
