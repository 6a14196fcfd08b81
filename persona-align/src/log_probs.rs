//! Log-probabilities as the losses take them.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::statistics::TokenStatistics;

/// Log-probabilities of the tokens of B responses.
///
/// # Shapes
/// Log-probabilities and mask are `[B, T]`; the mask is 1 at tokens of the response (its end included) and 0 at prompt and
/// padding, where anything may stand, NaN included.
#[derive(Debug)]
pub struct TokenLogProbs {
    log_probs: Tensor,
    mask: Tensor,
    lengths: Tensor,
    statistics: Option<TokenStatistics>,
}

impl TokenLogProbs {
    /// Takes log-probabilities and their mask.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both are `[B, T]` and hold anything; [`Error::EmptyResponse`] for a row without tokens.
    pub fn new(log_probs: Tensor, mask: Tensor) -> Result<Self> {
        if log_probs.dim() != 2 || log_probs.numel() == 0 {
            let expected = vec![-1, -1];
            return Err(Error::Shape { what: "token log-probabilities", found: log_probs.size(), expected });
        }
        same_shape("mask", &mask, &log_probs)?;
        let mask = mask.f_to_kind(Kind::Float)?.f_gt(0.5)?;
        let tokens = Self::with_mask(log_probs, mask)?;
        if tokens.lengths.f_min()?.f_double_value(&[])? == 0.0 {
            let row = tokens.lengths.f_argmin(0, false)?.f_int64_value(&[])? as usize;
            return Err(Error::EmptyResponse { row });
        }
        Ok(tokens)
    }

