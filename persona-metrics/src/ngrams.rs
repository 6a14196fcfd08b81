//! The n-grams of one example: tokens become numbers, then matches are counted on them.

use std::cell::Cell;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::bits::Masks;

/// The tokens of a hypothesis and of its references as numbers; equal tokens have equal numbers, counted from 0.
#[derive(Debug, Default)]
pub(crate) struct Numbered {
    pub(crate) hypothesis: Vec<u32>,
    pub(crate) references: Vec<Vec<u32>>,
    /// How many different tokens there are.
    pub(crate) different: usize,
}

impl Numbered {
    pub(crate) fn new<'t, T, R>(hypothesis: &'t [T], references: impl IntoIterator<Item = &'t R>) -> Self
    where
        T: Eq + Hash + 't,
        R: AsRef<[T]> + ?Sized + 't,
    {
        let mut numbers: FxHashMap<&T, u32> = FxHashMap::default();
        let mut number = |tokens: &'t [T]| -> Vec<u32> {
            let next = |numbers: &FxHashMap<&T, u32>| u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            let one = |token| {
                let new = next(&numbers);
                *numbers.entry(token).or_insert(new)
            };
            tokens.iter().map(one).collect()
        };
        let hypothesis = number(hypothesis);
        let references = references.into_iter().map(|tokens| number(tokens.as_ref())).collect();
        Self { hypothesis, references, different: numbers.len() }
    }
}

/// Number of n-grams of a text of so many tokens.
pub(crate) fn ngrams(tokens: usize, order: usize) -> u64 {
    (tokens + 1).saturating_sub(order) as u64
}

const NONE: u32 = u32::MAX;

/// Room that a thread keeps from example to example.
#[derive(Debug, Default)]
struct Room {
    hypothesis: Vec<u32>,
    references: Vec<Vec<u32>>,
    pairs: Pairs,
    counts: Vec<Count>,
    narrow: Masks<u64>,
    wide: Masks<u128>,
}

thread_local! {
    static ROOM: Cell<Option<Box<Room>>> = const { Cell::new(None) };
}

/// For each order from 1 to `orders`: how many n-grams of the hypothesis are matched, each as often as the reference
/// that has most of it (Papineni et al. 2002). Tokens are numbers below `different`.
pub(crate) fn clipped_matches(
    hypothesis: &[u32],
    references: &[&[u32]],
    different: usize,
    orders: usize,
) -> Vec<u64> {
    let mut matches = vec![0; orders];
    let mut room = ROOM.take().unwrap_or_default();
    let longest =
        references.iter().map(|tokens| tokens.len()).max().unwrap_or_default().max(hypothesis.len());
    if longest <= Masks::<u128>::WIDTH {
        let references = references.iter().copied();
        if longest <= Masks::<u64>::WIDTH {
            room.narrow.matches(hypothesis, references, different, &mut matches);
        } else {
            room.wide.matches(hypothesis, references, different, &mut matches);
        }
        ROOM.set(Some(room));
        return matches;
    }
    let Room { hypothesis: hypothesis_grams, references: reference_grams, pairs, counts, .. } = &mut *room;
    // What starts at each place: the number of the n-gram of the order at hand, NONE where it cannot match any more.
    hypothesis_grams.clear();
    hypothesis_grams.extend_from_slice(hypothesis);
    reference_grams.resize_with(references.len(), Vec::new);
    for (grams, tokens) in reference_grams.iter_mut().zip(references) {
        grams.clear();
        grams.extend_from_slice(tokens);
    }
    let mut different_grams = different;
    for (order, matched) in (1..).zip(&mut matches) {
        if order > 1 {
            pairs.start(different_grams, different);
            // Only n-grams of the hypothesis have numbers: whatever else a reference holds is no match.
            lengthen(hypothesis_grams, hypothesis, order, |gram, last| pairs.number(gram, last));
            for (grams, tokens) in reference_grams.iter_mut().zip(references) {
                lengthen(grams, tokens, order, |gram, last| pairs.get(gram, last));
            }
            different_grams = pairs.len();
        }
        *matched = count_clipped(hypothesis_grams, reference_grams, different_grams, counts);
        if *matched == 0 {
            break;
        }
    }
    if hypothesis.len() + references.iter().map(|tokens| tokens.len()).sum::<usize>() <= KEPT {
        ROOM.set(Some(room));
    }
    matches
}

/// The room of an example of more tokens is not kept.
const KEPT: usize = 1 << 16;

/// Turns the n-grams of the order before into those of `order`, by the number of each with its next token.
fn lengthen(grams: &mut Vec<u32>, tokens: &[u32], order: usize, mut number: impl FnMut(u32, u32) -> u32) {
    grams.truncate((tokens.len() + 1).saturating_sub(order));
    for (gram, &last) in grams.iter_mut().zip(tokens.iter().skip(order - 1)) {
        if *gram != NONE {
            *gram = number(*gram, last);
        }
    }
}

