//! Where resampled corpora come from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::error::{Error, Result, same_length};

/// A corpus whose examples can be drawn again.
///
/// A slice of numbers is one: its score is their mean, so that sentence-level scores can be resampled as they are.
pub trait Resample: Sync {
    /// Number of examples.
    fn len(&self) -> usize;

    /// Whether there is no example.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scores of the corpus made of the examples at these indexes; an index that comes twice counts twice.
    ///
    /// # Errors
    /// An index that is out of range, or a score without a value for this corpus.
    fn scores_of(&self, indexes: &[u32]) -> Result<Vec<f64>>;
}

impl Resample for [f64] {
    fn len(&self) -> usize {
        <[f64]>::len(self)
    }

    fn scores_of(&self, indexes: &[u32]) -> Result<Vec<f64>> {
        if indexes.is_empty() {
            return Err(Error::EmptyCorpus { metric: "mean" });
        }
        let mut sum = 0.0;
        for &index in indexes {
            let out_of_range = Error::IndexOutOfRange { index: index as usize, len: <[f64]>::len(self) };
            sum += self.get(index as usize).ok_or(out_of_range)?;
        }
        Ok(vec![sum / indexes.len() as f64])
    }
}

/// The values of two systems for the same examples in one corpus, the first system's first: what
/// [`paired_bootstrap`](super::paired_bootstrap) and
/// [`approximate_randomisation`](super::approximate_randomisation) take.
///
/// # Errors
/// Lists of unequal length.
pub fn joined<T: Clone>(a: &[T], b: &[T]) -> Result<Vec<T>> {
    same_length("values of one system", a.len(), "of the other", b.len())?;
    Ok([a, b].concat())
}

/// Indexes of the examples of each resampled corpus, drawn with replacement.
///
/// Seeded rows are drawn uniformly from the stream of ChaCha8 that belongs to the seed and the row's number. They are
/// the same on every machine and for every number of threads, and the first rows do not depend on how many follow.
#[derive(Debug, Clone, Copy)]
pub struct Draws<'a>(pub(super) Source<'a, u32>);

impl<'a> Draws<'a> {
    /// This many corpora, drawn from a seed.
    pub fn seeded(trials: usize, seed: u64) -> Self {
        Self(Source::Seeded { trials, seed })
    }

    /// Rows drawn elsewhere, one a corpus, each with as many indexes as there are examples (of one system).
    pub fn given(rows: &'a [Vec<u32>]) -> Self {
        Self(Source::Given(rows))
    }
}

/// For each trial, whether each example swaps its two systems.
///
/// Seeded rows are fair bits from the same streams as [`Draws`].
#[derive(Debug, Clone, Copy)]
pub struct Swaps<'a>(pub(super) Source<'a, bool>);

impl<'a> Swaps<'a> {
    /// This many trials, drawn from a seed.
    pub fn seeded(trials: usize, seed: u64) -> Self {
        Self(Source::Seeded { trials, seed })
    }

