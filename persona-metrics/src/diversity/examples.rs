//! The n-grams of each text of a corpus, as numbers: corpora drawn again, and corpora without one text.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::distinct::{Distinct, Types};
use super::entropy::{Entropy, surprisal};
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::stats::Resample;
use crate::table::{Gram, GramHasher};

/// A metric of a corpus' n-gram counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum NgramMetric {
    Distinct(Distinct),
    Entropy(Entropy),
}

impl NgramMetric {
    fn name(&self) -> &'static str {
        match self {
            Self::Distinct(_) => Distinct::NAME,
            Self::Entropy(_) => Entropy::NAME,
        }
    }

    fn orders(&self) -> usize {
        match self {
            Self::Distinct(distinct) => distinct.ngram_orders(),
            Self::Entropy(entropy) => entropy.ngram_orders(),
        }
    }

    fn tokens(&self, text: &str, token: &mut dyn FnMut(&str)) {
        match self {
            Self::Distinct(distinct) => distinct.tokens(text, token),
            Self::Entropy(entropy) => entropy.tokens(text, token),
        }
    }
}

/// Each text's n-grams under [`Distinct`] or [`Entropy`], numbered once, so that a corpus drawn again costs no hashing.
/// `Distinct::examples` and `Entropy::examples` make it.
///
/// Memory is four bytes an n-gram, of those that occur more than once.
///
/// ```
/// use persona_metrics::Distinct;
/// use persona_metrics::stats::Resample;
///
/// let examples = Distinct::li().examples(&["a b a", "a b c", "d e"]);
/// assert_eq!(examples.scores_of(&[0, 2])?, [4.0 / 5.0, 1.0]);
/// // A text that is drawn twice counts twice.
/// assert_eq!(examples.scores_of(&[2, 2])?, [2.0 / 4.0, 1.0 / 2.0]);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct NgramExamples {
    metric: NgramMetric,
    texts: usize,
    /// Entry n - 1 is of the n-grams.
    orders: Vec<Order>,
}

/// The n-grams of one order.
#[derive(Debug, Clone, PartialEq)]
struct Order {
    /// How many n-grams of the text occur nowhere else in the corpus.
    unique: Vec<u32>,
    /// Where each text's numbers begin, and where the last one's end.
    starts: Vec<usize>,
    /// The other n-grams, text by text: numbers from 0 on.
    numbers: Vec<u32>,
    /// How many different numbers there are.
    different: usize,
}

impl Order {
    /// `grams` has the hashes of each text's n-grams.
    fn new<'g>(grams: impl Iterator<Item = &'g [Gram]> + Clone) -> Self {
        const ONCE: u32 = u32::MAX;
        const AGAIN: u32 = u32::MAX - 1;
        let mut known: FxHashMap<Gram, u32> = FxHashMap::default();
        for &gram in grams.clone().flatten() {
            known.entry(gram).and_modify(|times| *times = AGAIN).or_insert(ONCE);
        }
        let mut order = Self { unique: Vec::new(), starts: vec![0], numbers: Vec::new(), different: 0 };
        for grams in grams {
            let mut unique = 0;
            for gram in grams {
                let Some(number) = known.get_mut(gram) else { continue };
                if *number == ONCE {
                    unique += 1;
                    continue;
                }
                if *number == AGAIN {
                    *number = order.different as u32;
                    order.different += 1;
                }
                order.numbers.push(*number);
            }
            order.unique.push(unique);
            order.starts.push(order.numbers.len());
        }
        order
    }

    /// By text: how many n-grams occur nowhere else, and the numbers of the others.
    fn texts(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let ends = self.starts.iter().skip(1);
        let numbers = self.starts.iter().zip(ends).map(|(&start, &end)| self.numbers.get(start..end));
        self.unique.iter().copied().zip(numbers.map(Option::unwrap_or_default))
    }
}

/// The counts of a corpus drawn again.
struct Drawn {
    total: u64,
    unique: Vec<(u32, u32)>,
    counts: Vec<u32>,
}