    /// With a mask of kind Bool, and no empty row.
    fn with_mask(log_probs: Tensor, mask: Tensor) -> Result<Self> {
        let lengths = mask.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float)?;
        Ok(Self { log_probs: log_probs.f_to_kind(Kind::Float)?, mask, lengths, statistics: None })
    }

    /// From logits: `logits [B, T, V]` at the positions that predict `ids [B, T]`, already shifted by one, in float32
    /// whatever the logits are held in. Where the mask is 0 any id may stand, -100 too.
    ///
    /// # Errors
    /// As [`new`](Self::new), and libtorch's for ids outside the vocabulary.
    pub fn from_logits(logits: &Tensor, ids: &Tensor, mask: Tensor) -> Result<Self> {
        if logits.dim() != 3 || logits.size()[..2] != ids.size()[..] {
            let expected = [ids.size(), vec![-1]].concat();
            return Err(Error::Shape { what: "logits", found: logits.size(), expected });
        }
        same_shape("mask", &mask, ids)?;
        let ids = ids.f_where_self(&mask.f_to_kind(Kind::Float)?.f_gt(0.5)?, &ids.f_zeros_like()?)?;
        let logits = logits.f_to_kind(Kind::Float)?;
        let picked = logits.f_gather(-1, &ids.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
        Self::new(picked.f_sub(&logits.f_logsumexp([-1].as_slice(), false)?)?, mask)
    }

    /// From what a causal language model gives for whole rows, prompt and response: `logits [B, T, V]`, the rows' own
    /// `ids [B, T]`, and a mask `[B, T]` of the response's tokens. The shift by one is made here; T becomes T - 1.
    ///
    /// # Errors
    /// As [`from_logits`](Self::from_logits); [`Error::Shape`] for rows of less than two tokens.
    pub fn from_causal_lm(logits: &Tensor, ids: &Tensor, mask: &Tensor) -> Result<Self> {
        let width = ids.size().get(1).copied().unwrap_or(0) - 1;
        if width < 1 || logits.dim() != 3 || logits.size()[..2] != ids.size()[..] {
            let expected = [ids.size(), vec![-1]].concat();
            return Err(Error::Shape { what: "logits", found: logits.size(), expected });
        }
        same_shape("mask", mask, ids)?;
        let after = |rows: &Tensor| rows.f_narrow(1, 1, width);
        Self::from_logits(&logits.f_narrow(1, 0, width)?, &after(ids)?, after(mask)?)
    }

    /// From tokens without padding: `log_probs [N]` of response after response, `lens` tokens each.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `lens` add up to N; [`Error::EmptyResponse`] for a length of 0.
    pub fn ragged(log_probs: &Tensor, lens: &[usize]) -> Result<Self> {
        let padded = pad("token log-probabilities", log_probs, lens)?;
        if let Some(row) = lens.iter().position(|&len| len == 0) {
            return Err(Error::EmptyResponse { row });
        }
        let lens: Vec<i64> = lens.iter().map(|&len| len as i64).collect();
        let lens = Tensor::f_from_slice(&lens)?.f_to_device(padded.device())?;
        let positions = Tensor::f_arange(padded.size()[1], (Kind::Int64, padded.device()))?;
        Self::with_mask(padded, positions.f_lt_tensor(&lens.f_unsqueeze(1)?)?)
    }

    /// Adds what WPO and some metrics read of the whole distribution.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the statistics are `[B, T]` as the log-probabilities.
    pub fn with_statistics(mut self, statistics: TokenStatistics) -> Result<Self> {
        same_shape("token statistics", statistics.entropy(), &self.log_probs)?;
        self.statistics = Some(statistics);
        Ok(self)
    }

    /// The log-probability of each response, summed over its tokens: `[B]`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn sums(&self) -> Result<Tensor> {
        self.sum_where(&self.log_probs, &self.mask)
    }

    /// The number of tokens of each response: `[B]`.
    pub fn lengths(&self) -> &Tensor {
        &self.lengths
    }

    /// 1 at tokens of the response: `[B, T]`, of kind Bool.
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// What was added by [`with_statistics`](Self::with_statistics).
    #[must_use]
    pub fn statistics(&self) -> Option<&TokenStatistics> {
        self.statistics.as_ref()
    }

    /// Sums in which the tokens after the first `heads` `[B]` of each response count `tail`: `[B]`.
    fn tapered_sums(&self, heads: &Tensor, tail: f64) -> Result<Tensor> {
        let place = self.mask.f_cumsum(1, Kind::Float)?;
        let after = place.f_gt_tensor(&heads.f_unsqueeze(1)?)?;
        let of = |part: &Tensor| self.sum_where(&self.log_probs, &part.f_logical_and(&self.mask)?);
        Ok(of(&after.f_logical_not()?)?.f_add(&of(&after)?.f_mul_scalar(tail)?)?)
    }

    /// Sums of `[B, T]` over the tokens of the response: `[B]`.
    pub(crate) fn masked_sums(&self, per_token: &Tensor) -> Result<Tensor> {
        self.sum_where(per_token, &self.mask)
    }

    fn sum_where(&self, per_token: &Tensor, mask: &Tensor) -> Result<Tensor> {
        // Not a product: what stands at masked positions may be infinite.
        let kept = per_token.f_where_self(mask, &per_token.f_zeros_like()?)?;
        Ok(kept.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float)?)
    }

    /// The logarithm of WPO's weight of each response, `[B]`, without a graph.
    fn log_weights(&self) -> Result<Option<Tensor>> {
        let Some(statistics) = &self.statistics else { return Ok(None) };
        let aligned = self.log_probs.f_detach()?.f_sub(statistics.log_sum_sq_probs())?;
        Ok(Some(self.masked_sums(&aligned)?.f_div(&self.lengths)?))
    }

    /// Responses that stand in turn as chosen and rejected, apart.
    #[cfg(feature = "trainer")]
    pub(crate) fn in_turn(&self) -> Result<[Self; 2]> {
        let side = |at: i64| -> Result<Self> {
            let of = |tensor: &Tensor| tensor.f_slice(0, at, None, 2);
            let statistics = self.statistics.as_ref();
            Ok(Self {
                log_probs: of(&self.log_probs)?,
                mask: of(&self.mask)?,
                lengths: of(&self.lengths)?,
                statistics: statistics.map(|statistics| statistics.map(&of)).transpose()?,
            })
        };
        Ok([side(0)?, side(1)?])
    }

    fn share(&self) -> Self {
        Self {
            log_probs: self.log_probs.shallow_clone(),
            mask: self.mask.shallow_clone(),
            lengths: self.lengths.shallow_clone(),
            statistics: self.statistics.as_ref().map(TokenStatistics::share),
        }
    }
}

/// Log-probabilities of chosen and rejected responses under one model, in nats, summed over each response's tokens.
///
/// # Shapes
/// All `[B]`, the i-th of each belonging to the i-th pair.
#[derive(Debug)]
pub struct PairLogProbs {
    chosen: Tensor,
    rejected: Tensor,
    lengths: Option<[Tensor; 2]>,
    tokens: Option<[TokenLogProbs; 2]>,
}

