//! Labels from a judge's probabilities.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::NliLabel;
use crate::error::{Error, Result};
use crate::label::Labeller;

/// Which description comes first where several are entailed: models are trained to select the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelChoice {
    /// The one that the judge is surest of.
    #[default]
    BestConfidence,
    /// The one listed first, as PAL's published labels.
    LowestIndex,
}

/// When a description counts as one that the reply draws on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntailmentRule {
    /// Which one comes first.
    pub choice: LabelChoice,
    /// The least probability of entailment. Entailment must be the likeliest of the three classes besides; PAL's published
    /// labels come with a threshold of 0.99 and without one (0 here).
    pub threshold: f64,
}

impl Default for EntailmentRule {
    fn default() -> Self {
        Self { choice: LabelChoice::BestConfidence, threshold: 0.0 }
    }
}

/// Labels by a judge: a reply draws on the descriptions that entail it. Beside
/// [`OverlapLabeller`](crate::OverlapLabeller), which sees words alone.
///
/// It holds the probabilities that a judge gave beforehand, so that the judge may compute in batches and on one thread. A
/// reply without text draws on no description.
#[derive(Debug, Clone)]
pub struct EntailmentLabeller {
    /// By description and then reply: probabilities in the order of [`NliLabel::ALL`].
    judged: HashMap<String, HashMap<String, [f64; 3]>>,
    rule: EntailmentRule,
}

impl EntailmentLabeller {
    /// From each judged pair, description and reply, and its probabilities in the order of [`NliLabel::ALL`].
    ///
    /// # Errors
    /// [`Error::JudgeProbabilities`] for values that are no probabilities, NaN above all, and for a threshold that is none.
    pub fn new<'a>(
        judged: impl IntoIterator<Item = ((&'a str, &'a str), [f64; 3])>,
        rule: EntailmentRule,
    ) -> Result<Self> {
        let share = |value: &f64| (0.0..=1.0).contains(value);
        if !share(&rule.threshold) {
            let problem = format!("the threshold is {}; it lies in 0 to 1", rule.threshold);
            return Err(Error::JudgeProbabilities { problem });
        }
        let mut table: HashMap<String, HashMap<String, [f64; 3]>> = HashMap::new();
        for ((description, reply), probabilities) in judged {
            let sum: f64 = probabilities.iter().sum();
            if !probabilities.iter().all(share) || (sum - 1.0).abs() > 1e-3 {
                let problem = format!(
                    "the judge gave {probabilities:?} for the description {description:?} and the reply {reply:?}; they \
                     lie in 0 to 1 and sum to 1"
                );
                return Err(Error::JudgeProbabilities { problem });
            }
            table.entry(description.to_owned()).or_default().insert(reply.to_owned(), probabilities);
        }
        Ok(Self { judged: table, rule })
    }

    /// How the probabilities become labels.
    #[must_use]
    pub fn rule(&self) -> EntailmentRule {
        self.rule
    }
}

impl Labeller for EntailmentLabeller {
    fn label(&self, persona: &[String], response: &str) -> Result<Vec<usize>> {
        if response.trim().is_empty() {
            return Ok(Vec::new());
        }
        let mut passed = Vec::new();
        for (index, description) in persona.iter().enumerate() {
            let found = self.judged.get(description).and_then(|replies| replies.get(response));
            let probabilities = found.ok_or_else(|| Error::NotJudged {
                description: description.clone(),
                reply: response.to_owned(),
            })?;
            let entailment = probabilities[NliLabel::Entailment.index()];
            let likeliest = probabilities.iter().all(|&other| other <= entailment);
            if likeliest && entailment >= self.rule.threshold {
                passed.push((index, entailment));
            }
        }
        if self.rule.choice == LabelChoice::BestConfidence {
            // The sort is stable: of equals the one listed first stays first.
            passed.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(Ordering::Equal));
        }
        Ok(passed.into_iter().map(|(index, _)| index).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUDGED: [((&str, &str), [f64; 3]); 4] = [
        (("a", "x"), [0.1, 0.3, 0.6]),
        (("b", "x"), [0.02, 0.03, 0.95]),
        (("c", "x"), [0.4, 0.35, 0.25]),
        (("d", "x"), [0.3, 0.2, 0.5]),
    ];

    fn label(rule: EntailmentRule, reply: &str) -> Result<Vec<usize>> {
        let persona = ["a", "b", "c", "d"].map(String::from);
        EntailmentLabeller::new(JUDGED, rule).unwrap().label(&persona, reply)
    }

    #[test]
    fn order_and_threshold() {
        let rule = EntailmentRule::default();
        assert_eq!(label(rule, "x").unwrap(), [1, 0, 3]);
        let lowest = EntailmentRule { choice: LabelChoice::LowestIndex, ..rule };
        assert_eq!(label(lowest, "x").unwrap(), [0, 1, 3]);
        assert_eq!(label(EntailmentRule { threshold: 0.9, ..lowest }, "x").unwrap(), [1]);
        assert!(label(EntailmentRule { threshold: 0.99, ..rule }, "x").unwrap().is_empty());
        assert!(label(rule, "  ").unwrap().is_empty());
    }

    #[test]
    fn what_was_not_judged_and_what_is_no_probability_are_errors() {
        let message = label(EntailmentRule::default(), "y").unwrap_err().to_string();
        assert!(message.contains("\"a\"") && message.contains("\"y\""), "{message}");
        let one = |probabilities| {
            EntailmentLabeller::new([(("a", "x"), probabilities)], EntailmentRule::default()).unwrap_err()
        };
        for bad in [[f64::NAN, 0.0, 0.0], [0.5, 0.5, 0.5], [-0.1, 0.6, 0.5]] {
            assert!(one(bad).to_string().contains("\"x\""));
        }
        let rule = EntailmentRule { threshold: f64::NAN, ..EntailmentRule::default() };
        assert!(EntailmentLabeller::new(JUDGED, rule).is_err());
    }
}
