//! Selection accuracy: does the model name a description that applies, and 'none' where none does.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::metric::{Examples, Metric, Statistics, Sums};
use crate::score::{Score, Signature, Unit};

/// Selection accuracy, and the share of examples where no description applies, which is what answering 'none' every
/// time would score. Any label of an example is right; 'none' is right where there is none.
///
/// ```
/// use persona_metrics::SelectionAccuracy;
///
/// let mut statistics = SelectionAccuracy.statistics();
/// statistics.update(Some(2), &[0, 2])?; // either label is right
/// statistics.update(None, &[])?; // right: none applies
/// statistics.update(Some(1), &[])?;
/// statistics.update(None, &[3])?;
/// let selection = statistics.report()?;
/// assert_eq!(selection.accuracy.value(), 0.5);
/// assert_eq!(selection.none_base_rate.value(), 0.5);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct SelectionAccuracy;

/// Counts of selections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelectionCounts {
    confusion: SelectionConfusion,
    right_description: u64,
}

/// How often 'none' or a description was predicted where none or at least one applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelectionConfusion {
    /// Predicted none, and none applies: right.
    pub none_as_none: u64,
    /// Predicted a description, but none applies: wrong.
    pub none_as_description: u64,
    /// Predicted none, but a description applies: wrong.
    pub description_as_none: u64,
    /// Predicted a description where one applies: right if it is one of those that do.
    pub description_as_description: u64,
}

impl SelectionConfusion {
    /// Examples where no description applies.
    pub fn none_applies(&self) -> u64 {
        self.none_as_none.saturating_add(self.none_as_description)
    }

    /// Examples where at least one description applies.
    pub fn description_applies(&self) -> u64 {
        self.description_as_none.saturating_add(self.description_as_description)
    }

    /// All examples.
    pub fn examples(&self) -> u64 {
        self.none_applies().saturating_add(self.description_applies())
    }
}

impl Sums for SelectionCounts {
    fn add(&mut self, other: &Self) -> Result<()> {
        let (into, from) = (&mut self.confusion, &other.confusion);
        into.none_as_none = into.none_as_none.saturating_add(from.none_as_none);
        into.none_as_description = into.none_as_description.saturating_add(from.none_as_description);
        into.description_as_none = into.description_as_none.saturating_add(from.description_as_none);
        into.description_as_description =
            into.description_as_description.saturating_add(from.description_as_description);
        self.right_description = self.right_description.saturating_add(other.right_description);
        Ok(())
    }
}

impl SelectionAccuracy {
    /// Empty statistics; see [`Metric::statistics`].
    pub fn statistics(&self) -> Statistics<Self> {
        Metric::statistics(self)
    }

    /// The counts of one example. `predicted` is the index of the selected description, None for 'none'; `labels` are
    /// the indices of those that apply, empty where none does (PAL's records write this as `[-1]`).
    pub fn example(&self, predicted: Option<usize>, labels: &[usize]) -> SelectionCounts {
        let mut counts = self.empty();
        let confusion = &mut counts.confusion;
        *match (predicted, labels.is_empty()) {
            (None, true) => &mut confusion.none_as_none,
            (Some(_), true) => &mut confusion.none_as_description,
            (None, false) => &mut confusion.description_as_none,
            (Some(_), false) => &mut confusion.description_as_description,
        } = 1;
        counts.right_description = predicted.is_some_and(|predicted| labels.contains(&predicted)).into();
        counts
    }

    /// Each example by itself, to draw them again (see [`stats`](crate::stats)).
    ///
    /// # Errors
    /// Lists of unequal length.
    pub fn examples<L: AsRef<[usize]>>(
        &self,
        predicted: &[Option<usize>],
        labels: &[L],
    ) -> Result<Examples<Self>> {
        same_length("predictions", predicted.len(), "lists of labels", labels.len())?;
        let pairs = predicted.iter().zip(labels);
        let counts = pairs.map(|(&predicted, labels)| self.example(predicted, labels.as_ref()));
        Ok(Examples::new(*self, counts.collect()))
    }
}

impl Metric for SelectionAccuracy {
    const NAME: &'static str = "Selection accuracy";
    type Sums = SelectionCounts;

    fn empty(&self) -> SelectionCounts {
        SelectionCounts::default()
    }

    fn names(&self) -> Vec<String> {
        vec![Self::NAME.to_owned(), "Selection none base rate".to_owned()]
    }

    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn values(&self, counts: &SelectionCounts) -> Result<Vec<f64>> {
        let SelectionCounts { confusion, right_description } = counts;
        let examples = confusion.examples() as f64;
        let right = confusion.none_as_none.saturating_add(*right_description);
        Ok(vec![right as f64 / examples, confusion.none_applies() as f64 / examples])
    }

