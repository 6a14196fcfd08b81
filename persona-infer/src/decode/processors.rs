//! Changes to next-token logits, each as in transformers' `LogitsProcessor` of that name.
//!
//! Every function takes logits `[B, V]` in float32 for B rows and V tokens, and returns new ones; a token that cannot
//! be chosen any more gets minus infinity. Of several, transformers applies them in the order of this module.

use tch::{Kind, Tensor};

use super::config::{
    check_epsilon, check_min_p, check_repetition_penalty, check_temperature, check_top_k, check_top_p,
    check_typical_p,
};
use crate::error::{Error, Result};

const REMOVED: f64 = f64::NEG_INFINITY;

/// Makes tokens of each row's history less likely: positive logits are divided by the penalty, negative ones multiplied
/// (Keskar et al. 2019). `histories` has one list of tokens a row, prompt and reply.
///
/// # Errors
/// [`Error::Config`] for a penalty that is not above 0; [`Error::Prompt`] for a token outside the vocabulary, or another
/// number of histories than rows.
pub fn repetition_penalty(logits: &Tensor, penalty: f64, histories: &[&[u32]]) -> Result<Tensor> {
    check_repetition_penalty(penalty)?;
    let seen = histories.iter().enumerate().flat_map(|(row, ids)| ids.iter().map(move |&id| (row, id)));
    let Some(places) = Places::new(logits, histories.len(), seen)? else {
        return Ok(logits.shallow_clone());
    };
    let scores = places.read(logits)?;
    let lower =
        scores.f_mul_scalar(penalty)?.f_where_self(&scores.f_lt(0.0)?, &scores.f_div_scalar(penalty)?)?;
    places.write(logits, &lower)
}

/// Removes the tokens that would complete an n-gram of `size` tokens that a row's history holds already.
///
/// # Errors
/// [`Error::Config`] for size 0; [`Error::Prompt`] as [`repetition_penalty`].
pub fn no_repeat_ngrams(logits: &Tensor, size: usize, histories: &[&[u32]]) -> Result<Tensor> {
    if size == 0 {
        return Err(Error::Config {
            key: "no_repeat_ngram_size",
            reason: "is 0; give at least 1".to_owned(),
        });
    }
    let repeats = histories
        .iter()
        .enumerate()
        .flat_map(|(row, history)| completions(history, size).map(move |id| (row, id)));
    remove(logits, histories.len(), repeats)
}

/// The tokens that would complete an n-gram of the history for a second time.
pub(super) fn completions(history: &[u32], size: usize) -> impl Iterator<Item = u32> {
    let begun = (history.len() + 1).checked_sub(size).and_then(|from| history.get(from..));
    history.windows(size).filter_map(move |window| {
        let (last, before) = window.split_last()?;
        (begun == Some(before)).then_some(*last)
    })
}

/// Removes some tokens of some rows, as `(row, token)`: stop tokens, in rows that are too short to end.
///
/// # Errors
/// [`Error::Prompt`] for a row or token that the logits do not have.
pub fn forbid(logits: &Tensor, tokens: &[(usize, u32)]) -> Result<Tensor> {
    remove(logits, logits.size2()?.0 as usize, tokens.iter().copied())
}

fn remove(logits: &Tensor, rows: usize, tokens: impl Iterator<Item = (usize, u32)>) -> Result<Tensor> {
    let Some(places) = Places::new(logits, rows, tokens)? else { return Ok(logits.shallow_clone()) };
    let removed = Tensor::f_full([places.0.numel() as i64], REMOVED, (logits.kind(), logits.device()))?;
    places.write(logits, &removed)
}

/// Indexes into logits as one line, `[P]`.
struct Places(Tensor);

impl Places {
    fn new(logits: &Tensor, rows: usize, tokens: impl Iterator<Item = (usize, u32)>) -> Result<Option<Self>> {
        let (count, vocabulary) = logits.size2()?;
        if rows != count as usize {
            let reason = format!("{rows} rows were given for {count} rows of logits");
            return Err(Error::Prompt { index: rows.min(count as usize), reason });
        }
        let mut places = Vec::new();
        for (row, id) in tokens {
            if row >= rows || i64::from(id) >= vocabulary {
                let reason = format!("has token id {id}, outside the model's vocabulary of {vocabulary}");
                return Err(Error::Prompt { index: row, reason });
            }
            places.push(row as i64 * vocabulary + i64::from(id));
        }
        if places.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self(Tensor::f_from_slice(&places)?.f_to_device(logits.device())?)))
    }

    fn read(&self, logits: &Tensor) -> Result<Tensor> {
        Ok(logits.f_reshape([-1])?.f_index_select(0, &self.0)?)
    }

    /// A place that stands here twice is given one value twice.
    fn write(&self, logits: &Tensor, values: &Tensor) -> Result<Tensor> {
        Ok(logits.f_reshape([-1])?.f_index_copy(0, &self.0, values)?.f_view_as(logits)?)
    }
}

