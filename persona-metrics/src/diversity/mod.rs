//! Diversity of replies: of a corpus, and of pools of replies to the same context.

mod distinct;
mod entropy;
mod examples;
mod pooled;

pub use self::distinct::Distinct;
pub use self::entropy::Entropy;
pub use self::examples::{LeaveOneOut, NgramExamples};
pub use self::pooled::{PoolSums, PooledDistinct};
use crate::error::{Error, Result};

/// The number of orders, once it is known to be one.
fn checked_orders(metric: &'static str, orders: u8) -> Result<usize> {
    if orders == 0 {
        let problem = "the largest order of n-grams has to be at least 1".to_owned();
        return Err(Error::InvalidSetting { metric, problem });
    }
    Ok(orders.into())
}

/// The methods that [`Distinct`] and [`Entropy`] have in common.
macro_rules! corpus_diversity_methods {
    ($metric:ident, $orders:literal) => {
        impl $metric {
            /// The largest order of n-grams;
            #[doc = $orders]
            /// by default.
            ///
            /// # Errors
            /// An order of 0.
            pub fn orders(mut self, orders: u8) -> crate::Result<Self> {
                self.orders = super::checked_orders(<Self as crate::Metric>::NAME, orders)?;
                Ok(self)
            }

            /// Whether every character (code point, white space included) is a token, as for Japanese and Chinese
            /// text that has not been segmented. No by default: tokens are those of the package.
            #[must_use]
            pub fn characters(mut self, characters: bool) -> Self {
                self.preprocessing.split =
                    if characters { crate::tokens::Split::Characters } else { self.variant.split() };
                self
            }

            /// The n-grams of each text by themselves, to draw texts again or to leave one out.
            pub fn examples<T: AsRef<str> + Sync>(&self, texts: &[T]) -> crate::NgramExamples {
                crate::NgramExamples::new(super::examples::NgramMetric::$metric(*self), texts.par_iter())
            }

            /// The same of two systems' texts in one, the first system's first: what the paired tests draw from.
            ///
            /// # Errors
            /// Lists of unequal length.
            pub fn paired_examples<A: AsRef<str> + Sync, B: AsRef<str> + Sync>(
                &self,
                first: &[A],
                second: &[B],
            ) -> crate::Result<crate::NgramExamples> {
                let names = ("texts of one system", "of the other");
                crate::error::same_length(names.0, first.len(), names.1, second.len())?;
                let first = first.par_iter().map(AsRef::as_ref);
                let both = first.chain(second.par_iter().map(AsRef::as_ref));
                Ok(crate::NgramExamples::new(super::examples::NgramMetric::$metric(*self), both))
            }

            /// Each score of the corpus and of the corpus without each text, for
            /// [`jackknife`](crate::stats::jackknife), in time linear in the number of tokens.
            ///
            /// # Errors
            /// A score that has no value for the corpus, or for the corpus without one text, named by its index.
            pub fn leave_one_out<T: AsRef<str> + Sync>(
                &self,
                texts: &[T],
            ) -> crate::Result<Vec<crate::LeaveOneOut>> {
                self.examples(texts).leave_one_out()
            }
        }
    };
}
use corpus_diversity_methods;
