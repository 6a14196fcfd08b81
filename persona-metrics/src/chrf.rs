//! chrF and chrF++ as sacrebleu computes them.

use std::borrow::Cow;
use std::cell::Cell;
use std::mem;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::metric::{Metric, PairMetric, Sums, pair_metric_methods};
use crate::ngrams::{Numbered, clipped_matches, ngrams};
use crate::score::Unit;
use crate::tokens::{is_python_space, split_whitespace};

/// chrF (Popović 2015) and chrF++ (Popović 2017) as sacrebleu 2.6 computes them, on its scale of 0 to 100.
///
/// Precision and recall of character n-grams of orders 1 to 6 (white space taken out), in chrF++ of word n-grams of
/// orders 1 and 2 as well, are averaged over the orders that both texts have, then
/// `F = (1 + beta^2) P R / (beta^2 P + R)` with beta 2. Of several references the one with the highest F counts, the
/// first on ties. The corpus score is computed from the sums of n-grams, so it is not the mean of the sentences' scores.
///
/// Words are those of `str.split()`; of a word of two or more characters one ASCII punctuation mark at its end, or else
/// one at its start, is a word of its own.
///
/// ```
/// use persona_metrics::Chrf;
///
/// let scores = Chrf::plus_plus().corpus(&["the cat sat"], &[["the cat sits", "a cat"]])?;
/// assert!(scores.to_string().starts_with("chrF2++ = "));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Chrf {
    char_order: u8,
    word_order: u8,
    beta: f64,
    lowercase: bool,
    whitespace: bool,
    eps_smoothing: bool,
}

/// chrF2: characters only.
impl Default for Chrf {
    fn default() -> Self {
        Self {
            char_order: 6,
            word_order: 0,
            beta: 2.0,
            lowercase: false,
            whitespace: false,
            eps_smoothing: false,
        }
    }
}

impl Chrf {
    /// chrF2++: characters, and words up to order 2.
    pub fn plus_plus() -> Self {
        Self { word_order: 2, ..Self::default() }
    }

    /// The largest order of character n-grams; 6 by default, 0 for none.
    #[must_use]
    pub fn char_order(mut self, order: u8) -> Self {
        self.char_order = order;
        self
    }

    /// The largest order of word n-grams; 0, which is none, by default.
    #[must_use]
    pub fn word_order(mut self, order: u8) -> Self {
        self.word_order = order;
        self
    }

    /// How many times as much as precision recall counts; 2 by default.
    ///
    /// # Errors
    /// A beta that is negative, NaN or infinite, or whose square is.
    pub fn beta(mut self, beta: f64) -> Result<Self> {
        if !(beta >= 0.0 && (beta * beta).is_finite()) {
            let problem = format!("beta has to be a finite number of at least 0, not {beta}");
            return Err(Error::InvalidSetting { metric: Self::NAME, problem });
        }
        self.beta = beta;
        Ok(self)
    }

    /// Whether texts are lower-cased; no by default.
    #[must_use]
    pub fn lowercase(mut self, lowercase: bool) -> Self {
        self.lowercase = lowercase;
        self
    }

    /// Whether character n-grams keep white space; no by default.
    #[must_use]
    pub fn whitespace(mut self, whitespace: bool) -> Self {
        self.whitespace = whitespace;
        self
    }

    /// Whether F is taken of each order and averaged over all of them, 1e-16 in place of what has no value, as
    /// chrF++.py, NLTK and Moses do; no by default.
    #[must_use]
    pub fn eps_smoothing(mut self, eps_smoothing: bool) -> Self {
        self.eps_smoothing = eps_smoothing;
        self
    }

    fn orders(&self) -> usize {
        usize::from(self.char_order) + usize::from(self.word_order)
    }

