//! BLEU as sacrebleu computes it.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::BleuCounts;
use super::sacrebleu_settings::{SacreSmoothing, SacreTokenizer};
use crate::error::{Error, Result};
use crate::example::with_example;
use crate::metric::{Metric, PairMetric, Statistics, pair_metric_methods};
use crate::score::{Score, Unit};
use crate::tokens::Texts;

const NAME: &str = "BLEU";

/// BLEU (Papineni et al. 2002) as sacrebleu 2.6 computes it (Post 2018), on its scale of 0 to 100.
///
/// With `p_n` the clipped precisions of orders 1 to 4 in percent, after the [smoothing](SacreSmoothing), the score is
/// `BP * exp((ln p_1 + ... + ln p_4) / 4)`, where `BP = exp(1 - r/h)` if the h tokens of the hypotheses are fewer than
/// the r tokens of the references, else 1; of several references the one closest in length counts, the shorter on ties.
/// Where nothing matches, or an order of precision 0 is left after smoothing, the score is 0.
///
/// [`corpus`](Self::corpus) is the package's `corpus_bleu`. Its `sentence_bleu` is [`sentence`](Self::sentence) with
/// [`effective_order(true)`](Self::effective_order). The signature has the package's keys, and `order` where it is not 4.
///
/// ```
/// use persona_metrics::{Bleu, SacreTokenizer};
///
/// let scores = Bleu::sacrebleu().corpus(&["I have a dog."], &[["I have a cat.", "We have a dog."]])?;
/// assert!(scores.to_string().starts_with("BLEU = 84.09 | variant:sacrebleu|case:mixed|eff:no|tok:13a|smooth:exp|"));
///
/// let words = Bleu::sacrebleu().tokenizer(SacreTokenizer::None).lowercase(true);
/// assert_eq!(words.sentence("我 有 一 只 狗", "我 有 一 只 狗")?.to_string().get(..13), Some("BLEU = 100.00"));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SacreBleu {
    tokenizer: SacreTokenizer,
    lowercase: bool,
    smoothing: SacreSmoothing,
    effective_order: bool,
    max_order: u8,
}

impl Default for SacreBleu {
    fn default() -> Self {
        Self {
            tokenizer: SacreTokenizer::V13a,
            lowercase: false,
            smoothing: SacreSmoothing::Exp,
            effective_order: false,
            max_order: 4,
        }
    }
}

