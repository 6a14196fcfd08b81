//! What a model computes for distinct inputs, once each, in batches of like length.

use std::hash::Hash;

use rustc_hash::FxHashMap;

/// An input of a model, with the length that batches are sorted by.
pub(crate) trait Input: Copy + Eq + Hash {
    fn length(self) -> usize;
}

impl Input for &str {
    fn length(self) -> usize {
        self.len()
    }
}

impl Input for (&str, &str) {
    fn length(self) -> usize {
        self.0.len() + self.1.len()
    }
}

/// The model's answers for the distinct inputs among all that will be asked for. An answer is dropped after its last use.
pub(crate) struct Once<K, V> {
    places: FxHashMap<K, usize>,
    slots: Vec<Slot<V>>,
}

struct Slot<V> {
    /// How often the input will still be used.
    uses: usize,
    answer: Option<V>,
}

impl<K: Input, V> Once<K, V> {
    /// All inputs, each as often as it will be used.
    pub(crate) fn of(inputs: impl Iterator<Item = K>) -> Self {
        let mut once = Self { places: FxHashMap::default(), slots: Vec::new() };
        for input in inputs {
            let place = *once.places.entry(input).or_insert(once.slots.len());
            match once.slots.get_mut(place) {
                Some(slot) => slot.uses += 1,
                None => once.slots.push(Slot { uses: 1, answer: None }),
            }
        }
        once
    }

    /// Answers those of the inputs that have no answer yet: `model` is called with at most `most` distinct inputs at a
    /// time, the longest first, and gives one answer each.
    pub(crate) fn answer<E>(
        &mut self,
        inputs: impl Iterator<Item = K>,
        most: usize,
        mut model: impl FnMut(&[K]) -> Result<Vec<V>, E>,
    ) -> Result<(), E> {
        let mut open = Vec::new();
        let mut asked = vec![false; self.slots.len()];
        for input in inputs {
            let Some(&place) = self.places.get(&input) else { continue };
            if let (Some(slot), Some(asked)) = (self.slots.get(place), asked.get_mut(place))
                && slot.answer.is_none()
                && !*asked
            {
                *asked = true;
                open.push((input, place));
            }
        }
        // A stable sort, so that batches do not depend on the hash table.
        open.sort_by_key(|(input, _)| std::cmp::Reverse(input.length()));
        for batch in open.chunks(most.max(1)) {
            let inputs: Vec<K> = batch.iter().map(|&(input, _)| input).collect();
            for (answer, &(_, place)) in model(&inputs)?.into_iter().zip(batch) {
                if let Some(slot) = self.slots.get_mut(place) {
                    slot.answer = Some(answer);
                }
            }
        }
        Ok(())
    }

    /// The answer for an input, where it has one.
    pub(crate) fn get(&self, input: K) -> Option<&V> {
        self.slots.get(*self.places.get(&input)?)?.answer.as_ref()
    }

    /// Notes that these inputs have been used once each.
    pub(crate) fn release(&mut self, inputs: impl Iterator<Item = K>) {
        for input in inputs {
            if let Some(&place) = self.places.get(&input)
                && let Some(slot) = self.slots.get_mut(place)
            {
                slot.uses = slot.uses.saturating_sub(1);
                if slot.uses == 0 {
                    slot.answer = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_is_asked_for_once_the_longest_first() {
        let texts = ["bb", "a", "bb", "dddd", "ccc", "a"];
        let mut once = Once::of(texts.iter().copied());
        let mut batches = Vec::new();
        let mut ask = |once: &mut Once<&'static str, usize>, texts: &[&'static str]| {
            let answered: Result<(), ()> = once.answer(texts.iter().copied(), 2, |batch| {
                batches.push(batch.to_vec());
                Ok(batch.iter().map(|text| text.len()).collect())
            });
            answered.unwrap();
        };
        ask(&mut once, &texts[..4]);
        assert_eq!((once.get("bb"), once.get("ccc"), once.get("other")), (Some(&2), None, None));
        once.release(texts[..4].iter().copied());
        assert_eq!((once.get("bb"), once.get("dddd"), once.get("a")), (None, None, Some(&1)));
        ask(&mut once, &texts[4..]);
        once.release(texts[4..].iter().copied());
        assert_eq!((once.get("a"), once.get("ccc")), (None, None));
        assert_eq!(batches, [vec!["dddd", "bb"], vec!["a"], vec!["ccc"]]);
    }
}
