//! The smoothing functions of NLTK's BLEU.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::nltk::NltkCounts;
use crate::error::{Error, Result};

/// NLTK's `SmoothingFunction().method0` to `method7` (Chen and Cherry 2014) with the parameters that each reads.
///
/// `p_n` is the precision of order n, matched over proposed n-grams, N the largest order of the weights, h the tokens
/// of the hypotheses. None is called when not one token matches: the score is 0 then.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NltkSmoothing {
    /// `p_n = 2.2e-308` (the smallest normal number) where nothing matches.
    #[default]
    Method0,
    /// `p_n = epsilon / proposed` where nothing matches.
    Method1 {
        /// 0 or more; the package's default is 0.1. 0 leaves such orders out.
        epsilon: f64,
    },
    /// `p_n = (matched + 1) / (proposed + 1)` for n of 2 and more.
    Method2,
    /// `p_n = 1 / (2^i proposed)` in the i-th order where nothing matches (NIST).
    Method3,
    /// `p_n = ln h / (2^i k proposed)` in the i-th order where nothing matches and h is above 1.
    Method4 {
        /// Above 0; the package's default is 5.
        k: f64,
    },
    /// `p_n = (p'_{n-1} + p_n + p_{n+1}) / 3`, with `p'_0 = p_1 + 1`, `p'_{n-1}` the new value of the order before, and
    /// in place of `p_{N+1}` the 5-gram precision of the last pair of the corpus, whatever N is.
    Method5,
    /// `p_n = (matched + alpha p_{n-1}^2 / p_{n-2}) / (l + alpha)` for n of 3 and more, where `p_{n-1}` is smoothed
    /// already (0 in place of the quotient if `p_{n-2}` is) and l is the number of n-grams in the hypothesis of the last
    /// pair of the corpus.
    ///
    /// An error where the package raises: [`Error::NoMatches`] if no trigram matches (AssertionError),
    /// [`Error::InvalidSetting`] if N is below 3 (IndexError) or `l + alpha` is 0 (ZeroDivisionError).
    Method6 {
        /// 0 or more; the package's default is 5.
        alpha: f64,
    },
    /// Method 4, then method 5.
    Method7 {
        /// Above 0; the package's default is 5.
        k: f64,
    },
}

impl NltkSmoothing {
    /// The method of that number, 0 to 7, with the package's default parameter.
    pub fn method(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Method0,
            1 => Self::Method1 { epsilon: 0.1 },
            2 => Self::Method2,
            3 => Self::Method3,
            4 => Self::Method4 { k: 5.0 },
            5 => Self::Method5,
            6 => Self::Method6 { alpha: 5.0 },
            7 => Self::Method7 { k: 5.0 },
            _ => return None,
        })
    }

    /// What is wrong with the parameter.
    pub(super) fn check(self) -> Result<(), String> {
        let (name, value, least) = match self {
            Self::Method1 { epsilon } => ("epsilon", epsilon, 0.0),
            Self::Method4 { k } | Self::Method7 { k } => ("k", k, f64::MIN_POSITIVE),
            Self::Method6 { alpha } => ("alpha", alpha, 0.0),
            _ => return Ok(()),
        };
        if value.is_finite() && value >= least {
            return Ok(());
        }
        let range = if least > 0.0 { "above 0" } else { "of at least 0" };
        Err(format!("{name} has to be a finite number {range}, not {value}"))
    }

    pub(super) fn needs_five_grams(self) -> bool {
        matches!(self, Self::Method5 | Self::Method7 { .. })
    }

    pub(super) fn needs_last_pair(self) -> bool {
        self.needs_five_grams() || matches!(self, Self::Method6 { .. })
    }

    /// The smoothed precisions of orders 1 to `orders`.
    pub(super) fn precisions(self, counts: &NltkCounts, orders: usize) -> Result<Vec<f64>> {
        let (tokens, last) = (counts.bleu.hypothesis_tokens as f64, counts.last);
        let fractions: Vec<(f64, f64)> = counts
            .bleu
            .matched
            .iter()
            .zip(&counts.bleu.proposed)
            .take(orders)
            .map(|(&matched, &proposed)| (matched as f64, proposed as f64))
            .collect();
        // The i-th order without a match, counted from 1, becomes `part(i) / proposed`.
        let in_place_of_none = |part: &dyn Fn(i32) -> f64| -> Vec<f64> {
            let mut none = 0;
            let precision = |&(matched, proposed): &(f64, f64)| {
                if matched > 0.0 {
                    return matched / proposed;
                }
                none += 1;
                part(none) / proposed
            };
            fractions.iter().map(precision).collect()
        };
        let method4 = |k: f64| {
            in_place_of_none(&|i| if tokens > 1.0 { 1.0 / (2_f64.powi(i) * k / tokens.ln()) } else { 0.0 })
        };
        let next = last.map_or(0.0, |last| last.matched_five_grams as f64 / last.five_grams as f64);
        Ok(match self {
            Self::Method0 => fractions
                .iter()
                .map(
                    |&(matched, proposed)| if matched > 0.0 { matched / proposed } else { f64::MIN_POSITIVE },
                )
                .collect(),
            Self::Method1 { epsilon } => in_place_of_none(&|_| epsilon),
            Self::Method2 => {
                let one = |(n, &(matched, proposed)): (usize, &(f64, f64))| {
                    if n == 0 { matched / proposed } else { (matched + 1.0) / (proposed + 1.0) }
                };
                fractions.iter().enumerate().map(one).collect()
            }
            Self::Method3 => in_place_of_none(&|i| 1.0 / 2_f64.powi(i)),
            Self::Method4 { k } => method4(k),
            Self::Method5 => averaged(&in_place_of_none(&|_| 0.0), next),
            Self::Method6 { alpha } => {
                interpolated(&fractions, alpha, last.map_or(0, |last| last.hypothesis_tokens))?
            }
            Self::Method7 { k } => averaged(&method4(k), next),
        })
    }
}

