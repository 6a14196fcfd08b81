//! What all metrics of this crate share: sums over examples, merged in any order, and the scores that come out of them.

use std::fmt::Debug;

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::score::{Score, Scores, Signature, Unit};
use crate::stats::Resample;
use crate::sums::ReferenceRange;
use crate::tokens::Texts;

/// What a metric adds up over the examples of a corpus.
pub trait Sums: Clone + PartialEq + Debug + Send + Sync + Serialize + DeserializeOwned {
    /// Adds the sums of other examples.
    ///
    /// # Errors
    /// The sum leaves the range that can be represented.
    fn add(&mut self, other: &Self) -> Result<()>;
}

/// The settings of a metric, and the way from its sums to its scores.
///
/// Corpus scores are functions of sums over examples. So shards, threads and machines can each compute their own
/// [`Statistics`] and merge them, and a resampled corpus costs additions only. Implement this and [`PairMetric`] or
/// [`TextMetric`] for a metric of your own to get both, and confidence intervals with them.
///
/// ```
/// use persona_metrics::{MeanSums, Metric, PairMetric, Result, Unit};
/// use serde::{Deserialize, Serialize};
///
/// /// Share of replies that end in a question mark where the reference does.
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// struct AsksBack {}
///
/// impl Metric for AsksBack {
///     const NAME: &'static str = "asks back";
///     type Sums = MeanSums;
///     fn empty(&self) -> MeanSums { MeanSums::new(1) }
///     fn names(&self) -> Vec<String> { vec![Self::NAME.to_owned()] }
///     fn unit(&self) -> Unit { Unit::Share }
///     fn values(&self, sums: &MeanSums) -> Result<Vec<f64>> { sums.means(Self::NAME) }
///     fn settings(&self) -> String { String::new() }
/// }
///
/// impl PairMetric for AsksBack {
///     fn count(&self, sums: &mut MeanSums, reply: &str, references: &[&str]) -> Result<()> {
///         let asks = |text: &str| text.trim_end().ends_with('?');
///         let same = references.iter().any(|reference| asks(reference) == asks(reply));
///         sums.push(Self::NAME, &[f64::from(u8::from(same))])
///     }
/// }
///
/// println!("{}", AsksBack {}.corpus(&["Do you?"], &["Have you a dog?"])?);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
pub trait Metric: Clone + PartialEq + Debug + Send + Sync + Serialize + DeserializeOwned {
    /// Name of the metric in errors.
    const NAME: &'static str;
    /// What is added up.
    type Sums: Sums;

    /// The sums of no example.
    fn empty(&self) -> Self::Sums;

    /// Names of the scores, in the order of [`values`](Self::values).
    fn names(&self) -> Vec<String>;

    /// How the scores are written.
    fn unit(&self) -> Unit;

    /// The scores. At least one example has been counted.
    ///
    /// # Errors
    /// A score that has no value for these sums.
    fn values(&self, sums: &Self::Sums) -> Result<Vec<f64>>;

    /// The settings as they stand in the signature: `key:value` pairs joined by `|`.
    fn settings(&self) -> String;

    /// Empty statistics under these settings.
    fn statistics(&self) -> Statistics<Self> {
        Statistics {
            metric: self.clone(),
            examples: 0,
            references: ReferenceRange::default(),
            sums: self.empty(),
        }
    }
}

/// A metric of a hypothesis beside its references (or a reply beside its persona).
pub trait PairMetric: Metric {
    /// Adds one example to the sums.
    ///
    /// # Errors
    /// What the metric has no value for. Nothing is added then.
    fn count(&self, sums: &mut Self::Sums, hypothesis: &str, references: &[&str]) -> Result<()>;