impl PairLogProbs {
    /// From sums `[B]`. Losses that divide by lengths need [`with_lengths`](Self::with_lengths) too.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both are vectors of one length.
    pub fn from_sums(chosen: Tensor, rejected: Tensor) -> Result<Self> {
        if chosen.dim() != 1 {
            return Err(Error::Shape {
                what: "chosen log-probabilities",
                found: chosen.size(),
                expected: vec![-1],
            });
        }
        same_shape("rejected log-probabilities", &rejected, &chosen)?;
        let (chosen, rejected) = (chosen.f_to_kind(Kind::Float)?, rejected.f_to_kind(Kind::Float)?);
        Ok(Self { chosen, rejected, lengths: None, tokens: None })
    }

    /// The number of tokens of each response, `[B]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have a value for each pair; [`Error::EmptyResponse`] for one below 1.
    pub fn with_lengths(mut self, chosen: &Tensor, rejected: &Tensor) -> Result<Self> {
        same_shape("chosen lengths", chosen, &self.chosen)?;
        same_shape("rejected lengths", rejected, &self.rejected)?;
        for lengths in [chosen, rejected] {
            let short = lengths.f_lt(1.0)?.f_to_kind(Kind::Float)?;
            if short.numel() > 0 && short.f_max()?.f_double_value(&[])? > 0.0 {
                return Err(Error::EmptyResponse {
                    row: short.f_argmax(0, false)?.f_int64_value(&[])? as usize,
                });
            }
        }
        self.lengths = Some([chosen.f_to_kind(Kind::Float)?, rejected.f_to_kind(Kind::Float)?]);
        Ok(self)
    }

    /// From tokens, which serve every loss.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many chosen as rejected responses.
    pub fn from_tokens(chosen: &TokenLogProbs, rejected: &TokenLogProbs) -> Result<Self> {
        let mut pairs = Self::from_sums(chosen.sums()?, rejected.sums()?)?;
        pairs.lengths = Some([chosen.lengths.shallow_clone(), rejected.lengths.shallow_clone()]);
        pairs.tokens = Some([chosen.share(), rejected.share()]);
        Ok(pairs)
    }

    /// The number of pairs B.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.chosen.numel()
    }

    /// The chosen responses' sums, `[B]`.
    pub fn chosen(&self) -> &Tensor {
        &self.chosen
    }

    /// The rejected responses' sums, `[B]`.
    pub fn rejected(&self) -> &Tensor {
        &self.rejected
    }

    /// The tokens of chosen and rejected responses, where there are any.
    pub(crate) fn tokens(&self) -> Option<&[TokenLogProbs; 2]> {
        self.tokens.as_ref()
    }

    /// The lengths of chosen and rejected responses.
    pub(crate) fn lengths(&self, needed_by: &str) -> Result<&[Tensor; 2]> {
        self.lengths.as_ref().ok_or_else(|| Error::Missing {
            what: "the number of tokens of each response",
            needed_by: needed_by.to_owned(),
            how: "add it by PairLogProbs::with_lengths, or give tokens by PairLogProbs::from_tokens",
        })
    }

    /// The mean log-probability a token of chosen and rejected responses.
    pub(crate) fn means(&self, needed_by: &str) -> Result<[Tensor; 2]> {
        let [chosen, rejected] = self.lengths(needed_by)?;
        Ok([self.chosen.f_div(chosen)?, self.rejected.f_div(rejected)?])
    }

    /// The sums, what the longer response has beyond the length of the shorter one counted by `ld_alpha`.
    pub(crate) fn desensitised(&self, ld_alpha: Option<f64>) -> Result<[Tensor; 2]> {
        let Some(alpha) = ld_alpha else {
            return Ok([self.chosen.shallow_clone(), self.rejected.shallow_clone()]);
        };
        let [chosen, rejected] = self.tokens.as_ref().ok_or_else(|| Error::Missing {
            what: "the log-probability of each token, of policy and reference",
            needed_by: "ld_alpha".to_owned(),
            how: "give them by PairLogProbs::from_tokens",
        })?;
        let shared = chosen.lengths.f_minimum(&rejected.lengths)?;
        Ok([chosen.tapered_sums(&shared, alpha)?, rejected.tapered_sums(&shared, alpha)?])
    }

    /// WPO's weight of each pair, `[B]`, without a graph.
    pub(crate) fn weights(&self) -> Result<Tensor> {
        let missing = || Error::Missing {
            what: "the statistics of each token",
            needed_by: "WPO weighting".to_owned(),
            how: "give the policy's tokens with TokenLogProbs::with_statistics",
        };
        let [chosen, rejected] = self.tokens.as_ref().ok_or_else(missing)?;
        let chosen = chosen.log_weights()?.ok_or_else(missing)?;
        Ok(chosen.f_add(&rejected.log_weights()?.ok_or_else(missing)?)?.f_exp()?)
    }

    /// Refuses no pairs, NaN and infinity.
    pub(crate) fn check(&self, whose: [&'static str; 2]) -> Result<()> {
        if self.pairs() == 0 {
            return Err(Error::Shape { what: whose[0], found: vec![0], expected: vec![-1] });
        }
        check_finite(whose[0], &self.chosen)?;
        check_finite(whose[1], &self.rejected)
    }
}