    fn prepare<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.lowercase { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) }
    }

    fn characters<'t>(&self, text: &'t str) -> impl Iterator<Item = char> + use<'t> {
        let whitespace = self.whitespace;
        text.chars().filter(move |&c| whitespace || !is_python_space(c))
    }

    /// 0 to 100.
    fn f_score(&self, counts: &ChrfCounts) -> f64 {
        const EPS: f64 = 1e-16;
        let factor = self.beta * self.beta;
        let (mut smoothed, mut precisions, mut recalls, mut effective) = (0.0, 0.0, 0.0, 0_u32);
        for (hypothesis, reference, matched) in counts.orders() {
            let share = |all: u64| if all > 0 { matched as f64 / all as f64 } else { EPS };
            let (precision, recall) = (share(hypothesis), share(reference));
            let denominator = factor * precision + recall;
            smoothed +=
                if denominator > 0.0 { (1.0 + factor) * precision * recall / denominator } else { EPS };
            if hypothesis > 0 && reference > 0 {
                precisions += precision;
                recalls += recall;
                effective += 1;
            }
        }
        if self.eps_smoothing {
            return 100.0 * smoothed / self.orders() as f64;
        }
        let orders = f64::from(effective.max(1));
        let (precision, recall) = (precisions / orders, recalls / orders);
        let denominator = factor * precision + recall;
        if denominator > 0.0 { 100.0 * ((1.0 + factor) * precision * recall / denominator) } else { 0.0 }
    }

    /// The counts of the reference with the highest F.
    fn best(&self, hypothesis: &str, references: &[&str]) -> Option<ChrfCounts> {
        let hypothesis = self.prepare(hypothesis);
        let references: Vec<_> = references.iter().map(|text| self.prepare(text)).collect();
        let mut all = with_characters(|characters| {
            characters.hypothesis(self.characters(&hypothesis));
            let one = |reference: &Cow<str>| {
                characters.reference(self.characters(reference));
                characters.counts(usize::from(self.char_order))
            };
            references.iter().map(one).collect::<Vec<_>>()
        });
        if self.word_order > 0 {
            let words: Vec<_> = references.iter().map(|text| words(text)).collect();
            let numbered = Numbered::new(&self::words(&hypothesis), &words);
            for (counts, reference) in all.iter_mut().zip(&numbered.references) {
                let orders = usize::from(self.word_order);
                counts.append(&numbered.hypothesis, reference, numbered.different, orders);
            }
        }
        let mut best: Option<(f64, ChrfCounts)> = None;
        for counts in all {
            let score = self.f_score(&counts);
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, counts));
            }
        }
        best.map(|(_, counts)| counts)
    }
}

/// Words with one punctuation mark split off.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for word in split_whitespace(text) {
        let punctuation = |c: char| c.is_ascii_punctuation();
        let split = if word.len() < 2 {
            None
        } else if word.ends_with(punctuation) {
            word.split_at_checked(word.len() - 1)
        } else if word.starts_with(punctuation) {
            word.split_at_checked(1)
        } else {
            None
        };
        match split {
            Some((first, second)) => words.extend([first, second]),
            None => words.push(word),
        }
    }
    words
}

/// What corpus chrF is computed from. Entries are by order: characters from order 1 up, then words from order 1 up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChrfCounts {
    /// N-grams of the hypotheses whose reference has any of that order.
    pub hypothesis: Vec<u64>,
    /// N-grams of the references.
    pub reference: Vec<u64>,
    /// N-grams that both have, as often as the one that has fewer.
    pub matched: Vec<u64>,
}

impl ChrfCounts {
    fn append(&mut self, hypothesis: &[u32], reference: &[u32], different: usize, orders: usize) {
        let matched = clipped_matches(hypothesis, &[reference], different, orders);
        for (order, matched) in (1..).zip(matched) {
            let in_reference = ngrams(reference.len(), order);
            self.hypothesis.push(if in_reference > 0 { ngrams(hypothesis.len(), order) } else { 0 });
            self.reference.push(in_reference);
            self.matched.push(matched);
        }
    }

    /// By order: n-grams of the hypotheses, of the references, of both.
    fn orders(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let matched = self.reference.iter().zip(&self.matched);
        self.hypothesis
            .iter()
            .zip(matched)
            .map(|(&hypothesis, (&reference, &matched))| (hypothesis, reference, matched))
    }
}