    /// The scores of a corpus, on rayon's threads; the same bits for every number of threads.
    ///
    /// ```
    /// use persona_metrics::Bleu;
    ///
    /// let scores = Bleu::pycocoevalcap().corpus(&["i have a dog"], &[["i have a cat", "i own a dog"]])?;
    /// assert_eq!(scores.iter().count(), 4);
    /// # Ok::<(), persona_metrics::Error>(())
    /// ```
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, an example without references, or what the metric has no value for.
    fn corpus<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<Scores>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        self.collect(hypotheses, references)?.scores()
    }

    /// Statistics of a corpus, on rayon's threads: one shard of a larger whole.
    ///
    /// # Errors
    /// As [`PairMetric::corpus`], but an empty corpus has statistics.
    fn collect<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<Statistics<Self>>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        let mut statistics = self.statistics();
        statistics.extend(hypotheses, references)?;
        Ok(statistics)
    }

    /// The scores of one hypothesis, which is a corpus of one.
    ///
    /// # Errors
    /// As [`PairMetric::corpus`].
    fn sentence<R: Texts + ?Sized>(&self, hypothesis: &str, references: &R) -> Result<Scores> {
        let mut statistics = self.statistics();
        statistics.update(hypothesis, references)?;
        statistics.scores()
    }

    /// The sums of each example by itself, to draw them again (see [`stats`](crate::stats)).
    ///
    /// # Errors
    /// As [`PairMetric::corpus`].
    fn examples<H, R>(&self, hypotheses: &[H], references: &[R]) -> Result<Examples<Self>>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        same_length("hypotheses", hypotheses.len(), "lists of references", references.len())?;
        let one = |(index, (hypothesis, references)): (usize, (&H, &R))| {
            let mut statistics = self.statistics();
            statistics.update(hypothesis.as_ref(), references).map_err(|error| error.at(index))?;
            Ok(statistics.sums)
        };
        let sums = hypotheses.par_iter().zip(references).enumerate().map(one).collect::<Result<_>>()?;
        Ok(Examples { metric: self.clone(), sums })
    }
}

/// A metric of texts by themselves.
pub trait TextMetric: Metric {
    /// Adds texts to the sums, on rayon's threads.
    ///
    /// # Errors
    /// What the metric has no value for. The sums are not to be used then.
    fn count_texts<H: AsRef<str> + Sync>(&self, sums: &mut Self::Sums, texts: &[H]) -> Result<()>;

    /// The scores of a corpus, on rayon's threads; the same bits for every number of threads.
    ///
    /// # Errors
    /// An empty corpus, or what the metric has no value for.
    fn corpus<H: AsRef<str> + Sync>(&self, texts: &[H]) -> Result<Scores> {
        self.collect(texts)?.scores()
    }

    /// Statistics of a corpus, on rayon's threads: one shard of a larger whole.
    ///
    /// # Errors
    /// As [`TextMetric::corpus`], but an empty corpus has statistics.
    fn collect<H: AsRef<str> + Sync>(&self, texts: &[H]) -> Result<Statistics<Self>> {
        let mut statistics = self.statistics();
        statistics.extend_texts(texts)?;
        Ok(statistics)
    }
}

/// The sums of a part of a corpus under a metric's settings. Parts are merged in any order; they are serde types, so
/// that they can be computed on several machines.
///
/// ```
/// use persona_metrics::Rouge;
///
/// let rouge = Rouge::pycocoevalcap();
/// let mut first = rouge.statistics();
/// first.update("i have a dog", "i have two dogs")?;
/// let mut second = rouge.statistics();
/// second.update("hello", &["hi", "hello there"])?;
/// second.merge(&first)?;
/// println!("{}", second.scores()?);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Statistics<M: Metric> {
    metric: M,
    examples: u64,
    references: ReferenceRange,
    sums: M::Sums,
}

impl<M: Metric> Statistics<M> {
    /// Number of examples counted so far.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Adds another part of the corpus.
    ///
    /// # Errors
    /// The other part was counted under other settings.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.metric != other.metric {
            return Err(Error::SettingsDiffer {
                left: self.metric.settings(),
                right: other.metric.settings(),
            });
        }
        self.sums.add(&other.sums)?;
        self.references.merge(&other.references);
        self.examples = self.examples.saturating_add(other.examples);
        Ok(())
    }

    /// The scores of everything counted so far.
    ///
    /// # Errors
    /// Nothing was counted, or a score has no value for what was.
    pub fn scores(&self) -> Result<Scores> {
        let values = self.values()?;
        let references = self.references.signature();
        let signature = Signature::new(format_args!("{}{references}", self.metric.settings()));
        let unit = self.metric.unit();
        let scores = self.metric.names().into_iter().zip(values);
        let scores = scores.map(|(name, value)| Score::new(M::NAME, name, value, unit, signature.clone()));
        Ok(Scores::new(scores.collect::<Result<_>>()?))
    }

    /// The values of the scores alone.
    ///
    /// # Errors
    /// As [`Statistics::scores`].
    pub fn values(&self) -> Result<Vec<f64>> {
        if self.examples == 0 {
            return Err(Error::EmptyCorpus { metric: M::NAME });
        }
        self.metric.values(&self.sums)
    }

    /// The settings.
    pub fn metric(&self) -> &M {
        &self.metric
    }

    /// What has been added up.
    pub fn sums(&self) -> &M::Sums {
        &self.sums
    }

    /// Adds one example whose sums are at hand.
    ///
    /// # Errors
    /// As [`Sums::add`].
    pub fn push(&mut self, sums: &M::Sums) -> Result<()> {
        self.sums.add(sums)?;
        self.examples = self.examples.saturating_add(1);
        Ok(())
    }

    /// Adds one example whose sums are at hand and that has so many references.
    pub(crate) fn push_with(&mut self, sums: &M::Sums, references: usize) -> Result<()> {
        self.push(sums)?;
        self.references.add(references);
        Ok(())
    }
}