/// Numbers for pairs of an n-gram and the token after it, from 0 on in the order in which they come.
#[derive(Debug, Default)]
struct Pairs {
    /// Where there are few possible pairs: a place for each, NONE where it has not come.
    table: Vec<u32>,
    /// The places that are not NONE.
    taken: Vec<usize>,
    /// Where there are many: those that came.
    map: FxHashMap<(u32, u32), u32>,
    /// Different tokens, where the table is used.
    width: Option<usize>,
}

impl Pairs {
    /// Entries of the largest table.
    const TABLE: usize = 1 << 16;

    /// Forgets all pairs; the next ones have grams below `grams` and tokens below `tokens`.
    fn start(&mut self, grams: usize, tokens: usize) {
        for place in self.taken.drain(..) {
            if let Some(number) = self.table.get_mut(place) {
                *number = NONE;
            }
        }
        self.map.clear();
        let size = grams.saturating_mul(tokens);
        self.width = (size <= Self::TABLE).then_some(tokens);
        if self.width.is_some() && self.table.len() < size {
            self.table.resize(size, NONE);
        }
    }

    fn len(&self) -> usize {
        self.taken.len() + self.map.len()
    }

    fn number(&mut self, gram: u32, last: u32) -> u32 {
        let new = u32::try_from(self.len()).unwrap_or(NONE);
        let Some(width) = self.width else { return *self.map.entry((gram, last)).or_insert(new) };
        let place = gram as usize * width + last as usize;
        match self.table.get_mut(place) {
            Some(number) if *number == NONE => {
                *number = new;
                self.taken.push(place);
                new
            }
            Some(number) => *number,
            None => NONE,
        }
    }

    /// The number of a pair, or NONE.
    fn get(&self, gram: u32, last: u32) -> u32 {
        let number = match self.width {
            Some(width) => self.table.get(gram as usize * width + last as usize),
            None => self.map.get(&(gram, last)),
        };
        number.copied().unwrap_or(NONE)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    hypothesis: u32,
    reference: u32,
    allowed: u32,
}

/// Sum over n-grams of the smaller of both counts. N-grams that no reference has are marked NONE.
fn count_clipped(
    hypothesis: &mut [u32],
    references: &[Vec<u32>],
    different: usize,
    counts: &mut Vec<Count>,
) -> u64 {
    counts.clear();
    counts.resize(different, Count::default());
    for grams in references {
        for &gram in grams {
            if let Some(count) = counts.get_mut(gram as usize) {
                count.reference += 1;
                count.allowed = count.allowed.max(count.reference);
            }
        }
        for &gram in grams {
            if let Some(count) = counts.get_mut(gram as usize) {
                count.reference = 0;
            }
        }
    }
    let mut matched = 0;
    for gram in hypothesis {
        if let Some(count) = counts.get_mut(*gram as usize) {
            count.hypothesis += 1;
            matched += u64::from(count.hypothesis <= count.allowed);
            if count.allowed == 0 {
                *gram = NONE;
            }
        }
    }
    matched
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    fn matches(numbered: &Numbered, orders: usize) -> Vec<u64> {
        let references: Vec<&[u32]> = numbered.references.iter().map(Vec::as_slice).collect();
        clipped_matches(&numbered.hypothesis, &references, numbered.different, orders)
    }

    #[test]
    fn matches_are_clipped_by_the_reference_that_has_most() {
        let references = [words("the cat is on the mat"), words("there is a cat on the mat")];
        let numbered = Numbered::new(&words("the the the the the the the"), &references);
        assert_eq!(matches(&numbered, 4), [2, 0, 0, 0]);
        let numbered = Numbered::new(&words("a cat on the mat"), &references);
        assert_eq!(matches(&numbered, 3), [5, 4, 3]);
    }

    fn slow_matches(hypothesis: &[u8], references: &[Vec<u8>], order: usize) -> u64 {
        let count = |tokens: &[u8]| {
            let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
            tokens.windows(order).for_each(|gram| *counts.entry(gram.to_vec()).or_default() += 1);
            counts
        };
        let references: Vec<_> = references.iter().map(|tokens| count(tokens)).collect();
        let allowed = |gram: &Vec<u8>| references.iter().filter_map(|counts| counts.get(gram)).max();
        count(hypothesis).iter().map(|(gram, n)| *n.min(allowed(gram).unwrap_or(&0))).sum()
    }

    proptest! {
        #[test]
        fn as_by_the_definition(
            (hypothesis, references) in prop::sample::select(vec![4, 255]).prop_flat_map(|different: u8| {
                (vec(0..different, 0..400), vec(vec(0..different, 0..400), 0..4))
            }),
        ) {
            let numbered = Numbered::new(&hypothesis, &references);
            let slow: Vec<_> = (1..6).map(|order| slow_matches(&hypothesis, &references, order)).collect();
            prop_assert_eq!(matches(&numbered, 5), slow);
        }
    }
}