impl SacreBleu {
    /// How texts become tokens; [`SacreTokenizer::V13a`] by default.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: SacreTokenizer) -> Self {
        self.tokenizer = tokenizer;
        self
    }

    /// Whether texts are lower-cased; no by default.
    #[must_use]
    pub fn lowercase(mut self, lowercase: bool) -> Self {
        self.lowercase = lowercase;
        self
    }

    /// What becomes of orders without a match; [`SacreSmoothing::Exp`] by default.
    ///
    /// # Errors
    /// A value that is negative, NaN or infinite.
    pub fn smoothing(mut self, smoothing: SacreSmoothing) -> Result<Self> {
        if let SacreSmoothing::Floor(value) | SacreSmoothing::AddK(value) = smoothing
            && !(value >= 0.0 && value.is_finite())
        {
            let problem = format!("a smoothing value has to be a finite number of at least 0, not {value}");
            return Err(Error::InvalidSetting { metric: NAME, problem });
        }
        self.smoothing = smoothing;
        Ok(self)
    }

    /// Whether orders of which the hypotheses have no n-gram are left out of the mean; no by default. The package's
    /// `sentence_bleu` does so.
    #[must_use]
    pub fn effective_order(mut self, effective_order: bool) -> Self {
        self.effective_order = effective_order;
        self
    }

    /// The largest order of n-grams; 4 by default.
    ///
    /// # Errors
    /// The order 0.
    pub fn max_order(mut self, order: u8) -> Result<Self> {
        if order == 0 {
            let problem = "the largest order has to be at least 1".to_owned();
            return Err(Error::InvalidSetting { metric: NAME, problem });
        }
        self.max_order = order;
        Ok(self)
    }

    /// The score of a corpus with everything it is made of.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, or an example without references.
    pub fn report<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<SacreReport>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        self.collect(hypotheses, references)?.report()
    }

    fn parts(&self, counts: &BleuCounts) -> Parts {
        let (hypothesis, reference) = (counts.hypothesis_tokens as f64, counts.reference_tokens as f64);
        let penalty = if counts.hypothesis_tokens >= counts.reference_tokens {
            1.0
        } else if counts.hypothesis_tokens == 0 {
            0.0
        } else {
            (1.0 - reference / hypothesis).exp()
        };
        let as_float = |counts: &[u64]| counts.iter().map(|&count| count as f64).collect::<Vec<f64>>();
        let mut parts = Parts {
            value: 0.0,
            matched: as_float(&counts.matched),
            proposed: as_float(&counts.proposed),
            precisions: vec![0.0; counts.matched.len()],
            penalty,
        };
        if counts.matched.iter().all(|&matched| matched == 0) {
            return parts;
        }
        let mut effective = if self.effective_order { 0 } else { parts.precisions.len() };
        let mut none = 1.0;
        let orders = parts.matched.iter_mut().zip(&mut parts.proposed).zip(&mut parts.precisions);
        for (n, ((matched, proposed), precision)) in orders.enumerate() {
            if let SacreSmoothing::AddK(k) = self.smoothing
                && n > 0
            {
                *matched += k;
                *proposed += k;
            }
            if *proposed == 0.0 {
                break;
            }
            if self.effective_order {
                effective = n + 1;
            }
            *precision = match self.smoothing {
                _ if *matched > 0.0 => 100.0 * *matched / *proposed,
                SacreSmoothing::Exp => {
                    none *= 2.0;
                    100.0 / (none * *proposed)
                }
                SacreSmoothing::Floor(value) => 100.0 * value / *proposed,
                SacreSmoothing::AddK(_) | SacreSmoothing::None => 0.0,
            };
        }
        // A precision of 0 has the logarithm -infinity, and the score is 0.
        let logarithms: f64 = parts.precisions.iter().take(effective).map(|precision| precision.ln()).sum();
        parts.value = penalty * (logarithms / effective as f64).exp();
        parts
    }
}

struct Parts {
    value: f64,
    matched: Vec<f64>,
    proposed: Vec<f64>,
    precisions: Vec<f64>,
    penalty: f64,
}

/// A score of [`SacreBleu`] and what it is made of; the fields of sacrebleu's `BLEUScore`.
///
/// Displayed on two lines, the second of which is what the package prints:
/// `75.0/66.7/50.0/50.0 (BP = 1.000 ratio = 1.000 hyp_len = 4 ref_len = 4)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SacreReport {
    /// The score, 0 to 100.
    pub score: Score,
    /// `counts`: matched n-grams by order, with what add-k smoothing has added.
    pub matched: Vec<f64>,
    /// `totals`: n-grams of the hypotheses by order, with what add-k smoothing has added.
    pub proposed: Vec<f64>,
    /// `precisions`: smoothed, in percent; 0 for orders above the first without an n-gram.
    pub precisions: Vec<f64>,
    /// `bp`: 0 to 1.
    pub brevity_penalty: f64,
    /// `sys_len`: tokens of the hypotheses.
    pub hypothesis_tokens: u64,
    /// `ref_len`: tokens of the references, of several the one closest in length.
    pub reference_tokens: u64,
}

impl fmt::Display for SacreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precisions: Vec<String> =
            self.precisions.iter().map(|precision| format!("{precision:.1}")).collect();
        let (hypothesis, reference) = (self.hypothesis_tokens, self.reference_tokens);
        let ratio = if reference == 0 { 0.0 } else { hypothesis as f64 / reference as f64 };
        write!(
            f,
            "{}\n{} (BP = {:.3} ratio = {ratio:.3} hyp_len = {hypothesis} ref_len = {reference})",
            self.score,
            precisions.join("/"),
            self.brevity_penalty,
        )
    }
}

