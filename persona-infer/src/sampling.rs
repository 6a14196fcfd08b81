//! How the next token is chosen from its logits.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How tokens are chosen, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeConfig {
    /// New tokens of a reply at most, its end included.
    pub max_new_tokens: usize,
    /// 0 for greedy decoding; otherwise logits are divided by this and a token is drawn.
    pub temperature: f64,
    /// Only so many of the likeliest tokens can be drawn.
    pub top_k: Option<usize>,
    /// Only the fewest likeliest tokens whose probabilities sum to this can be drawn (Holtzman et al. 2020).
    pub top_p: Option<f64>,
    /// What is drawn follows from this, the prompt's index and the token's place alone, never from other prompts.
    pub seed: u64,
    /// Prompts decoded together.
    pub batch_size: usize,
}

impl Default for DecodeConfig {
    /// Greedy, 40 tokens, as PAL decodes.
    fn default() -> Self {
        Self { max_new_tokens: 40, temperature: 0.0, top_k: None, top_p: None, seed: 0, batch_size: 64 }
    }
}

impl DecodeConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] with the key.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, reason: &str| Err(Error::Config { key, reason: reason.to_owned() });
        if self.max_new_tokens == 0 {
            return fail("max_new_tokens", "is 0; give at least 1");
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return fail("temperature", "must be 0 (greedy) or above, and finite");
        }
        if self.top_k == Some(0) {
            return fail("top_k", "is 0; give at least 1, or leave it out");
        }
        if self.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
            return fail("top_p", "lies above 0 and at most at 1; leave it out for no cut");
        }
        if self.batch_size == 0 {
            return fail("batch_size", "is 0; give at least 1");
        }
        Ok(())
    }

    /// The next token of a prompt after `place` new tokens; of equal logits the lowest id counts as the likeliest.
    /// Temperature, top-k and top-p are applied in this order, as in transformers.
    pub(crate) fn choose(&self, logits: &[f32], prompt: usize, place: usize) -> u32 {
        if self.temperature == 0.0 {
            return likeliest(logits);
        }
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let keep = self.top_k.unwrap_or(ids.len()).min(ids.len());
        if keep < ids.len() {
            ids.select_nth_unstable_by(keep - 1, by_logit);
            ids.truncate(keep);
        }
        ids.sort_unstable_by(by_logit);
        let highest = f64::from(logits[ids[0] as usize]);
        let mut weights: Vec<f64> = ids
            .iter()
            .map(|&id| ((f64::from(logits[id as usize]) - highest) / self.temperature).exp())
            .collect();
        if let Some(p) = self.top_p {
            let wanted = p * weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let needed = weights.iter().position(|weight| {
                sum += weight;
                sum >= wanted
            });
            weights.truncate(needed.map_or(weights.len(), |last| last + 1));
        }
        let mut left = uniform(self.seed, prompt, place) * weights.iter().sum::<f64>();
        for (id, weight) in ids.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return *id;
            }
        }
        ids[weights.len() - 1]
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// A number in 0 to 1 that belongs to this seed, prompt and place.
fn uniform(seed: u64, prompt: usize, place: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(prompt as u64);
    rng.set_word_pos(place as u128 * 2);
    rng.random()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(config: DecodeConfig, logits: &[f32]) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for prompt in 0..4000 {
            counts[config.choose(logits, prompt, 3) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(DecodeConfig::default().choose(&[0.5, 2.0, 2.0, -1.0], 0, 0), 1);
    }

    #[test]
    fn drawing_follows_the_probabilities() {
        let logits = [0.7f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let base = DecodeConfig { temperature: 1.0, ..DecodeConfig::default() };
        let counts = sampled(base, &logits);
        for (count, share) in counts.iter().zip([0.7, 0.2, 0.1]) {
            assert!((*count as f64 / 4000.0 - share).abs() < 0.03, "{counts:?}");
        }
        // Half the temperature squares the probabilities: 0.49 / 0.54.
        let counts = sampled(DecodeConfig { temperature: 0.5, ..base }, &logits);
        assert!((counts[0] as f64 / 4000.0 - 0.907).abs() < 0.03, "{counts:?}");
        let counts = sampled(DecodeConfig { top_k: Some(2), ..base }, &logits);
        assert!(counts[2] == 0 && (counts[1] as f64 / 4000.0 - 0.222).abs() < 0.03, "{counts:?}");
        assert_eq!(sampled(DecodeConfig { top_p: Some(0.7), ..base }, &logits), [4000, 0, 0]);
        assert_eq!(sampled(DecodeConfig { top_p: Some(0.75), ..base }, &logits)[2], 0);
        assert_eq!(
            sampled(DecodeConfig { top_p: Some(1e-9), ..base }, &logits)[0],
            4000,
            "one token is always kept"
        );
    }

    #[test]
    fn a_draw_belongs_to_its_seed_prompt_and_place() {
        assert_eq!(uniform(1, 2, 3), uniform(1, 2, 3));
        let others = [uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4)];
        assert!(others.iter().all(|other| *other != uniform(1, 2, 3)));
    }

    #[test]
    fn impossible_settings_are_named() {
        let base = DecodeConfig::default();
        for (config, key) in [
            (DecodeConfig { max_new_tokens: 0, ..base }, "max_new_tokens"),
            (DecodeConfig { temperature: -1.0, ..base }, "temperature"),
            (DecodeConfig { temperature: f64::NAN, ..base }, "temperature"),
            (DecodeConfig { top_k: Some(0), ..base }, "top_k"),
            (DecodeConfig { top_p: Some(0.0), ..base }, "top_p"),
            (DecodeConfig { top_p: Some(1.5), ..base }, "top_p"),
            (DecodeConfig { batch_size: 0, ..base }, "batch_size"),
        ] {
            assert!(config.validate().unwrap_err().to_string().contains(key));
        }
    }
}