/// Refuses NaN and infinity in `[B]`.
pub(crate) fn check_finite(what: &'static str, sums: &Tensor) -> Result<()> {
    let sums = sums.f_detach()?;
    // The sum of finite float32 numbers is finite in float64.
    if sums.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
        return Ok(());
    }
    let values = Vec::<f32>::try_from(&sums)?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(row) => Err(Error::NonFinite { what, row, value: f64::from(values[row]) }),
    }
}

/// Values of tokens `[N]`, response after response, as rows `[B, T]` with zeros behind each.
pub(crate) fn pad(what: &'static str, per_token: &Tensor, lens: &[usize]) -> Result<Tensor> {
    let longest = lens.iter().copied().max().unwrap_or(0);
    let tokens: usize = lens.iter().sum();
    if per_token.size() != [tokens as i64] || tokens == 0 {
        return Err(Error::Shape { what, found: per_token.size(), expected: vec![tokens as i64] });
    }
    let places: Vec<i64> = lens
        .iter()
        .enumerate()
        .flat_map(|(row, &len)| row * longest..row * longest + len)
        .map(|at| at as i64)
        .collect();
    let device = per_token.device();
    let places = Tensor::f_from_slice(&places)?.f_to_device(device)?;
    let size = (lens.len() * longest) as i64;
    let rows = Tensor::f_zeros([size].as_slice(), (per_token.kind(), device))?;
    Ok(rows.f_index_copy(0, &places, per_token)?.f_view([lens.len() as i64, longest as i64].as_slice())?)
}

