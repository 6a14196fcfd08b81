//! Distinct-n of pools of replies, averaged over the pools.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::distinct::{Distinct, Types};
use crate::error::{Error, Result, same_length};
use crate::metric::{Examples, Metric, Sums};
use crate::score::{Scores, Unit};
use crate::sums::MeanSums;
use crate::table::{Gram, GramHasher};
use crate::tokens::{PreTokenization, Texts};

/// Which published mean over pools is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    ParlAiIntra,
    Clv,
    UserSpecific,
}

/// Distinct-n of pools of replies, the mean over the pools, as shares of one. A pool is what a paper compares with each
/// other: the samples for a context, the replies of all users to a question, or a single reply.
///
/// ```
/// use persona_metrics::PooledDistinct;
///
/// // One question and the replies of three users' models.
/// let scores = PooledDistinct::user_specific().corpus(&[["はい。", "はい。", "いいえ。"]])?;
/// assert_eq!(scores.get("Dist-S").map(|score| score.value()), Some(2.0 / 3.0));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PooledDistinct {
    form: Form,
    distinct: Distinct,
}

impl PooledDistinct {
    /// ParlAI's intra-distinct: each reply is a pool of its own, valued as by
    /// [`Distinct::parlai_inter`](crate::Distinct::parlai_inter), so that each has a value.
    ///
    /// ```
    /// use persona_metrics::PooledDistinct;
    ///
    /// let scores = PooledDistinct::parlai_intra().corpus(&["no no no", "yes, a dog"])?;
    /// assert_eq!(scores.get("Intra-Distinct-1").map(|score| score.value()), Some((1.0 / 3.0 + 1.0) / 2.0));
    /// # Ok::<(), persona_metrics::Error>(())
    /// ```
    pub fn parlai_intra() -> Self {
        Self { form: Form::ParlAiIntra, distinct: Distinct::parlai_inter() }
    }

    /// CLV's s-distinct (Tang et al. 2023): a pool holds the samples for one context, and its value is different
    /// n-grams over all n-grams. A pool without an n-gram of an order is left out of that order's mean.
    ///
    /// Tokens are those of `str.split()`. The c-distinct beside it is [`Distinct::li`] over the first sample of each
    /// context.
    pub fn clv() -> Self {
        Self { form: Form::Clv, distinct: Distinct::li() }
    }

    /// Dist-n and Dist-S of user-specific dialogue (Otsuka et al. 2024): a pool holds the replies of all users' models
    /// to one question. Dist-n is different n-grams over all n-grams of the pool, Dist-S different replies over replies.
    ///
    /// The paper does not say what its tokens are; here they are characters, and `characters(false)` takes those of
    /// `str.split()`. A pool without an n-gram is an error.
    pub fn user_specific() -> Self {
        Self { form: Form::UserSpecific, distinct: Distinct::li().characters(true) }
    }

    /// The largest order of n-grams; 2 by default.
    ///
    /// # Errors
    /// An order of 0.
    pub fn orders(self, orders: u8) -> Result<Self> {
        Ok(Self { distinct: self.distinct.orders(orders)?, ..self })
    }

    /// Whether every character (code point, white space included) is a token.
    #[must_use]
    pub fn characters(self, characters: bool) -> Self {
        Self { distinct: self.distinct.characters(characters), ..self }
    }

    /// What happens to the texts before the split (and before ParlAI's normalization); nothing by default.
    #[must_use]
    pub fn pre_tokenization(self, pre_tokenization: PreTokenization) -> Self {
        Self { distinct: self.distinct.pre_tokenization(pre_tokenization), ..self }
    }

    /// Whether texts are lower-cased before the split; not by default. Dist-S compares replies as they are.
    #[must_use]
    pub fn lowercase(self, lowercase: bool) -> Self {
        Self { distinct: self.distinct.lowercase(lowercase), ..self }
    }

    /// The sums of one pool, for [`Statistics::push`](crate::Statistics::push).
    ///
    /// # Errors
    /// A pool without a text, or without an n-gram where that is not left out.
    pub fn pool<T: Texts + ?Sized>(&self, texts: &T) -> Result<PoolSums> {
        let mut texts: Vec<&str> = texts.texts().collect();
        if texts.is_empty() {
            return Err(Error::EmptyPool { metric: Self::NAME });
        }
        let mut sums = self.empty();
        let mut means = sums.0.iter_mut();
        for (order, types) in (1..).zip(self.types(&texts)).take(self.distinct.ngram_orders()) {
            let value = match self.distinct.ratio(order, types) {
                Err(Error::NoNgrams { .. }) if self.form == Form::Clv => None,
                value => Some(value?),
            };
            if let (Some(mean), Some(value)) = (means.next(), value) {
                mean.push(Self::NAME, &[value])?;
            }
        }
        if let Some(mean) = means.next() {
            let all = texts.len() as f64;
            texts.sort_unstable();
            texts.dedup();
            mean.push(Self::NAME, &[texts.len() as f64 / all])?;
        }
        Ok(sums)
    }

    /// N-grams of a pool, by order.
    fn types(&self, texts: &[&str]) -> Vec<Types> {
        let mut pool = vec![Vec::new(); self.distinct.ngram_orders()];
        let mut hasher = GramHasher::default();
        for text in texts {
            hasher.hash(
                pool.len(),
                |token| self.distinct.tokens(text, token),
                |order, gram| {
                    pool.get_mut(order).into_iter().for_each(|grams: &mut Vec<Gram>| grams.push(gram));
                },
            );
        }
        let tokens = pool.first().map_or(0, Vec::len) as u64;
        let types = |mut grams: Vec<Gram>| {
            let total = grams.len() as u64;
            grams.sort_unstable();
            grams.dedup();
            Types { tokens, total, different: grams.len() as u64 }
        };
        pool.into_iter().map(types).collect()
    }