impl<M: PairMetric> Statistics<M> {
    /// Counts one hypothesis with its reference or references. Empty texts are allowed.
    ///
    /// # Errors
    /// What the metric has no value for; nothing is counted then.
    pub fn update<R: Texts + ?Sized>(&mut self, hypothesis: &str, references: &R) -> Result<()> {
        let references: Vec<&str> = references.texts().collect();
        self.metric.count(&mut self.sums, hypothesis, &references)?;
        self.references.add(references.len());
        self.examples = self.examples.saturating_add(1);
        Ok(())
    }

    /// Counts a list of hypotheses, on rayon's threads.
    ///
    /// # Errors
    /// Lists of unequal length, or the first example, named by its index in these lists, that cannot be counted;
    /// nothing is counted then.
    pub fn extend<H, R>(&mut self, hypotheses: &[H], references: &[R]) -> Result<()>
    where
        H: AsRef<str> + Sync,
        R: Texts + Sync,
    {
        same_length("hypotheses", hypotheses.len(), "lists of references", references.len())?;
        let size = shard_size(hypotheses.len());
        let shards = hypotheses.par_chunks(size).zip(references.par_chunks(size)).enumerate();
        let count = |(shard, (hypotheses, references)): (usize, (&[H], &[R]))| {
            let mut statistics = self.metric.statistics();
            for (index, (hypothesis, references)) in hypotheses.iter().zip(references).enumerate() {
                let counted = statistics.update(hypothesis.as_ref(), references);
                counted.map_err(|error| error.at(shard * size + index))?;
            }
            Ok(statistics)
        };
        let shards = shards.map(count).collect::<Vec<Result<Self>>>();
        let mut whole = self.clone();
        for shard in shards {
            whole.merge(&shard?)?;
        }
        *self = whole;
        Ok(())
    }
}

impl<M: TextMetric> Statistics<M> {
    /// Counts one text. Empty texts are allowed.
    ///
    /// # Errors
    /// What the metric has no value for.
    pub fn update_text(&mut self, text: &str) -> Result<()> {
        self.extend_texts(&[text])
    }

    /// Counts a list of texts, on rayon's threads.
    ///
    /// # Errors
    /// What the metric has no value for.
    pub fn extend_texts<H: AsRef<str> + Sync>(&mut self, texts: &[H]) -> Result<()> {
        self.metric.count_texts(&mut self.sums, texts)?;
        self.examples = self.examples.saturating_add(texts.len() as u64);
        Ok(())
    }
}

/// The sums of each example of a corpus by itself: what a bootstrap draws from.
///
/// ```
/// use persona_metrics::stats::{Draws, bootstrap};
/// use persona_metrics::{Bleu, PairMetric};
///
/// let hypotheses = ["i have a dog", "do you ski ?", "i like to sing"];
/// let references = ["i have a cat", "do you ski often ?", "i love to sing"];
/// let examples = Bleu::pycocoevalcap().examples(&hypotheses, &references)?;
/// let interval = &bootstrap(&examples, &Draws::seeded(1000, 7), 0.95)?[0];
/// assert!(interval.low <= interval.value && interval.value <= interval.high);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Examples<M: Metric> {
    metric: M,
    sums: Vec<M::Sums>,
}

impl<M: Metric> Examples<M> {
    /// Examples whose sums are at hand.
    pub fn new(metric: M, sums: Vec<M::Sums>) -> Self {
        Self { metric, sums }
    }

