//! What the benches compute on: the shape of a model, and token ids drawn from a seed.
//!
//! Speed does not depend on what a model has learned, so weights and tokens are random; lengths are those of PAL's
//! English examples under a vocabulary of this size.

use persona_data::{EncodedExample, EncodedPair, Task};
use persona_model::Gpt2Config;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The number of token ids.
pub const VOCABULARY: usize = 8192;

/// A GPT-2 of 13.9 million parameters: 6 layers, 384 hidden, 6 heads, 256 positions, dropout 0.1.
#[must_use]
pub fn shape() -> Gpt2Config {
    Gpt2Config {
        vocab_size: VOCABULARY,
        n_positions: 256,
        n_embd: 384,
        n_layer: 6,
        n_head: 6,
        bos_token_id: None,
        eos_token_id: None,
        ..Gpt2Config::default()
    }
}

/// Examples for the next-token objective: prompts of 96 to 160 tokens, targets of 8 to 18.
#[must_use]
pub fn examples(count: usize, seed: u64) -> Vec<EncodedExample> {
    let mut draw = Draw::new(seed);
    (0..count)
        .map(|at| EncodedExample {
            id: format!("example-{at}"),
            task: Task::MIXED[at % Task::MIXED.len()],
            source: draw.prompt(),
            target: draw.reply(),
        })
        .collect()
}

/// Preference pairs: prompts of 96 to 160 tokens, both replies of 8 to 18.
#[must_use]
pub fn pairs(count: usize, seed: u64) -> Vec<EncodedPair> {
    let mut draw = Draw::new(seed);
    (0..count)
        .map(|at| EncodedPair {
            id: format!("pair-{at}"),
            prompt: draw.prompt(),
            chosen: draw.reply(),
            rejected: draw.reply(),
        })
        .collect()
}

/// Prompts for decoding, of 96 to 160 tokens.
#[must_use]
pub fn prompts(count: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut draw = Draw::new(seed);
    (0..count).map(|_| draw.prompt()).collect()
}

struct Draw(ChaCha8Rng);

impl Draw {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn prompt(&mut self) -> Vec<u32> {
        self.tokens(96, 160)
    }

    fn reply(&mut self) -> Vec<u32> {
        self.tokens(8, 18)
    }

    fn tokens(&mut self, shortest: usize, longest: usize) -> Vec<u32> {
        let len = self.0.random_range(shortest..=longest);
        (0..len).map(|_| self.0.random_range(0..VOCABULARY as u32)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_means_are_128_and_13_tokens_and_a_seed_is_one_workload() {
        let pairs = pairs(2000, 1);
        let mean =
            |of: fn(&EncodedPair) -> usize| pairs.iter().map(of).sum::<usize>() as f64 / pairs.len() as f64;
        assert!((mean(|pair| pair.prompt.len()) - 128.0).abs() < 2.0);
        assert!((mean(|pair| pair.chosen.len()) - 13.0).abs() < 0.5);
        assert!((mean(|pair| pair.rejected.len()) - 13.0).abs() < 0.5);
        assert_eq!(pairs[..16], super::pairs(16, 1));
        assert_ne!(pairs[..16], super::pairs(16, 2));
    }

    #[test]
    fn every_row_fits_the_shape() {
        let config = shape();
        config.validate().unwrap();
        for example in examples(500, 3) {
            assert!(example.source.len() + example.target.len() <= config.n_positions);
            assert!(
                example.source.iter().chain(&example.target).all(|&id| (id as usize) < config.vocab_size)
            );
        }
        assert!(prompts(500, 3).iter().all(|prompt| prompt.len() + 40 <= config.n_positions));
    }
}