impl Sums for ChrfCounts {
    fn add(&mut self, other: &Self) -> Result<()> {
        let parts = [
            (&mut self.hypothesis, &other.hypothesis),
            (&mut self.reference, &other.reference),
            (&mut self.matched, &other.matched),
        ];
        for (into, from) in &parts {
            same_length("orders", into.len(), "orders", from.len())?;
        }
        for (into, from) in parts {
            for (into, from) in into.iter_mut().zip(from) {
                *into = into.saturating_add(*from);
            }
        }
        Ok(())
    }
}

/// The characters of an example as numbers, and room for them that a thread keeps from example to example.
#[derive(Debug)]
struct Characters {
    ascii: [u32; 128],
    others: FxHashMap<char, u32>,
    different: u32,
    hypothesis: Vec<u32>,
    reference: Vec<u32>,
}

impl Default for Characters {
    fn default() -> Self {
        Self {
            ascii: [u32::MAX; 128],
            others: FxHashMap::default(),
            different: 0,
            hypothesis: Vec::new(),
            reference: Vec::new(),
        }
    }
}

impl Characters {
    fn clear(&mut self) {
        self.ascii = [u32::MAX; 128];
        self.others.clear();
        self.different = 0;
    }

    fn hypothesis(&mut self, characters: impl Iterator<Item = char>) {
        let mut numbers = mem::take(&mut self.hypothesis);
        self.number(characters, &mut numbers);
        self.hypothesis = numbers;
    }

    fn reference(&mut self, characters: impl Iterator<Item = char>) {
        let mut numbers = mem::take(&mut self.reference);
        self.number(characters, &mut numbers);
        self.reference = numbers;
    }

    fn number(&mut self, characters: impl Iterator<Item = char>, numbers: &mut Vec<u32>) {
        numbers.clear();
        numbers.extend(characters.map(|c| {
            let number = match self.ascii.get_mut(c as usize) {
                Some(number) => number,
                None => self.others.entry(c).or_insert(u32::MAX),
            };
            if *number == u32::MAX {
                *number = self.different;
                self.different += 1;
            }
            *number
        }));
    }

    fn counts(&self, orders: usize) -> ChrfCounts {
        let mut counts = ChrfCounts::default();
        counts.append(&self.hypothesis, &self.reference, self.different as usize, orders);
        counts
    }
}

thread_local! {
    static CHARACTERS: Cell<Option<Box<Characters>>> = const { Cell::new(None) };
}

fn with_characters<T>(work: impl FnOnce(&mut Characters) -> T) -> T {
    let mut characters = CHARACTERS.take().unwrap_or_default();
    characters.clear();
    let result = work(&mut characters);
    CHARACTERS.set(Some(characters));
    result
}

pair_metric_methods!(Chrf);

impl Metric for Chrf {
    const NAME: &'static str = "chrF";
    type Sums = ChrfCounts;

    fn empty(&self) -> ChrfCounts {
        let zeros = vec![0; self.orders()];
        ChrfCounts { hypothesis: zeros.clone(), reference: zeros.clone(), matched: zeros }
    }

    fn names(&self) -> Vec<String> {
        vec![format!("chrF{}{}", self.beta, "+".repeat(self.word_order.into()))]
    }

    fn unit(&self) -> Unit {
        Unit::Plain
    }

    /// # Errors
    /// Character and word order are both 0.
    fn values(&self, counts: &ChrfCounts) -> Result<Vec<f64>> {
        if self.orders() == 0 {
            let problem = "character and word order are both 0; there is nothing to count".to_owned();
            return Err(Error::InvalidSetting { metric: Self::NAME, problem });
        }
        Ok(vec![self.f_score(counts)])
    }

    fn settings(&self) -> String {
        let yes = |is| if is { "yes" } else { "no" };
        format!(
            "variant:sacrebleu|case:{}|eff:{}|nc:{}|nw:{}|space:{}|beta:{}",
            if self.lowercase { "lc" } else { "mixed" },
            yes(!self.eps_smoothing),
            self.char_order,
            self.word_order,
            yes(self.whitespace),
            self.beta,
        )
    }
}

