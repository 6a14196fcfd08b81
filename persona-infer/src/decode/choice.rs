//! How the next token of each row is chosen from its logits.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::config::DecodeConfig;
use super::processors;
use crate::error::{Error, Result};

/// A row whose next token is to be chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next<'a> {
    /// The prompt's index, for errors.
    pub(crate) prompt: usize,
    /// Prompt and reply so far.
    pub(crate) history: &'a [u32],
    /// Tokens of the reply so far.
    pub(crate) new: usize,
    /// What ends a reply that is not too short.
    pub(crate) ends: &'a [u32],
    /// Whether the reply is too short to end.
    pub(crate) short: bool,
    /// Where this row's random numbers come from.
    pub(crate) draws: Draws,
}

/// The random numbers of one row: one for every place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draws {
    pub(crate) seed: u64,
    pub(crate) stream: u64,
}

impl Draws {
    /// A number from 0 to below 1 that belongs to this place, whatever was drawn before.
    fn at(self, place: usize) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        rng.set_word_pos(place as u128);
        f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
    }
}

impl DecodeConfig {
    /// Whether two requests choose tokens in the same way, so that their rows are processed as one.
    pub(crate) fn chooses_like(&self, other: &Self) -> bool {
        let way = |config: &Self| Self {
            seed: 0,
            max_new_tokens: 1,
            min_length: 0,
            min_new_tokens: 0,
            num_return_sequences: 1,
            batch_size: 1,
            ..*config
        };
        way(self) == way(other)
    }

    /// Whether a row is too short to end, with prompt and reply of these lengths.
    pub(crate) fn is_short(&self, length: usize, new: usize) -> bool {
        length < self.min_length || new < self.min_new_tokens
    }

    /// The logits `[B, V]` of rows with the penalties and minimum lengths applied.
    pub(crate) fn constrain(&self, logits: &Tensor, rows: &[Next<'_>]) -> Result<Tensor> {
        let mut logits = logits.shallow_clone();
        let histories: Vec<&[u32]> = rows.iter().map(|row| row.history).collect();
        if self.repetition_penalty != 1.0 {
            logits = processors::repetition_penalty(&logits, self.repetition_penalty, &histories)?;
        }
        if self.no_repeat_ngram_size > 0 {
            logits = processors::no_repeat_ngrams(&logits, self.no_repeat_ngram_size, &histories)?;
        }
        let early: Vec<(usize, u32)> = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.short)
            .flat_map(|(at, row)| row.ends.iter().map(move |&end| (at, end)))
            .collect();
        if early.is_empty() { Ok(logits) } else { processors::forbid(&logits, &early) }
    }

    /// The next token of every row from constrained logits `[B, V]`; of equal logits the lowest id counts as the
    /// likeliest.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the model's logits are not numbers, [`Error::NoToken`] where all are ruled out.
    pub(crate) fn choose(&self, logits: &Tensor, rows: &[Next<'_>]) -> Result<Vec<u32>> {
        if self.temperature == 0.0 {
            let (best, ids) = logits.f_max_dim(-1, false)?;
            for (row, value) in rows.iter().zip(Vec::<f32>::try_from(&best)?) {
                row.check(value)?;
            }
            return tokens(&ids);
        }
        // Among the k likeliest the other cuts find what they would find among all.
        let (candidates, ids) = match self.top_k {
            Some(count) => {
                let count = (count as i64).min(logits.size2()?.1);
                let (values, ids) = logits.f_topk(count, -1, true, true)?;
                (values, Some(ids))
            }
            None => (logits.shallow_clone(), None),
        };
        let candidates = self.cut(candidates)?;
        let sums = candidates.f_softmax(-1, None)?.f_cumsum(-1, Kind::Double)?;
        let last = sums.size2()?.1 - 1;
        let total = sums.f_narrow(-1, last, 1)?;
        let totals = Vec::<f64>::try_from(&total.f_flatten(0, -1)?)?;
        if let Some(at) = totals.iter().position(|total| !total.is_finite()) {
            let highest = logits.f_get(at as i64)?.f_max()?.f_double_value(&[])? as f32;
            if let Some(row) = rows.get(at) {
                row.check(highest)?;
            }
        }
        // One number a row, and the token whose share of the sum it falls into.
        let numbers: Vec<f64> = rows.iter().map(|row| row.draws.at(row.new)).collect();
        let numbers = Tensor::f_from_slice(&numbers)?.f_to_device(sums.device())?.f_unsqueeze(1)?;
        let drawn = numbers.f_mul(&total)?.f_searchsorted(&sums, false, true, "right", None::<Tensor>)?;
        let drawn = drawn.f_clamp_max(last)?;
        let drawn = match ids {
            Some(ids) => ids.f_gather(-1, &drawn, false)?,
            None => drawn,
        };
        tokens(&drawn.f_flatten(0, -1)?)
    }

    /// Temperature and the cuts of sampling but for top-k.
    fn cut(&self, mut logits: Tensor) -> Result<Tensor> {
        if self.temperature != 1.0 {
            logits = processors::temperature(&logits, self.temperature)?;
        }
        if let Some(p) = self.top_p.filter(|p| *p < 1.0) {
            logits = processors::top_p(&logits, p)?;
        }
        if let Some(p) = self.min_p {
            logits = processors::min_p(&logits, p)?;
        }
        if let Some(p) = self.typical_p {
            logits = processors::typical_p(&logits, p)?;
        }
        if let Some(epsilon) = self.epsilon_cutoff {
            logits = processors::epsilon_cutoff(&logits, epsilon)?;
        }
        Ok(logits)
    }
}

impl Next<'_> {
    /// Whether a row's highest logit is one to choose by.
    pub(crate) fn check(&self, highest: f32) -> Result<()> {
        let (index, tokens) = (self.prompt, self.new);
        if highest == f32::NEG_INFINITY {
            return Err(Error::NoToken { index, tokens });
        }
        if !highest.is_finite() {
            return Err(Error::NonFinite { index, tokens, value: highest });
        }
        Ok(())
    }
}