    /// Rows drawn elsewhere, one a trial, each with as many entries as one system has examples.
    pub fn given(rows: &'a [Vec<bool>]) -> Self {
        Self(Source::Given(rows))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a, T> {
    Given(&'a [Vec<T>]),
    Seeded { trials: usize, seed: u64 },
}

impl<T: Draw> Source<'_, T> {
    /// What `trial` makes of each row, in the order of the rows, on rayon's threads. Of several errors, the first row's.
    pub(super) fn map<S: Send>(
        &self,
        statistic: &'static str,
        examples: u32,
        trial: impl Fn(&[T]) -> Result<S> + Sync,
    ) -> Result<Vec<S>> {
        let results: Vec<Result<S>> = match *self {
            Source::Given(rows) => rows
                .par_iter()
                .map(|row| {
                    same_length("entries of the row", row.len(), "examples", examples as usize)?;
                    T::check(row, examples)?;
                    trial(row)
                })
                .collect(),
            Source::Seeded { trials, seed } => (0..trials)
                .into_par_iter()
                .map_init(
                    || vec![T::default(); examples as usize],
                    |row, index| {
                        let mut random = ChaCha8Rng::seed_from_u64(seed);
                        random.set_stream(index as u64);
                        T::fill(row, &mut random);
                        trial(row)
                    },
                )
                .collect(),
        };
        if results.is_empty() {
            return Err(Error::TooFew { statistic, what: "trials", needed: 1, given: 0 });
        }
        let named = results
            .into_iter()
            .enumerate()
            .map(|(trial, result)| result.map_err(|source| Error::Trial { trial, source: Box::new(source) }));
        named.collect()
    }
}

/// What a row is made of.
pub(super) trait Draw: Copy + Default + Send + Sync {
    /// Whether the row fits as many examples.
    fn check(row: &[Self], examples: u32) -> Result<()>;

    /// A random row for as many examples as it has entries.
    fn fill(row: &mut [Self], random: &mut ChaCha8Rng);
}

impl Draw for u32 {
    fn check(row: &[Self], examples: u32) -> Result<()> {
        match row.iter().find(|&&index| index >= examples) {
            None => Ok(()),
            Some(&index) => Err(Error::IndexOutOfRange { index: index as usize, len: examples as usize }),
        }
    }

    /// Lemire (2019): the high half of a 32-bit number times n is uniform once the lowest products, 2^32 mod n of
    /// them, are drawn anew.
    fn fill(row: &mut [Self], random: &mut ChaCha8Rng) {
        let examples = row.len() as u32;
        let surplus = examples.wrapping_neg().checked_rem(examples).unwrap_or(0);
        for index in row {
            *index = loop {
                let product = u64::from(random.next_u32()) * u64::from(examples);
                if product as u32 >= surplus {
                    break (product >> 32) as u32;
                }
            };
        }
    }
}

impl Draw for bool {
    fn check(_row: &[Self], _examples: u32) -> Result<()> {
        Ok(())
    }

    fn fill(row: &mut [Self], random: &mut ChaCha8Rng) {
        for bits in row.chunks_mut(32) {
            let mut word = random.next_u32();
            for bit in bits {
                *bit = word & 1 == 1;
                word >>= 1;
            }
        }
    }
}

/// The number of examples, at least one, as indexes are counted.
pub(super) fn examples<C: Resample + ?Sized>(statistic: &'static str, corpus: &C) -> Result<u32> {
    match u32::try_from(corpus.len()) {
        Ok(0) => Err(Error::EmptyCorpus { metric: statistic }),
        Ok(examples) => Ok(examples),
        Err(_) => Err(Error::OutOfRange { metric: statistic, value: corpus.len() as f64 }),
    }
}

/// The number of examples of one system of two.
pub(super) fn examples_of_each<C: Resample + ?Sized>(statistic: &'static str, corpus: &C) -> Result<u32> {
    let both = examples(statistic, corpus)?;
    same_length("examples of one system", (both / 2) as usize, "of the other", both.div_ceil(2) as usize)?;
    Ok(both / 2)
}

/// The scores of these examples, all of them finite.
pub(super) fn scores<C: Resample + ?Sized>(
    statistic: &'static str,
    corpus: &C,
    indexes: &[u32],
) -> Result<Vec<f64>> {
    let scores = corpus.scores_of(indexes)?;
    match scores.iter().find(|score| !score.is_finite()) {
        None => Ok(scores),
        Some(&value) => Err(Error::OutOfRange { metric: statistic, value }),
    }
}

/// The trials' values of each score by itself.
pub(super) fn columns<'s>(
    trials: impl ExactSizeIterator<Item = &'s Vec<f64>>,
    scores: usize,
) -> Result<Vec<Vec<f64>>> {
    let mut columns = vec![Vec::with_capacity(trials.len()); scores];
    for trial in trials {
        same_length("scores of a trial", trial.len(), "of the corpus", scores)?;
        for (column, &score) in columns.iter_mut().zip(trial) {
            column.push(score);
        }
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(draws: Draws<'_>, examples: u32) -> Vec<Vec<u32>> {
        draws.0.map("test", examples, |row| Ok(row.to_vec())).unwrap()
    }

    #[test]
    fn rows_depend_on_seed_and_number_alone() {
        let (many, few) = (rows(Draws::seeded(50, 3), 100), rows(Draws::seeded(20, 3), 100));
        assert_eq!(many[..20], few);
        assert_ne!(many, rows(Draws::seeded(50, 4), 100));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(many, pool.install(|| rows(Draws::seeded(50, 3), 100)));
        assert_ne!(many[0], many[1]);
    }

    /// The rows are part of what a result depends on: these numbers may not change.
    #[test]
    fn rows_of_a_seed_stay_what_they_are() {
        let expected = [[1, 1, 1, 1, 2, 7, 0, 7, 0, 6], [6, 9, 1, 0, 9, 7, 4, 5, 6, 0]];
        assert_eq!(rows(Draws::seeded(2, 7), 10), expected);
    }

    #[test]
    fn indexes_are_uniform() {
        let mut counts = [0_u32; 7];
        for index in rows(Draws::seeded(10_000, 1), 7).concat() {
            counts[index as usize] += 1;
        }
        // Of 70,000, 10,000 each, with a standard deviation of 93.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 465), "{counts:?}");
    }

    #[test]
    fn swaps_are_fair() {
        let swaps = Swaps::seeded(1000, 1).0.map("test", 70, |row| Ok(row.to_vec())).unwrap();
        for example in [0, 31, 32, 69] {
            let swapped = swaps.iter().filter(|row| row[example]).count();
            // Of 1,000, 500, with a standard deviation of 16.
            assert!(swapped.abs_diff(500) < 80, "{swapped}");
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        for row in [vec![0, 3, 1], vec![0, 1]] {
            let given = [vec![0, 1, 2], row];
            let error = Draws::given(&given).0.map("test", 3, |_| Ok(()));
            assert!(matches!(error, Err(Error::Trial { trial: 1, .. })), "{error:?}");
        }
        let none = Draws::seeded(0, 1).0.map("test", 3, |_| Ok(()));
        assert!(matches!(none, Err(Error::TooFew { given: 0, .. })));
    }

    #[test]
    fn a_slice_has_its_mean() {
        let values = [1.0, 2.0, 6.0];
        assert_eq!(values.as_slice().scores_of(&[0, 2, 2, 1]).unwrap(), [15.0 / 4.0]);
        assert!(matches!(values.scores_of(&[3]), Err(Error::IndexOutOfRange { index: 3, len: 3 })));
        assert!(matches!(values.scores_of(&[]), Err(Error::EmptyCorpus { .. })));
    }
}