impl PairMetric for Chrf {
    fn count(&self, counts: &mut ChrfCounts, hypothesis: &str, references: &[&str]) -> Result<()> {
        let best = self.best(hypothesis, references);
        counts.add(&best.ok_or(Error::NoReferences { metric: Self::NAME })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(chrf: Chrf, hypothesis: &str, reference: &str) -> f64 {
        chrf.sentence(hypothesis, reference).unwrap().values()[0]
    }

    #[test]
    fn one_punctuation_mark_is_split_off_a_word() {
        assert_eq!(
            words("(hi) it's 'tis . ... é! !é"),
            ["(hi", ")", "it's", "'", "tis", ".", "..", ".", "é", "!", "!", "é"]
        );
    }

    #[test]
    fn orders_that_a_text_does_not_have_are_left_out() {
        // Order 1: P = R = 1/2; "ab" has one bigram, which "ac" has not: P = R = 0. Higher orders: none.
        assert!((value(Chrf::default(), "ab", "ac") - 25.0).abs() < 1e-12);
        assert!((value(Chrf::default().eps_smoothing(true), "ab", "ac") - 50.0 / 6.0).abs() < 1e-12);
        // P = 1, R = 1/2 in order 1: F2 = 5 * 0.5 / 4.5.
        assert!((value(Chrf::default(), "a", "ab") - 500.0 * 0.5 / 4.5).abs() < 1e-12);
    }

    #[test]
    fn white_space_and_case_count_where_they_are_asked_for() {
        assert_eq!(value(Chrf::default(), "a b\u{1c}c", "abc"), 100.0);
        assert!(value(Chrf::default().whitespace(true), "a b\u{1c}c", "abc") < 100.0);
        assert!(value(Chrf::default(), "ABC", "abc") < 1e-12);
        assert_eq!(value(Chrf::default().lowercase(true), "ABC", "abc"), 100.0);
    }

    #[test]
    fn the_first_of_the_best_references_counts() {
        let chrf = Chrf::default().char_order(1);
        let mut counts = chrf.empty();
        chrf.count(&mut counts, "ab", &["xy", "ab", "ba"]).unwrap();
        assert_eq!((counts.reference[0], counts.matched[0]), (2, 2));
        // Nothing matches: the first reference is the best one.
        chrf.count(&mut counts, "ab", &["xyz", "x"]).unwrap();
        assert_eq!(counts.reference[0], 5);
    }

    #[test]
    fn the_signature_has_the_packages_keys() {
        let score = Chrf::plus_plus().beta(0.5).unwrap().sentence("a", &["a", "b"]).unwrap();
        let score = score.iter().next().unwrap();
        assert_eq!(score.name(), "chrF0.5++");
        let signature = score.signature().as_str();
        let expected = "variant:sacrebleu|case:mixed|eff:yes|nc:6|nw:2|space:no|beta:0.5|refs:2|";
        assert!(signature.starts_with(expected), "{signature}");
    }

    #[test]
    fn bad_input_is_an_error() {
        let none: [&str; 0] = [];
        assert!(matches!(Chrf::default().sentence("a", &none), Err(Error::NoReferences { metric: "chrF" })));
        for beta in [-1.0, f64::NAN, f64::INFINITY, 1e200] {
            assert!(matches!(Chrf::default().beta(beta), Err(Error::InvalidSetting { .. })), "{beta}");
        }
        for eps in [false, true] {
            let nothing = Chrf::default().char_order(0).eps_smoothing(eps);
            assert!(matches!(nothing.sentence("a", "a"), Err(Error::InvalidSetting { .. })));
            assert!(value(Chrf::default().eps_smoothing(eps), "", "") < 1e-12);
        }
        let mut counts = Chrf::default().statistics();
        assert!(counts.merge(&Chrf::plus_plus().statistics()).is_err());
    }
}