/// Divides by the temperature.
///
/// # Errors
/// [`Error::Config`] for one that is not above 0.
pub fn temperature(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    check_temperature(temperature)?;
    Ok(logits.f_div_scalar(temperature)?)
}

/// Keeps the `count` likeliest tokens, and those as likely as the last of them.
///
/// # Errors
/// [`Error::Config`] for 0.
pub fn top_k(logits: &Tensor, count: usize) -> Result<Tensor> {
    check_top_k(count)?;
    let count = (count as i64).min(logits.size2()?.1);
    let (best, _) = logits.f_topk(count, -1, true, true)?;
    let last = best.f_narrow(-1, count - 1, 1)?;
    Ok(logits.f_masked_fill(&logits.f_lt_tensor(&last)?, REMOVED)?)
}

/// Keeps the fewest likeliest tokens whose probabilities sum to `p` or more (Holtzman et al. 2020).
///
/// # Errors
/// [`Error::Config`] unless `p` is above 0 and at most 1.
pub fn top_p(logits: &Tensor, p: f64) -> Result<Tensor> {
    check_top_p(p)?;
    let (sorted, order) = logits.f_sort(-1, false)?;
    let below = sorted.f_softmax(-1, None)?.f_cumsum(-1, None)?;
    let removed = below.f_le(1.0 - p)?;
    // The likeliest always stays.
    let _ = removed.f_narrow(-1, logits.size2()?.1 - 1, 1)?.f_fill_(0)?;
    masked_in_order(logits, &removed, &order)
}

/// Keeps the tokens at least `p` times as likely as the likeliest (Nguyen et al. 2025).
///
/// # Errors
/// [`Error::Config`] unless `p` lies from 0 to 1.
pub fn min_p(logits: &Tensor, p: f64) -> Result<Tensor> {
    check_min_p(p)?;
    let probabilities = logits.f_softmax(-1, None)?;
    let least = probabilities.f_amax([-1i64].as_slice(), true)?.f_mul_scalar(p)?;
    Ok(logits.f_masked_fill(&probabilities.f_lt_tensor(&least)?, REMOVED)?)
}

/// Keeps the tokens whose surprise is nearest to the entropy, up to the mass `p` (Meister et al. 2023).
///
/// # Errors
/// [`Error::Config`] unless `p` lies between 0 and 1.
pub fn typical_p(logits: &Tensor, p: f64) -> Result<Tensor> {
    check_typical_p(p)?;
    let log_probs = logits.f_log_softmax(-1, None)?;
    let entropy = log_probs.f_mul(&log_probs.f_exp()?)?.f_nansum([-1i64].as_slice(), true, None)?.f_neg()?;
    let (distance, order) = log_probs.f_neg()?.f_sub(&entropy)?.f_abs()?.f_sort(-1, false)?;
    let mass = logits.f_gather(-1, &order, false)?.f_softmax(-1, None)?.f_cumsum(-1, None)?;
    let last = mass.f_lt(p)?.f_sum_dim_intlist([-1i64].as_slice(), true, Kind::Int64)?;
    let last = last.f_clamp_max(logits.size2()?.1 - 1)?;
    let removed = distance.f_gt_tensor(&distance.f_gather(-1, &last, false)?)?;
    let _ = removed.f_narrow(-1, 0, 1)?.f_fill_(0)?;
    masked_in_order(logits, &removed, &order)
}

/// Keeps the tokens at least as probable as `epsilon`, and always the likeliest (Hewitt et al. 2022).
///
/// # Errors
/// [`Error::Config`] unless `epsilon` lies between 0 and 1.
pub fn epsilon_cutoff(logits: &Tensor, epsilon: f64) -> Result<Tensor> {
    check_epsilon(epsilon)?;
    let rare = logits.f_softmax(-1, None)?.f_lt(epsilon)?;
    let highest = logits.f_amax([-1i64].as_slice(), true)?;
    Ok(logits.f_masked_fill(&rare.f_logical_and(&logits.f_lt_tensor(&highest)?)?, REMOVED)?)
}

