//! C.score of a system beside what it has to be read with: the gold replies' and the copy rates.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::consistency::{Consistency, Judgement, PersonaJudge};
use crate::copying::CopyRate;
use crate::error::{Error, Result, same_length};
use crate::once::Once;
use crate::score::{Score, Scores};
use crate::tokens::Texts;

/// C.score in both forms and the copy rate, of a system's replies and of the gold replies to the same examples.
///
/// A system can have a high C.score by inserting its persona into every reply. One that is far above the gold replies,
/// or has a high copy rate, does.
///
/// Displayed as a table of both rows, with the signatures below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsistencyReport {
    /// The system's replies.
    pub system: ConsistencyRow,
    /// What the speakers really said.
    pub gold: ConsistencyRow,
}

/// The scores of one list of replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsistencyRow {
    /// [`Consistency::sum`].
    pub sum: Score,
    /// [`Consistency::max`].
    pub max: Score,
    /// [`CopyRate`].
    pub copy_rate: Score,
}

impl ConsistencyReport {
    /// Judges both lists of replies, each distinct pair once. `personas` holds the descriptions of each example's speaker.
    ///
    /// # Errors
    /// As [`Consistency::corpus`], for an empty persona too.
    pub fn of<J, H, G, P>(judge: &J, replies: &[H], gold: &[G], personas: &[P]) -> Result<Self>
    where
        J: PersonaJudge + ?Sized,
        H: AsRef<str>,
        G: AsRef<str>,
        P: Texts + Sync,
    {
        same_length("replies", replies.len(), "personas", personas.len())?;
        same_length("gold replies", gold.len(), "personas", personas.len())?;
        let replies: Vec<&str> = replies.iter().map(AsRef::as_ref).collect();
        let gold: Vec<&str> = gold.iter().map(AsRef::as_ref).collect();
        let all: Vec<&str> = replies.iter().chain(&gold).copied().collect();
        let (judge, judgements) =
            judgements(judge, &all, &personas.iter().chain(personas).collect::<Vec<_>>())?;
        let row = |replies: &[&str], judgements: &[Vec<Judgement>]| -> Result<ConsistencyRow> {
            let score = |form: Consistency| only(form.of_judgements(&judge, judgements)?);
            Ok(ConsistencyRow {
                sum: score(Consistency::sum())?,
                max: score(Consistency::max())?,
                copy_rate: only(CopyRate::default().corpus(replies, personas)?)?,
            })
        };
        let (of_system, of_gold) = judgements.split_at(replies.len().min(judgements.len()));
        Ok(Self { system: row(&replies, of_system)?, gold: row(&gold, of_gold)? })
    }
}

/// The one score of a metric that has one.
fn only(scores: Scores) -> Result<Score> {
    scores.into_iter().next().ok_or(Error::EmptyCorpus { metric: "C.score" })
}

impl fmt::Display for ConsistencyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<8}{:>15}{:>15}{:>11}", "replies", "C.score (sum)", "C.score (max)", "copy rate")?;
        for (name, row) in [("system", &self.system), ("gold", &self.gold)] {
            let [sum, max, copies] = [&row.sum, &row.max, &row.copy_rate].map(Score::displayed_value);
            writeln!(f, "{name:<8}{sum:>15.3}{max:>15.3}{copies:>11.2}")?;
        }
        let ConsistencyRow { sum, max, copy_rate } = &self.system;
        writeln!(f, "C.score (sum) | {}", sum.signature())?;
        writeln!(f, "C.score (max) | {}", max.signature())?;
        write!(f, "{} | {}", copy_rate.name(), copy_rate.signature())
    }
}

/// Pairs that one call of a judge gets: enough for a classifier to fill its batches and sort them by length.
const BATCH: usize = 1024;