impl Statistics<SacreBleu> {
    /// The score of everything counted so far, with everything it is made of.
    ///
    /// # Errors
    /// Nothing was counted.
    pub fn report(&self) -> Result<SacreReport> {
        let score = self.scores()?.into_iter().next().ok_or(Error::EmptyCorpus { metric: NAME })?;
        let counts = self.sums();
        let Parts { value: _, matched, proposed, precisions, penalty } = self.metric().parts(counts);
        Ok(SacreReport {
            score,
            matched,
            proposed,
            precisions,
            brevity_penalty: penalty,
            hypothesis_tokens: counts.hypothesis_tokens,
            reference_tokens: counts.reference_tokens,
        })
    }
}

pair_metric_methods!(SacreBleu);

impl Metric for SacreBleu {
    const NAME: &'static str = NAME;
    type Sums = BleuCounts;

    fn empty(&self) -> BleuCounts {
        BleuCounts::new(self.max_order.into())
    }

    fn names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn unit(&self) -> Unit {
        Unit::Plain
    }

    fn values(&self, counts: &BleuCounts) -> Result<Vec<f64>> {
        Ok(vec![self.parts(counts).value])
    }

    fn settings(&self) -> String {
        let case = if self.lowercase { "lc" } else { "mixed" };
        let effective = if self.effective_order { "yes" } else { "no" };
        let order = if self.max_order == 4 { String::new() } else { format!("|order:{}", self.max_order) };
        format!(
            "variant:sacrebleu|case:{case}|eff:{effective}|tok:{}|smooth:{}{order}",
            self.tokenizer, self.smoothing
        )
    }
}