/// Removes tokens by a mask over each row in another order.
fn masked_in_order(logits: &Tensor, removed: &Tensor, order: &Tensor) -> Result<Tensor> {
    Ok(logits.f_masked_fill(&removed.f_scatter(-1, order, removed)?, REMOVED)?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn logits() -> Tensor {
        Tensor::from_slice(&[2.0f32, 1.0, -1.0, 0.5, 3.0, 3.0, 0.0, -2.0]).view([2, 4])
    }

    fn rows(tensor: Result<Tensor>) -> Vec<Vec<f32>> {
        Vec::<Vec<f32>>::try_from(tensor.unwrap()).unwrap()
    }

    const GONE: f32 = f32::NEG_INFINITY;

    #[test]
    fn histories_are_counted_a_row_at_a_time() {
        let got = rows(repetition_penalty(&logits(), 2.0, &[&[0, 2, 0], &[]]));
        assert_eq!(got, [[1.0, 1.0, -2.0, 0.5], [3.0, 3.0, 0.0, -2.0]]);
        let got = rows(no_repeat_ngrams(&logits(), 2, &[&[1, 2, 1, 3, 1], &[1, 2]]));
        assert_eq!(got, [[2.0, 1.0, GONE, GONE], [3.0, 3.0, 0.0, -2.0]]);
        let got = rows(no_repeat_ngrams(&logits(), 1, &[&[1], &[2]]));
        assert_eq!((got[0][1], got[1][2]), (GONE, GONE));
        assert_eq!(rows(no_repeat_ngrams(&logits(), 3, &[&[1, 1], &[0; 0]])), rows(Ok(logits())));
        assert_eq!(rows(forbid(&logits(), &[(1, 0)]))[1], [GONE, 3.0, 0.0, -2.0]);
    }

    #[test]
    fn the_likeliest_always_stays() {
        let best = |row: &[f32]| row.iter().filter(|logit| **logit > GONE).count();
        assert_eq!(rows(top_k(&logits(), 1)).iter().map(|row| best(row)).collect::<Vec<_>>(), [1, 2]);
        for got in [top_p(&logits(), 1e-9), min_p(&logits(), 1.0), epsilon_cutoff(&logits(), 0.999)] {
            assert_eq!(rows(got)[0], [2.0, GONE, GONE, GONE]);
        }
        assert_eq!(rows(top_k(&logits(), 99)), rows(Ok(logits())));
        assert_eq!(rows(min_p(&logits(), 0.0)), rows(Ok(logits())));
        assert!(rows(typical_p(&logits(), 1e-9)).iter().all(|row| best(row) >= 1));
    }

    #[test]
    fn impossible_settings_and_tokens_are_named() {
        let message = |result: Result<Tensor>| result.unwrap_err().to_string();
        assert!(message(temperature(&logits(), 0.0)).contains("temperature"));
        assert!(message(top_k(&logits(), 0)).contains("top_k"));
        assert!(message(top_p(&logits(), 0.0)).contains("top_p"));
        assert!(message(min_p(&logits(), 2.0)).contains("min_p"));
        assert!(message(typical_p(&logits(), 0.0)).contains("typical_p"));
        assert!(message(epsilon_cutoff(&logits(), 1.0)).contains("epsilon_cutoff"));
        assert!(message(no_repeat_ngrams(&logits(), 0, &[&[], &[]])).contains("no_repeat_ngram_size"));
        assert!(
            message(repetition_penalty(&logits(), 2.0, &[&[0], &[4]])).contains("prompt 1: has token id 4")
        );
        assert!(message(repetition_penalty(&logits(), -2.0, &[&[0], &[1]])).contains("repetition_penalty"));
        assert!(message(repetition_penalty(&logits(), 2.0, &[&[0]])).contains("2 rows of logits"));
        assert!(message(forbid(&logits(), &[(2, 0)])).contains("prompt 2"));
        assert!(message(top_k(&Tensor::zeros([3], (Kind::Float, Device::Cpu)), 1)).contains("libtorch"));
    }
}
