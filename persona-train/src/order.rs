//! Which examples a step takes, from the seed and the step alone.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The order of examples over all epochs. An epoch takes every example once; its batches hold examples of similar
/// length, in shuffled order. Nothing is stored between steps, so a run continues from its step number.
#[derive(Debug)]
pub struct Order {
    lengths: Vec<usize>,
    batch_size: usize,
    seed: u64,
    epoch: Option<(u64, Vec<Vec<usize>>)>,
}

/// So many batches are sorted by length together: enough for little padding, few enough to keep an epoch random.
const POOL: usize = 32;

impl Order {
    /// For examples of these lengths, in tokens.
    #[must_use]
    pub fn new(lengths: Vec<usize>, batch_size: usize, seed: u64) -> Self {
        Self { lengths, batch_size: batch_size.max(1), seed, epoch: None }
    }

    /// How many steps take every example once.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.lengths.len().div_ceil(self.batch_size) as u64
    }

    /// The examples of a step, counted from 1; longest first, so that memory peaks at once.
    pub fn batch(&mut self, step: u64) -> &[usize] {
        let per_epoch = self.steps_per_epoch().max(1);
        let done = step.saturating_sub(1);
        let (epoch, at) = (done / per_epoch, done % per_epoch);
        if self.epoch.as_ref().is_none_or(|(held, _)| *held != epoch) {
            self.epoch = Some((epoch, self.batches(epoch)));
        }
        self.epoch.as_ref().and_then(|(_, batches)| batches.get(at as usize)).map_or(&[], Vec::as_slice)
    }

    fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut rng = generator(self.seed, &[epoch]);
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        order.shuffle(&mut rng);
        for pool in order.chunks_mut(self.batch_size.saturating_mul(POOL)) {
            pool.sort_by_key(|&example| std::cmp::Reverse(self.lengths[example]));
        }
        let mut batches: Vec<Vec<usize>> = order.chunks(self.batch_size).map(<[usize]>::to_vec).collect();
        batches.shuffle(&mut rng);
        batches
    }
}

/// A generator for one purpose of a run: the same numbers give the same stream, other numbers an unrelated one.
pub(crate) fn generator(seed: u64, parts: &[u64]) -> ChaCha8Rng {
    let mut state = seed;
    for &part in parts {
        // Each part passes through the generator, so that (1, 2) and (2, 1) differ.
        state = ChaCha8Rng::seed_from_u64(state.wrapping_add(part).wrapping_add(1)).random();
    }
    ChaCha8Rng::seed_from_u64(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_takes_every_example_once() {
        let lengths: Vec<usize> = (0..103).map(|at| at * 7 % 31).collect();
        let mut order = Order::new(lengths.clone(), 10, 5);
        assert_eq!(order.steps_per_epoch(), 11);
        let mut first: Vec<usize> = (1..=11).flat_map(|step| order.batch(step).to_vec()).collect();
        let second: Vec<usize> = (12..=22).flat_map(|step| order.batch(step).to_vec()).collect();
        assert_ne!(first, second);
        first.sort_unstable();
        assert_eq!(first, (0..103).collect::<Vec<_>>());
    }

    #[test]
    fn a_step_has_the_same_examples_wherever_the_run_began() {
        let lengths = vec![3; 40];
        let mut whole = Order::new(lengths.clone(), 8, 1);
        for step in 1..=12 {
            let _ = whole.batch(step);
        }
        assert_eq!(Order::new(lengths.clone(), 8, 1).batch(13), whole.batch(13));
        assert_ne!(Order::new(lengths, 8, 2).batch(13), whole.batch(13));
    }
}