/// Method 5, with what stands in place of the precision after the last.
fn averaged(precisions: &[f64], next: f64) -> Vec<f64> {
    let mut before = precisions.first().map_or(0.0, |first| first + 1.0);
    let following = precisions.iter().skip(1).chain(std::iter::once(&next));
    let average = |(precision, following): (&f64, &f64)| {
        before = (before + precision + following) / 3.0;
        before
    };
    precisions.iter().zip(following).map(average).collect()
}

/// Method 6, with the number of tokens of the last hypothesis.
fn interpolated(fractions: &[(f64, f64)], alpha: f64, tokens: u64) -> Result<Vec<f64>> {
    const NAME: &str = "BLEU";
    let [first, second, third, ..] = fractions else {
        let problem = format!("smoothing method 6 needs three orders, here are {}", fractions.len());
        return Err(Error::InvalidSetting { metric: NAME, problem });
    };
    if third.0 == 0.0 {
        return Err(Error::NoMatches { metric: NAME, form: "smoothing method 6", order: 3 });
    }
    let (mut two_before, mut before) = (first.0 / first.1, second.0 / second.1);
    let mut precisions = vec![two_before, before];
    for (order, &(matched, _)) in (3..).zip(fractions.iter().skip(2)) {
        let expected = if two_before == 0.0 { 0.0 } else { before * before / two_before };
        let all = (tokens + 1).saturating_sub(order) as f64 + alpha;
        if all == 0.0 {
            let problem =
                format!("smoothing method 6 with alpha 0 needs {order} tokens in the last hypothesis");
            return Err(Error::InvalidSetting { metric: NAME, problem });
        }
        let precision = (matched + alpha * expected) / all;
        precisions.push(precision);
        (two_before, before) = (before, precision);
    }
    Ok(precisions)
}

/// As in signatures: `method1[epsilon=0.1]`.
impl fmt::Display for NltkSmoothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method0 => f.write_str("method0"),
            Self::Method1 { epsilon } => write!(f, "method1[epsilon={epsilon:?}]"),
            Self::Method2 => f.write_str("method2"),
            Self::Method3 => f.write_str("method3"),
            Self::Method4 { k } => write!(f, "method4[k={k:?}]"),
            Self::Method5 => f.write_str("method5"),
            Self::Method6 { alpha } => write!(f, "method6[alpha={alpha:?}]"),
            Self::Method7 { k } => write!(f, "method7[k={k:?}]"),
        }
    }
}