impl Drawn {
    /// `times` says how often each text was drawn.
    fn new(order: &Order, times: &[u32]) -> Self {
        let mut drawn = Self { total: 0, unique: Vec::new(), counts: vec![0; order.different] };
        for (&times, (unique, numbers)) in times.iter().zip(order.texts()).filter(|(times, _)| **times > 0) {
            drawn.total += u64::from(times) * (u64::from(unique) + numbers.len() as u64);
            if unique > 0 {
                drawn.unique.push((times, unique));
            }
            for &number in numbers {
                if let Some(count) = drawn.counts.get_mut(number as usize) {
                    *count = count.saturating_add(times);
                }
            }
        }
        drawn
    }

    fn different(&self) -> u64 {
        let unique: u64 = self.unique.iter().map(|&(_, ngrams)| u64::from(ngrams)).sum();
        unique + self.counts.iter().filter(|count| **count > 0).count() as u64
    }

    /// Pairs (count, n-grams that occur so often), in ascending order.
    fn occurrences(&self) -> Vec<(u64, u64)> {
        const LOW: usize = 1 << 10;
        let mut low = vec![0_u64; LOW];
        let mut high = Vec::new();
        let others = self.counts.iter().map(|&count| (count, 1));
        for (count, ngrams) in self.unique.iter().copied().chain(others) {
            match low.get_mut(count as usize) {
                Some(low) => *low += u64::from(ngrams),
                None => high.push((u64::from(count), u64::from(ngrams))),
            }
        }
        high.sort_unstable();
        high.dedup_by(|next, first| {
            let same = next.0 == first.0;
            first.1 += if same { next.1 } else { 0 };
            same
        });
        let low = (0..).zip(low).skip(1).filter(|&(_, ngrams)| ngrams > 0);
        low.chain(high).collect()
    }
}

/// A score of a corpus, and of that corpus without each of its texts.
///
/// ```
/// use persona_metrics::Distinct;
/// use persona_metrics::stats::jackknife;
///
/// let replies = ["i love my dog .", "i love my cat .", "do you like music ?", "no , i do not ."];
/// for score in Distinct::li().leave_one_out(&replies)? {
///     let interval = jackknife(score.value, &score.without, 0.95)?;
///     println!("{} = {:.3} (standard error {:.3})", score.name, score.value, interval.standard_error);
/// }
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LeaveOneOut {
    /// Name of the score.
    pub name: String,
    /// The score of all texts.
    pub value: f64,
    /// The score without the text of this index. Entropies are exact to about 1e-13.
    pub without: Vec<f64>,
}

impl NgramExamples {
    pub(super) fn new<T: AsRef<str>>(
        metric: NgramMetric,
        texts: impl IndexedParallelIterator<Item = T>,
    ) -> Self {
        let hash = |hasher: &mut GramHasher, text: T| {
            let mut grams = vec![Vec::new(); metric.orders()];
            hasher.hash(
                grams.len(),
                |token| metric.tokens(text.as_ref(), token),
                |order, gram| {
                    grams.get_mut(order).into_iter().for_each(|grams: &mut Vec<Gram>| grams.push(gram));
                },
            );
            grams
        };
        let grams: Vec<Vec<Vec<Gram>>> = texts.map_init(GramHasher::default, hash).collect();
        let order = |order| {
            Order::new(grams.iter().map(move |grams| grams.get(order).map_or(&[][..], Vec::as_slice)))
        };
        let orders = (0..metric.orders()).into_par_iter().map(order).collect();
        Self { metric, texts: grams.len(), orders }
    }

    /// Each score of all texts, and of all texts but one, in time linear in the number of n-grams.
    ///
    /// # Errors
    /// A score that has no value for all texts, or for all texts but one, named by its index.
    pub fn leave_one_out(&self) -> Result<Vec<LeaveOneOut>> {
        let empty = Error::EmptyCorpus { metric: self.metric.name() };
        match self.texts {
            0 => return Err(empty),
            1 => return Err(empty.at(0)),
            _ => {}
        }
        let tokens = self.orders.first().map(Lengths::of).unwrap_or_default();
        (1..).zip(&self.orders).map(|(n, order)| self.without_each(n, order, &tokens)).collect()
    }