fn tokens(ids: &Tensor) -> Result<Vec<u32>> {
    Ok(Vec::<i64>::try_from(ids)?.into_iter().map(|id| id as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 4000;

    fn next(stream: usize) -> Next<'static> {
        let draws = Draws { seed: 0, stream: stream as u64 };
        Next { prompt: stream, history: &[0], new: 3, ends: &[], short: false, draws }
    }

    fn sampled(config: DecodeConfig, probabilities: &[f32]) -> Vec<f64> {
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        let logits = Tensor::from_slice(&logits).unsqueeze(0).repeat([ROWS as i64, 1]);
        let rows: Vec<Next<'_>> = (0..ROWS).map(next).collect();
        let mut shares = vec![0.0; probabilities.len()];
        for token in config.choose(&logits, &rows).unwrap() {
            shares[token as usize] += 1.0 / ROWS as f64;
        }
        shares
    }

    fn near(shares: &[f64], expected: &[f64]) {
        assert!(
            shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.03),
            "{shares:?}, not {expected:?}"
        );
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let logits = Tensor::from_slice(&[0.5f32, 2.0, 2.0, -1.0]).unsqueeze(0);
        assert_eq!(DecodeConfig::default().choose(&logits, &[next(0)]).unwrap(), [1]);
    }

    #[test]
    fn drawing_follows_the_probabilities() {
        let base = DecodeConfig { temperature: 1.0, ..DecodeConfig::default() };
        let p = [0.2, 0.7, 0.1];
        near(&sampled(base, &p), &[0.2, 0.7, 0.1]);
        // Half the temperature squares the probabilities.
        near(&sampled(DecodeConfig { temperature: 0.5, ..base }, &p), &[0.074, 0.907, 0.019]);
        let only = |config: DecodeConfig, expected: [f64; 3]| {
            let shares = sampled(config, &p);
            near(&shares, &expected);
            assert!(shares.iter().zip(expected).all(|(a, b)| (*a == 0.0) == (b == 0.0)), "{shares:?}");
        };
        only(DecodeConfig { top_k: Some(2), ..base }, [0.222, 0.778, 0.0]);
        only(DecodeConfig { top_k: Some(9), ..base }, [0.2, 0.7, 0.1]);
        only(DecodeConfig { top_p: Some(0.75), ..base }, [0.222, 0.778, 0.0]);
        only(DecodeConfig { top_k: Some(2), top_p: Some(0.7), ..base }, [0.0, 1.0, 0.0]);
        only(DecodeConfig { top_p: Some(1e-9), ..base }, [0.0, 1.0, 0.0]);
        only(DecodeConfig { min_p: Some(0.2), ..base }, [0.222, 0.778, 0.0]);
        only(DecodeConfig { epsilon_cutoff: Some(0.15), ..base }, [0.222, 0.778, 0.0]);
        only(DecodeConfig { typical_p: Some(0.6), ..base }, [0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_draw_belongs_to_its_seed_row_and_place() {
        let draw = |seed, stream, place| Draws { seed, stream }.at(place);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        assert!([draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)].iter().all(|other| *other != draw(1, 2, 3)));
        assert!((0..1000).all(|place| (0.0..1.0).contains(&draw(9, 0, place))));
    }

    #[test]
    fn constraints_know_histories_and_ends() {
        let config =
            DecodeConfig { repetition_penalty: 2.0, no_repeat_ngram_size: 2, ..DecodeConfig::default() };
        let logits = Tensor::from_slice(&[4.0f32, 3.0, 2.0, 1.0]).unsqueeze(0).repeat([2, 1]);
        let row = |history, short| Next { history, ends: &[3], short, ..next(0) };
        let got = config.constrain(&logits, &[row(&[0, 1, 0], true), row(&[0, 2], false)]).unwrap();
        let gone = f32::NEG_INFINITY;
        let got = Vec::<Vec<f32>>::try_from(got).unwrap();
        assert_eq!(got, [[2.0, gone, 2.0, gone], [2.0, 3.0, 1.0, 1.0]]);
    }

    #[test]
    fn logits_without_a_choice_are_errors() {
        let drawn = DecodeConfig { temperature: 1.0, ..DecodeConfig::default() };
        let cut = DecodeConfig { top_k: Some(2), top_p: Some(0.5), ..drawn };
        for config in [DecodeConfig::default(), drawn, cut] {
            for (value, error) in
                [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "no token is left")]
            {
                let bad = if value == f32::NEG_INFINITY { [value; 3] } else { [1.0, value, 0.0] };
                let logits = Tensor::from_slice2(&[[1.0f32, 2.0, 0.0], bad]);
                let message = config.choose(&logits, &[next(0), next(5)]).unwrap_err().to_string();
                assert!(message.contains("prompt 5") && message.contains(error), "{message}");
            }
        }
    }
}
