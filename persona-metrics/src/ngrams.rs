//! The n-grams of one example: tokens become numbers, then matches are counted on them.

use std::hash::Hash;

use rustc_hash::FxHashMap;

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

    /// Length of the reference that is closest in length to the hypothesis, the shorter on ties.
    pub(crate) fn closest_length(&self) -> usize {
        let length = self.hypothesis.len();
        let lengths = self.references.iter().map(Vec::len);
        lengths.min_by_key(|other| (other.abs_diff(length), *other)).unwrap_or_default()
    }

    /// For each order from 1 to `orders`: how many n-grams of the hypothesis are matched, each as often as the
    /// reference that has most of it (Papineni et al. 2002).
    pub(crate) fn matches(&self, orders: usize) -> Vec<u64> {
        let references: Vec<&[u32]> = self.references.iter().map(Vec::as_slice).collect();
        clipped_matches(&self.hypothesis, &references, self.different, orders)
    }
}

/// Number of n-grams of a text of so many tokens.
pub(crate) fn ngrams(tokens: usize, order: usize) -> u64 {
    (tokens + 1).saturating_sub(order) as u64
}

const NONE: u32 = u32::MAX;

/// See [`Numbered::matches`]. Tokens are numbers below `different`.
pub(crate) fn clipped_matches(
    hypothesis: &[u32],
    references: &[&[u32]],
    different: usize,
    orders: usize,
) -> Vec<u64> {
    let mut matches = vec![0; orders];
    // What starts at each place: the number of the n-gram of the order at hand, NONE where it cannot match any more.
    let mut hypothesis_grams = hypothesis.to_vec();
    let mut reference_grams: Vec<Vec<u32>> = references.iter().map(|tokens| tokens.to_vec()).collect();
    let mut different_grams = different;
    let mut numbers: FxHashMap<(u32, u32), u32> = FxHashMap::default();
    let mut counts = Vec::new();
    for (order, matched) in (1..).zip(&mut matches) {
        if order > 1 {
            different_grams = lengthen(
                (hypothesis, references),
                &mut hypothesis_grams,
                &mut reference_grams,
                order,
                &mut numbers,
            );
        }
        *matched = count_clipped(&mut hypothesis_grams, &reference_grams, different_grams, &mut counts);
        if *matched == 0 {
            break;
        }
    }
    matches
}

/// Turns the n-grams of the order before into those of `order`, and says how many different ones there are.
fn lengthen(
    (hypothesis, references): (&[u32], &[&[u32]]),
    hypothesis_grams: &mut Vec<u32>,
    reference_grams: &mut [Vec<u32>],
    order: usize,
    numbers: &mut FxHashMap<(u32, u32), u32>,
) -> usize {
    numbers.clear();
    // Only n-grams of the hypothesis have numbers: whatever else a reference holds is no match.
    hypothesis_grams.truncate((hypothesis.len() + 1).saturating_sub(order));
    for (gram, &last) in hypothesis_grams.iter_mut().zip(hypothesis.iter().skip(order - 1)) {
        if *gram != NONE {
            let new = u32::try_from(numbers.len()).unwrap_or(NONE);
            *gram = *numbers.entry((*gram, last)).or_insert(new);
        }
    }
    for (grams, tokens) in reference_grams.iter_mut().zip(references) {
        grams.truncate((tokens.len() + 1).saturating_sub(order));
        for (gram, &last) in grams.iter_mut().zip(tokens.iter().skip(order - 1)) {
            if *gram != NONE {
                *gram = numbers.get(&(*gram, last)).copied().unwrap_or(NONE);
            }
        }
    }
    numbers.len()
}

#[derive(Clone, Copy, Default)]
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

    #[test]
    fn matches_are_clipped_by_the_reference_that_has_most() {
        let references = [words("the cat is on the mat"), words("there is a cat on the mat")];
        let numbered = Numbered::new(&words("the the the the the the the"), &references);
        assert_eq!(numbered.matches(4), [2, 0, 0, 0]);
        assert_eq!(numbered.closest_length(), 7);
        let numbered = Numbered::new(&words("a cat on the mat"), &references);
        assert_eq!(numbered.matches(3), [5, 4, 3]);
    }

    #[test]
    fn of_two_lengths_equally_close_the_shorter_counts() {
        let numbered = Numbered::new(&["a"; 3], &[vec!["a"; 4], vec!["a"; 2]]);
        assert_eq!(numbered.closest_length(), 2);
        assert_eq!(Numbered::new(&["a"; 3], &Vec::<Vec<&str>>::new()).closest_length(), 0);
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
            hypothesis in vec(0..4_u8, 0..150),
            references in vec(vec(0..4_u8, 0..150), 0..4),
        ) {
            let numbered = Numbered::new(&hypothesis, &references);
            let slow: Vec<_> = (1..6).map(|order| slow_matches(&hypothesis, &references, order)).collect();
            prop_assert_eq!(numbered.matches(5), slow);
        }
    }
}