    fn without_each(&self, n: usize, order: &Order, tokens: &Lengths) -> Result<LeaveOneOut> {
        let drawn = Drawn::new(order, &vec![1; self.texts]);
        let whole =
            Counts { tokens: tokens.total, total: drawn.total, different: drawn.different(), weighted: 0.0 };
        let mut counts = drawn.counts;
        let logarithms = match self.metric {
            NgramMetric::Distinct(_) => Vec::new(),
            NgramMetric::Entropy(_) => {
                let largest = counts.iter().copied().max().unwrap_or_default();
                (0..=largest).map(|count| f64::from(count) * f64::from(count.max(1)).ln()).collect()
            }
        };
        let weight = |count: u32| logarithms.get(count as usize).copied().unwrap_or_default();
        let whole = Counts { weighted: counts.iter().map(|&count| weight(count)).sum(), ..whole };
        let without = |(index, ((unique, numbers), length)): (usize, ((u32, &[u32]), &u64))| {
            let mut left = whole;
            left.tokens -= length;
            left.total -= u64::from(unique) + numbers.len() as u64;
            left.different -= u64::from(unique);
            for &number in numbers {
                if let Some(count) = counts.get_mut(number as usize) {
                    left.weighted += weight(*count - 1) - weight(*count);
                    *count -= 1;
                    left.different -= u64::from(*count == 0);
                }
            }
            for &number in numbers {
                if let Some(count) = counts.get_mut(number as usize) {
                    *count += 1;
                }
            }
            left.value(&self.metric, n).map_err(|error| error.at(index))
        };
        let texts = order.texts().zip(&tokens.lengths).enumerate();
        let without = texts.map(without).collect::<Result<_>>()?;
        Ok(LeaveOneOut {
            name: format!("{}-{n}", self.metric.name()),
            value: whole.value(&self.metric, n)?,
            without,
        })
    }
}

/// Tokens of each text, and of all.
#[derive(Debug, Default)]
struct Lengths {
    lengths: Vec<u64>,
    total: u64,
}

impl Lengths {
    /// `order` is that of single tokens.
    fn of(order: &Order) -> Self {
        let lengths: Vec<u64> =
            order.texts().map(|(unique, numbers)| u64::from(unique) + numbers.len() as u64).collect();
        Self { total: lengths.iter().sum(), lengths }
    }
}

/// What a score of one order is computed from.
#[derive(Debug, Clone, Copy)]
struct Counts {
    tokens: u64,
    total: u64,
    different: u64,
    /// Sum over n-grams of count ln count.
    weighted: f64,
}

impl Counts {
    fn value(&self, metric: &NgramMetric, n: usize) -> Result<f64> {
        let Self { tokens, total, different, weighted } = *self;
        match metric {
            NgramMetric::Distinct(distinct) => distinct.ratio(n, Types { tokens, total, different }),
            NgramMetric::Entropy(entropy) => {
                let surprisal = total as f64 * (total.max(1) as f64).ln() - weighted;
                Ok(entropy.entropy(total, surprisal))
            }
        }
    }
}

impl Resample for NgramExamples {
    fn len(&self) -> usize {
        self.texts
    }

    /// The bits of the corpus score of the texts that were drawn.
    fn scores_of(&self, indexes: &[u32]) -> Result<Vec<f64>> {
        if indexes.is_empty() {
            return Err(Error::EmptyCorpus { metric: self.metric.name() });
        }
        let mut times = vec![0_u32; self.texts];
        for &index in indexes {
            let out_of_range = Error::IndexOutOfRange { index: index as usize, len: self.texts };
            *times.get_mut(index as usize).ok_or(out_of_range)? += 1;
        }
        let mut tokens = 0;
        let score = |(n, order): (usize, &Order)| {
            let drawn = Drawn::new(order, &times);
            let total = drawn.total;
            if n == 1 {
                tokens = total;
            }
            match self.metric {
                NgramMetric::Distinct(distinct) => {
                    distinct.ratio(n, Types { tokens, total, different: drawn.different() })
                }
                NgramMetric::Entropy(entropy) => {
                    Ok(entropy.entropy(total, surprisal(total, drawn.occurrences())))
                }
            }
        };
        (1..).zip(&self.orders).map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 7] = ["a b a", "a b c, a b", "", "d e f a b", "c", "a a a a a", "so, it is so"];