    /// The examples of two systems in one corpus, the first system's first: what the paired tests draw from.
    ///
    /// # Errors
    /// The systems were counted under other settings, or differ in length.
    pub fn joined(mut self, other: Self) -> Result<Self> {
        same_length("examples of one system", self.sums.len(), "of the other", other.sums.len())?;
        if self.metric != other.metric {
            return Err(Error::SettingsDiffer {
                left: self.metric.settings(),
                right: other.metric.settings(),
            });
        }
        self.sums.extend(other.sums);
        Ok(self)
    }

    /// Statistics of all examples, each with its number of references.
    ///
    /// # Errors
    /// Another number of examples, or a sum that leaves the range that can be represented.
    pub fn statistics(&self, references: impl ExactSizeIterator<Item = usize>) -> Result<Statistics<M>> {
        same_length("examples", self.sums.len(), "numbers of references", references.len())?;
        let mut statistics = self.metric.statistics();
        for (sums, references) in self.sums.iter().zip(references) {
            statistics.push_with(sums, references)?;
        }
        Ok(statistics)
    }

    /// The names of the scores.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.metric.names()
    }

    /// The scores of each example by itself, where it has them.
    pub fn sentence_values(&self) -> impl Iterator<Item = Result<Vec<f64>>> {
        self.sums.iter().map(|sums| self.metric.values(sums))
    }
}

impl<M: Metric> Resample for Examples<M> {
    fn len(&self) -> usize {
        self.sums.len()
    }

    fn scores_of(&self, indexes: &[u32]) -> Result<Vec<f64>> {
        let mut sum = self.metric.empty();
        for &index in indexes {
            let example = self.sums.get(index as usize);
            sum.add(example.ok_or(Error::IndexOutOfRange { index: index as usize, len: self.sums.len() })?)?;
        }
        self.metric.values(&sum)
    }
}

/// The methods of [`Metric`] and [`PairMetric`] that everybody calls, so that no trait has to be imported for them.
macro_rules! pair_metric_methods {
    ($metric:ty) => {
        impl $metric {
            /// Empty statistics under these settings; see [`Metric::statistics`](crate::Metric::statistics).
            pub fn statistics(&self) -> crate::Statistics<Self> {
                crate::Metric::statistics(self)
            }

            /// The scores of a corpus, on rayon's threads; see [`PairMetric::corpus`](crate::PairMetric::corpus).
            ///
            /// # Errors
            /// Lists of unequal length, an empty corpus, or an example that the metric has no value for.
            pub fn corpus<H, R>(&self, hypotheses: &[H], references: &[R]) -> crate::Result<crate::Scores>
            where
                H: AsRef<str> + Sync,
                R: crate::Texts + Sync,
            {
                crate::PairMetric::corpus(self, hypotheses, references)
            }

            /// The scores of one hypothesis; see [`PairMetric::sentence`](crate::PairMetric::sentence).
            ///
            /// # Errors
            /// As for a corpus.
            pub fn sentence<R: crate::Texts + ?Sized>(
                &self,
                hypothesis: &str,
                references: &R,
            ) -> crate::Result<crate::Scores> {
                crate::PairMetric::sentence(self, hypothesis, references)
            }
        }
    };
}
pub(crate) use pair_metric_methods;

/// The methods of [`Metric`] and [`TextMetric`] that everybody calls, so that no trait has to be imported for them.
macro_rules! text_metric_methods {
    ($metric:ty) => {
        impl $metric {
            /// Empty statistics under these settings; see [`Metric::statistics`](crate::Metric::statistics).
            pub fn statistics(&self) -> crate::Statistics<Self> {
                crate::Metric::statistics(self)
            }

            /// The scores of a corpus, on rayon's threads; see [`TextMetric::corpus`](crate::TextMetric::corpus).
            ///
            /// # Errors
            /// An empty corpus, or what the metric has no value for.
            pub fn corpus<H: AsRef<str> + Sync>(&self, texts: &[H]) -> crate::Result<crate::Scores> {
                crate::TextMetric::corpus(self, texts)
            }
        }
    };
}
pub(crate) use text_metric_methods;

/// Few shards a thread: what is merged may be large.
pub(crate) fn shard_size(examples: usize) -> usize {
    examples.div_ceil(4 * rayon::current_num_threads()).max(256)
}