impl PairMetric for SacreBleu {
    fn count(&self, counts: &mut BleuCounts, hypothesis: &str, references: &[&str]) -> Result<()> {
        if references.is_empty() {
            return Err(Error::NoReferences { metric: NAME });
        }
        let tokenize = |text: &str, token: &mut dyn FnMut(&str)| {
            let text = if self.lowercase { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
            self.tokenizer.tokens(&text, token);
        };
        with_example(hypothesis, references, tokenize, |example| counts.count(example));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bleu;

    fn value(bleu: SacreBleu, hypothesis: &str, reference: &str) -> f64 {
        bleu.sentence(hypothesis, reference).unwrap().values()[0]
    }

    #[test]
    fn smoothing_by_hand() {
        // 3 of 4, 2 of 3, 1 of 2, 0 of 1.
        let (hypothesis, reference) = ("i have a dog", "i have a cat");
        let expected = |last: f64| 100.0 * (0.25 * last).powf(0.25);
        let smoothed =
            |smoothing| value(Bleu::sacrebleu().smoothing(smoothing).unwrap(), hypothesis, reference);
        assert!((smoothed(SacreSmoothing::Exp) - expected(0.5)).abs() < 1e-10);
        assert!((smoothed(SacreSmoothing::FLOOR) - expected(0.1)).abs() < 1e-10);
        assert!(
            (smoothed(SacreSmoothing::ADD_K) - expected(0.75 * (2.0 / 3.0) / 0.25 * 0.75 * 0.5)).abs()
                < 1e-10
        );
        assert_eq!(smoothed(SacreSmoothing::None), 0.0);
        assert_eq!(smoothed(SacreSmoothing::Floor(0.0)), 0.0);
        assert_eq!(smoothed(SacreSmoothing::AddK(0.0)), 0.0);
    }

    #[test]
    fn short_hypotheses_need_the_effective_order() {
        assert_eq!(value(Bleu::sacrebleu(), "a b", "a b"), 0.0);
        assert!((value(Bleu::sacrebleu().effective_order(true), "a b", "a b") - 100.0).abs() < 1e-10);
        assert!((value(Bleu::sacrebleu().max_order(2).unwrap(), "a b", "a b") - 100.0).abs() < 1e-10);
        for bleu in [Bleu::sacrebleu(), Bleu::sacrebleu().effective_order(true)] {
            for (hypothesis, reference) in [("", ""), ("", "a"), ("a", ""), ("a", "b")] {
                assert_eq!(value(bleu, hypothesis, reference), 0.0);
            }
        }
    }

    #[test]
    fn the_report_has_the_parts_and_the_packages_line() {
        let report =
            Bleu::sacrebleu().report(&["I have a dog."], &[["I have a cat.", "We have a dog."]]).unwrap();
        assert_eq!(report.matched, [5.0, 4.0, 3.0, 1.0]);
        assert_eq!(report.proposed, [5.0, 4.0, 3.0, 2.0]);
        let text = report.to_string();
        let (_, line) = text.split_once('\n').unwrap();
        assert_eq!(line, "100.0/100.0/100.0/50.0 (BP = 1.000 ratio = 1.000 hyp_len = 5 ref_len = 5)");
        let short = Bleu::sacrebleu().report(&["a"], &["a b"]).unwrap();
        assert!((short.brevity_penalty - (-1.0_f64).exp()).abs() < 1e-15);
        assert_eq!((short.hypothesis_tokens, short.reference_tokens), (1, 2));
        // With add-k the counts are those after the addition.
        let added =
            Bleu::sacrebleu().smoothing(SacreSmoothing::AddK(0.5)).unwrap().report(&["a"], &["a"]).unwrap();
        assert_eq!((added.matched[1], added.proposed[3], added.precisions[2]), (0.5, 0.5, 100.0));
    }

    #[test]
    fn the_signature_has_the_packages_keys() {
        let settings = |bleu: SacreBleu| bleu.settings();
        assert_eq!(settings(Bleu::sacrebleu()), "variant:sacrebleu|case:mixed|eff:no|tok:13a|smooth:exp");
        let other = Bleu::sacrebleu().tokenizer(SacreTokenizer::Zh).lowercase(true).effective_order(true);
        let other = other.smoothing(SacreSmoothing::FLOOR).unwrap().max_order(2).unwrap();
        assert_eq!(settings(other), "variant:sacrebleu|case:lc|eff:yes|tok:zh|smooth:floor[0.10]|order:2");
        assert_eq!(SacreSmoothing::AddK(0.001).to_string(), "add-k[0.001]");
        let json = serde_json::to_string(&other).unwrap();
        assert_eq!(serde_json::from_str::<SacreBleu>(&json).unwrap(), other);
    }

    #[test]
    fn tokenizers() {
        let value = |tokenizer, hypothesis, reference| {
            value(Bleu::sacrebleu().max_order(1).unwrap().tokenizer(tokenizer), hypothesis, reference)
        };
        assert!((value(SacreTokenizer::V13a, "a dog.", "a dog .") - 100.0).abs() < 1e-10);
        assert!((value(SacreTokenizer::None, "a dog.", "a dog .") - 50.0 * (-0.5_f64).exp()).abs() < 1e-10);
        assert!((value(SacreTokenizer::Intl, "«a»", "« a »") - 100.0).abs() < 1e-10);
        assert!((value(SacreTokenizer::Zh, "好的cat", "的 好 cat") - 100.0).abs() < 1e-10);
        assert!((value(SacreTokenizer::Char, "ab", "b a") - 100.0).abs() < 1e-10);
    }

    #[test]
    fn bad_input_is_an_error() {
        let none: [&str; 0] = [];
        assert!(matches!(Bleu::sacrebleu().sentence("a", &none), Err(Error::NoReferences { .. })));
        assert!(matches!(Bleu::sacrebleu().report(&none, &none), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(Bleu::sacrebleu().max_order(0), Err(Error::InvalidSetting { .. })));
        for value in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(Bleu::sacrebleu().smoothing(SacreSmoothing::Floor(value)).is_err());
            assert!(Bleu::sacrebleu().smoothing(SacreSmoothing::AddK(value)).is_err());
        }
    }
}