    fn settings(&self) -> String {
        "variant:any-label".to_owned()
    }
}

impl Statistics<SelectionAccuracy> {
    /// Counts one example; see [`SelectionAccuracy::example`].
    ///
    /// # Errors
    /// None for counts that were counted here.
    pub fn update(&mut self, predicted: Option<usize>, labels: &[usize]) -> Result<()> {
        self.push(&SelectionAccuracy.example(predicted, labels))
    }

    /// Accuracy, base rate and confusion of everything counted so far.
    ///
    /// # Errors
    /// Nothing was counted.
    pub fn report(&self) -> Result<Selection> {
        let mut scores = self.scores()?.into_iter();
        let (Some(accuracy), Some(none_base_rate)) = (scores.next(), scores.next()) else {
            return Err(Error::EmptyCorpus { metric: SelectionAccuracy::NAME });
        };
        let SelectionCounts { confusion, right_description } = *self.sums();
        let accuracy_where_described = match confusion.description_applies() {
            0 => None,
            applies => {
                let (name, value) =
                    ("Selection accuracy where described", right_description as f64 / applies as f64);
                let signature = Signature::new(SelectionAccuracy.settings());
                Some(Score::new(SelectionAccuracy::NAME, name, value, Unit::Share, signature)?)
            }
        };
        Ok(Selection { accuracy, none_base_rate, accuracy_where_described, confusion })
    }
}

/// Selection accuracy and the numbers to read it by. Displayed one score a line, the confusion last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Share of examples where the prediction is right.
    pub accuracy: Score,
    /// Share of examples where none applies: what answering 'none' every time would score.
    pub none_base_rate: Score,
    /// Accuracy over the examples where at least one description applies; None if there is no such example.
    pub accuracy_where_described: Option<Score>,
    /// Counts of 'none' against description.
    pub confusion: SelectionConfusion,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.accuracy, self.none_base_rate)?;
        if let Some(score) = &self.accuracy_where_described {
            writeln!(f, "{score}")?;
        }
        let SelectionConfusion {
            none_as_none,
            none_as_description,
            description_as_none,
            description_as_description,
        } = self.confusion;
        write!(
            f,
            "none applies: {none_as_none} predicted none, {none_as_description} a description; \
             a description applies: {description_as_none} predicted none, {description_as_description} a description"
        )
    }
}

/// Selection accuracy of a corpus: one prediction and one list of labels an example.
///
/// # Errors
/// Lists of unequal length, an empty corpus.
pub fn selection_accuracy<L: AsRef<[usize]>>(predicted: &[Option<usize>], labels: &[L]) -> Result<Selection> {
    same_length("predictions", predicted.len(), "lists of labels", labels.len())?;
    let mut statistics = SelectionAccuracy.statistics();
    for (&predicted, labels) in predicted.iter().zip(labels) {
        statistics.update(predicted, labels.as_ref())?;
    }
    statistics.report()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Resample;

    #[test]
    fn counts_and_shares() {
        let predicted = [None, Some(0), None, Some(1), Some(4), Some(2)];
        let labels = [vec![], vec![], vec![1], vec![1], vec![0, 4], vec![0, 1]];
        let selection = selection_accuracy(&predicted, &labels).unwrap();
        let confusion = SelectionConfusion {
            none_as_none: 1,
            none_as_description: 1,
            description_as_none: 1,
            description_as_description: 3,
        };
        assert_eq!(selection.confusion, confusion);
        assert_eq!(selection.accuracy.value(), 3.0 / 6.0);
        assert_eq!(selection.none_base_rate.value(), 2.0 / 6.0);
        assert_eq!(selection.accuracy_where_described.as_ref().unwrap().value(), 2.0 / 4.0);
        let examples = SelectionAccuracy.examples(&predicted, &labels).unwrap();
        assert_eq!(examples.scores_of(&[0, 2, 3, 5]).unwrap(), [2.0 / 4.0, 1.0 / 4.0]);
        let text = selection.to_string();
        assert!(text.starts_with("Selection accuracy = 50.00 | variant:any-label|"), "{text}");
        assert!(text.contains("a description applies: 1 predicted none, 3 a description"), "{text}");
    }

    #[test]
    fn without_an_example_where_a_description_applies_there_is_no_accuracy_of_those() {
        let selection = selection_accuracy(&[None], &[[]]).unwrap();
        assert_eq!(selection.accuracy_where_described, None);
        assert_eq!(selection.accuracy.value(), 1.0);
    }

    #[test]
    fn bad_input_is_an_error() {
        let none: [Vec<usize>; 0] = [];
        assert!(matches!(selection_accuracy(&[], &none), Err(Error::EmptyCorpus { .. })));
        assert!(matches!(selection_accuracy(&[None], &none), Err(Error::LengthMismatch { .. })));
    }
}