    fn corpus_of(indexes: &[u32]) -> Vec<&'static str> {
        indexes.iter().map(|&index| TEXTS[index as usize]).collect()
    }

    #[test]
    fn a_corpus_drawn_again_has_the_bits_of_its_texts() {
        let entropies = [Entropy::dialogpt(), Entropy::pal().characters(true)];
        let distincts = [Distinct::li(), Distinct::pal().orders(4).unwrap()];
        for indexes in [&[0, 1, 2, 3, 4, 5, 6][..], &[1, 1, 1, 5], &[6, 0, 3, 3, 2, 0], &[3]] {
            let texts = corpus_of(indexes);
            for metric in distincts {
                let expected = metric.corpus(&texts).unwrap().values();
                assert_eq!(metric.examples(&TEXTS).scores_of(indexes).unwrap(), expected);
            }
            for metric in entropies {
                let expected = metric.corpus(&texts).unwrap().values();
                assert_eq!(metric.examples(&TEXTS).scores_of(indexes).unwrap(), expected);
            }
        }
        // More often than the counts that have a place of their own.
        let often = [&[0; 3000][..], &[5; 2000], &[3]].concat();
        let expected = entropies[0].corpus(&corpus_of(&often)).unwrap().values();
        assert_eq!(entropies[0].examples(&TEXTS).scores_of(&often).unwrap(), expected);
    }

    #[test]
    fn one_text_left_out() {
        let check = |scores: Vec<LeaveOneOut>, corpus: &dyn Fn(&[&str]) -> Vec<f64>| {
            for (place, score) in scores.iter().enumerate() {
                assert!((score.value - corpus(&TEXTS)[place]).abs() < 1e-13, "{score:?}");
                assert_eq!(score.without.len(), TEXTS.len());
                for (index, without) in score.without.iter().enumerate() {
                    let mut texts = TEXTS.to_vec();
                    texts.remove(index);
                    assert!((without - corpus(&texts)[place]).abs() < 1e-13, "{index}: {score:?}");
                }
            }
        };
        for metric in [Distinct::li().orders(3).unwrap(), Distinct::pal()] {
            let scores = metric.leave_one_out(&TEXTS).unwrap();
            assert_eq!(scores[1].name, "Distinct-2");
            check(scores, &|texts| metric.corpus(texts).unwrap().values());
        }
        for metric in [Entropy::dialogpt(), Entropy::pal()] {
            let scores = metric.leave_one_out(&TEXTS).unwrap();
            assert_eq!(scores.len(), 4);
            check(scores, &|texts| metric.corpus(texts).unwrap().values());
        }
    }

    #[test]
    fn two_systems_in_one() {
        let (first, second) = (&TEXTS[..3], &TEXTS[3..6]);
        let both = Distinct::li().paired_examples(first, second).unwrap();
        assert_eq!(both.len(), 6);
        assert_eq!(both.scores_of(&[3, 4, 5]).unwrap(), Distinct::li().corpus(second).unwrap().values());
        assert!(matches!(
            Distinct::li().paired_examples(first, &TEXTS),
            Err(Error::LengthMismatch { left: 3, right: 7, .. })
        ));
    }

    #[test]
    fn bad_input_is_an_error() {
        let examples = Distinct::li().examples(&["a b", "c"]);
        assert!(matches!(examples.scores_of(&[2]), Err(Error::IndexOutOfRange { index: 2, len: 2 })));
        assert!(matches!(examples.scores_of(&[]), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(examples.scores_of(&[1]), Err(Error::NoNgrams { order: 2, .. })));
        // Without the first text there is no bigram.
        assert!(matches!(examples.leave_one_out(), Err(Error::Example { index: 0, .. })));
        let none: [&str; 0] = [];
        assert!(matches!(Entropy::pal().leave_one_out(&none), Err(Error::EmptyCorpus { metric: "Entropy" })));
        assert!(matches!(Entropy::pal().leave_one_out(&["a"]), Err(Error::Example { index: 0, .. })));
    }
}