/// The judge's name, and for each reply its judgements of the descriptions of its speaker. Each distinct pair is judged
/// once.
pub(crate) fn judgements<J, P>(
    judge: &J,
    replies: &[&str],
    personas: &[P],
) -> Result<(String, Vec<Vec<Judgement>>)>
where
    J: PersonaJudge + ?Sized,
    P: Texts,
{
    same_length("replies", replies.len(), "personas", personas.len())?;
    let of_reply = |(&reply, persona)| pairs_of(reply, persona);
    let pairs = || replies.iter().zip(personas).flat_map(of_reply);
    let mut once = Once::of(pairs());
    let name = judge.name();
    once.answer(pairs(), BATCH, |batch| {
        let answers = judge.judge(batch).map_err(|source| Error::Judge {
            judge: name.clone(),
            first_pair: pairs().position(|pair| Some(&pair) == batch.first()).unwrap_or(0),
            source,
        })?;
        if answers.len() != batch.len() {
            let (asked, answered) = (batch.len(), answers.len());
            return Err(Error::JudgeCount { judge: name.clone(), asked, answered });
        }
        Ok(answers)
    })?;
    // One answer a pair was checked above.
    let of_reply =
        |(&reply, persona)| pairs_of(reply, persona).filter_map(|pair| once.get(pair).copied()).collect();
    let judgements = replies.iter().zip(personas).map(of_reply).collect();
    Ok((name, judgements))
}

/// The pairs of a reply and its speaker's descriptions.
fn pairs_of<'t, P: Texts>(reply: &'t str, persona: &'t P) -> impl Iterator<Item = (&'t str, &'t str)> {
    persona.texts().map(move |description| (description, reply))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::ModelError;

    /// Entailment where the reply is the description, contradiction where the reply is "no".
    #[derive(Default)]
    struct Literal {
        pairs: Cell<usize>,
    }

    impl PersonaJudge for Literal {
        fn name(&self) -> String {
            "literal".to_owned()
        }

        fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, ModelError> {
            self.pairs.set(self.pairs.get() + pairs.len());
            let one = |&(description, reply): &(&str, &str)| match reply {
                "no" => Judgement::Contradiction,
                reply if reply == description => Judgement::Entailment,
                _ => Judgement::Neutral,
            };
            Ok(pairs.iter().map(one).collect())
        }
    }

    #[test]
    fn both_rows_of_each_pair_judged_once() {
        let personas = [["i ski", "i sing"], ["i ski", "i sing"], ["i ski", "i knit"]];
        let judge = Literal::default();
        let (system, gold) = (["i ski", "i ski", "i ski"], ["hello", "i ski", "no"]);
        let report = ConsistencyReport::of(&judge, &system, &gold, &personas).unwrap();
        // (i ski, i sing, i knit) beside "i ski", two beside "hello", two beside "no".
        assert_eq!(judge.pairs.get(), 7);
        let values = |row: &ConsistencyRow| [row.sum.value(), row.max.value(), row.copy_rate.value()];
        assert_eq!(values(&report.system), [1.0, 1.0, 1.0]);
        assert_eq!(values(&report.gold), [-1.0 / 3.0, 0.0, 1.0 / 3.0]);
        let text = report.to_string();
        assert!(text.contains("system            1.000          1.000     100.00\n"), "{text}");
        assert!(text.contains("gold             -0.333          0.000      33.33\n"), "{text}");
        assert!(text.contains("C.score (max) | variant:max|judge:literal|"), "{text}");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ConsistencyReport>(&json).unwrap(), report);
    }

    #[test]
    fn bad_input_is_an_error() {
        let judge = Literal::default();
        let none: [&str; 0] = [];
        assert!(ConsistencyReport::of(&judge, &["a"], &none, &["a"]).is_err());
        assert!(ConsistencyReport::of(&judge, &none, &none, &none).is_err());
        let empty: [[&str; 0]; 1] = [[]];
        assert!(ConsistencyReport::of(&judge, &["a"], &["b"], &empty).is_err());
    }
}