    /// The means over pools, on rayon's threads; the same bits for every number of threads.
    ///
    /// # Errors
    /// No pool, or a pool that has no value, named by its index.
    pub fn corpus<T: Texts + Sync>(&self, pools: &[T]) -> Result<Scores> {
        let mut statistics = self.statistics();
        for sums in self.pools(pools)? {
            statistics.push(&sums)?;
        }
        statistics.scores()
    }

    /// The sums of each pool by itself, to draw pools again (see [`stats`](crate::stats)).
    ///
    /// # Errors
    /// As [`PooledDistinct::corpus`], but no pool is no error.
    pub fn examples<T: Texts + Sync>(&self, pools: &[T]) -> Result<Examples<Self>> {
        Ok(Examples::new(*self, self.pools(pools)?))
    }

    fn pools<T: Texts + Sync>(&self, pools: &[T]) -> Result<Vec<PoolSums>> {
        let pools = pools.par_iter().enumerate();
        // Of several errors the first is to be named.
        let sums: Vec<_> =
            pools.map(|(index, pool)| self.pool(pool).map_err(|error| error.at(index))).collect();
        sums.into_iter().collect()
    }
}

/// What [`PooledDistinct`] adds up over pools: a mean for each score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSums(Vec<MeanSums>);

impl Sums for PoolSums {
    fn add(&mut self, other: &Self) -> Result<()> {
        same_length("scores", self.0.len(), "scores", other.0.len())?;
        let mut sums = self.0.clone();
        for (into, from) in sums.iter_mut().zip(&other.0) {
            into.add(from)?;
        }
        self.0 = sums;
        Ok(())
    }
}

impl Metric for PooledDistinct {
    const NAME: &'static str = "Distinct of pools";
    type Sums = PoolSums;

    fn empty(&self) -> PoolSums {
        PoolSums(vec![MeanSums::new(1); self.names().len()])
    }

    fn names(&self) -> Vec<String> {
        let (name, sentences) = match self.form {
            Form::ParlAiIntra => ("Intra-Distinct", None),
            Form::Clv => ("S-Distinct", None),
            Form::UserSpecific => ("Dist", Some("Dist-S".to_owned())),
        };
        let orders = 1..=self.distinct.ngram_orders();
        orders.map(|order| format!("{name}-{order}")).chain(sentences).collect()
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    /// # Errors
    /// No pool has an n-gram of some order.
    fn values(&self, sums: &PoolSums) -> Result<Vec<f64>> {
        let value = |(order, sums): (usize, &MeanSums)| {
            let mean = sums.means(Self::NAME).ok().and_then(|means| means.first().copied());
            mean.ok_or(Error::NoNgrams { metric: Self::NAME, order })
        };
        (1..).zip(&sums.0).map(value).collect()
    }

    fn settings(&self) -> String {
        let form = match self.form {
            Form::ParlAiIntra => "parlai-intra",
            Form::Clv => "clv",
            Form::UserSpecific => "user-specific",
        };
        format!("pools:{form}|{}", self.distinct.settings())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_without_an_ngram_are_left_out_of_clvs_mean_only() {
        let pools = [vec!["a b", "a c"], vec!["ok", "ok"], vec!["a"]];
        let scores = PooledDistinct::clv().corpus(&pools).unwrap();
        assert_eq!(scores.values(), [(0.75 + 0.5 + 1.0) / 3.0, 1.0]);
        let unigrams_only = PooledDistinct::clv().corpus(&pools[1..]);
        assert!(matches!(unigrams_only, Err(Error::NoNgrams { order: 2, .. })), "{unigrams_only:?}");

        let refused = PooledDistinct::user_specific().characters(false).corpus(&pools);
        assert!(matches!(refused, Err(Error::Example { index: 1, .. })), "{refused:?}");
    }

    #[test]
    fn replies_of_many_users() {
        let pools = [["ええ", "ええ", "はい"], ["a b", "b a", "a b"]];
        let scores = PooledDistinct::user_specific().orders(1).unwrap().corpus(&pools).unwrap();
        // 3 of 6 characters, 2 of 3 replies; 3 of 9, 2 of 3.
        assert_eq!(scores.values(), [(0.5 + 1.0 / 3.0) / 2.0, 2.0 / 3.0]);
        let names: Vec<_> = scores.iter().map(|score| score.name()).collect();
        assert_eq!(names, ["Dist-1", "Dist-S"]);
        let signature = scores.iter().next().unwrap().signature().as_str().to_owned();
        assert!(
            signature.starts_with("pools:user-specific|variant:li|case:mixed|pre:none|split:characters|")
        );
        let words = PooledDistinct::user_specific().characters(false).corpus(&pools[1..]).unwrap();
        assert_eq!(words.values(), [2.0 / 6.0, 2.0 / 3.0, 2.0 / 3.0]);
    }

    #[test]
    fn bad_input_is_an_error() {
        let none: [&str; 0] = [];
        let clv = PooledDistinct::clv();
        assert!(matches!(clv.corpus(&none), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(clv.pool(&none), Err(Error::EmptyPool { .. })));
        assert!(clv.statistics().merge(&PooledDistinct::user_specific().statistics()).is_err());
    }
}