pub(crate) fn same_shape(what: &'static str, found: &Tensor, expected: &Tensor) -> Result<()> {
    if found.size() == expected.size() {
        return Ok(());
    }
    Err(Error::Shape { what, found: found.size(), expected: expected.size() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[&[f32]]) -> Tensor {
        let width = values[0].len() as i64;
        Tensor::from_slice(&values.concat()).view([-1, width])
    }

    #[test]
    fn masked_positions_count_for_nothing_and_get_no_gradient() {
        let log_probs =
            rows(&[&[f32::NAN, -1.0, -2.0], &[-3.0, f32::NEG_INFINITY, -4.0]]).set_requires_grad(true);
        let mask = rows(&[&[0.0, 1.0, 1.0], &[1.0, 0.0, 1.0]]);
        let tokens = TokenLogProbs::new(log_probs.shallow_clone(), mask.shallow_clone()).unwrap();
        let sums = tokens.sums().unwrap();
        assert_eq!(Vec::<f32>::try_from(&sums).unwrap(), [-3.0, -7.0]);
        assert_eq!(Vec::<f32>::try_from(tokens.lengths()).unwrap(), [2.0, 2.0]);
        sums.sum(Kind::Float).backward();
        assert_eq!(log_probs.grad(), mask);
    }

    #[test]
    fn ragged_tokens_are_padded_tokens() {
        let flat = Tensor::from_slice(&[-1.0f32, -2.0, -3.0, -4.0, -5.0, -6.0]).set_requires_grad(true);
        let tokens = TokenLogProbs::ragged(&flat, &[1, 3, 2]).unwrap();
        assert_eq!(tokens.mask().size(), [3, 3]);
        let sums = tokens.sums().unwrap();
        assert_eq!(Vec::<f32>::try_from(&sums).unwrap(), [-1.0, -9.0, -11.0]);
        sums.get(1).backward();
        assert_eq!(Vec::<f32>::try_from(flat.grad()).unwrap(), [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_longer_counts_less() {
        let one =
            |values: &[f32]| TokenLogProbs::ragged(&Tensor::from_slice(values), &[values.len()]).unwrap();
        let pairs = PairLogProbs::from_tokens(&one(&[-1.0, -2.0, -4.0, -8.0]), &one(&[-3.0, -5.0])).unwrap();
        let [chosen, rejected] = pairs.desensitised(Some(0.25)).unwrap();
        assert_eq!((chosen.double_value(&[0]), rejected.double_value(&[0])), (-6.0, -8.0));
        let [chosen, _] = pairs.desensitised(None).unwrap();
        assert_eq!(chosen.double_value(&[0]), -15.0);
    }

    #[test]
    fn shapes_and_masks_are_checked() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu));
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
        assert!(matches!(TokenLogProbs::new(zeros(&[2]), ones(&[2])), Err(Error::Shape { .. })));
        assert!(matches!(TokenLogProbs::new(zeros(&[2, 3]), ones(&[3, 2])), Err(Error::Shape { .. })));
        assert!(matches!(TokenLogProbs::new(zeros(&[0, 3]), ones(&[0, 3])), Err(Error::Shape { .. })));
        let half = rows(&[&[1.0, 1.0], &[0.0, 0.0]]);
        assert!(matches!(TokenLogProbs::new(zeros(&[2, 2]), half), Err(Error::EmptyResponse { row: 1 })));
        let ids = Tensor::from_slice(&[0i64, 1]).view([1, 2]);
        let logits = |shape: &[i64]| TokenLogProbs::from_logits(&zeros(shape), &ids, ones(&[1, 2]));
        assert!(logits(&[1, 2, 4]).is_ok());
        assert!(logits(&[1, 3, 4]).is_err() && logits(&[2, 4]).is_err());
        assert!(TokenLogProbs::from_logits(&zeros(&[1, 2, 4]), &ids, ones(&[1, 1])).is_err());
        let flat = Tensor::from_slice(&[0.0f32; 3]);
        assert!(matches!(TokenLogProbs::ragged(&flat, &[2, 2]), Err(Error::Shape { .. })));
        assert!(matches!(TokenLogProbs::ragged(&flat, &[3, 0]), Err(Error::EmptyResponse { row: 1 })));
        assert!(TokenLogProbs::ragged(&flat.narrow(0, 0, 0), &[]).is_err());
        let sums = || PairLogProbs::from_sums(flat.copy(), flat.copy()).unwrap();
        assert!(matches!(sums().with_lengths(&flat, &flat), Err(Error::EmptyResponse { row: 0 })));
        assert!(sums().with_lengths(&ones(&[2]), &ones(&[3])).is_err());
        assert!(PairLogProbs::from_sums(flat.copy(), flat.narrow(0, 0, 2)).is_err());
        assert!(PairLogProbs::from_sums(zeros(&[1, 1]), zeros(&[1, 1])).is_err());
    }

    #[test]
    fn a_causal_model_is_shifted_and_ids_of_labels_may_hold_minus_100() {
        let logits = Tensor::rand([2, 4, 5], (Kind::Float, tch::Device::Cpu));
        let ids = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 3, 2, -100]).view([2, 4]);
        let mask = rows(&[&[0.0, 0.0, 1.0, 1.0], &[0.0, 1.0, 1.0, 0.0]]);
        let tokens = TokenLogProbs::from_causal_lm(&logits, &ids, &mask).unwrap();
        let log_probs = logits.log_softmax(-1, Kind::Float);
        let at = |row: i64, position: i64, id: i64| log_probs.double_value(&[row, position - 1, id]);
        let sums = Vec::<f64>::try_from(tokens.sums().unwrap()).unwrap();
        approx::assert_relative_eq!(sums[0], at(0, 2, 2) + at(0, 3, 3), epsilon = 1e-5);
        approx::assert_relative_eq!(sums[1], at(1, 1, 3) + at(1, 2, 2), epsilon = 1e-5);
        let one = |tensor: &Tensor| tensor.narrow(1, 0, 1);
        assert!(TokenLogProbs::from_causal_lm(&one(&logits), &one(&ids), &one(&mask)).is_err());
    }
}
