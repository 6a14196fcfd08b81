//! Could the difference of two systems be chance? Paired tests over the test examples, and over the seeds.

use anyhow::{Context, Result};
use persona_data::Example;
use persona_metrics::stats::{Resample, Swaps, TTest, approximate_randomisation, holm};
use persona_metrics::{Consistency, PairMetric, PersonaJudge};
use serde::{Deserialize, Serialize};

use super::measure::Replied;
use crate::systems::{TextMetrics, gold};

/// One column of one system against another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The column.
    pub column: String,
    /// The system.
    pub system: String,
    /// What it is compared with.
    pub against: String,
    /// Two-sided paired approximate randomisation of the mean over the seeds: an example's replies of all seeds are
    /// swapped together.
    pub p_value: f64,
    /// The same after Holm's correction over the comparisons reported together.
    pub p_holm: f64,
    /// Welch's t-test of the seeds' values: the paper's independent-samples t-test without its equal variances; absent
    /// where it has no value.
    pub p_seeds: Option<f64>,
    /// Seeds whose difference has the sign of the mean one.
    pub agreeing: usize,
    /// All seeds.
    pub seeds: usize,
}

impl Compared {
    /// Whether the difference counts: less likely by chance than 0.05 after the correction, and of one sign in every
    /// seed. The test over examples takes the trained models as they are; the seeds tell how trainings differ.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.p_holm < LEVEL && self.agreeing == self.seeds
    }
}

/// The level below which a difference counts.
pub(super) const LEVEL: f64 = 0.05;

/// The columns of an experiment's tables.
pub(super) const COLUMNS: [&str; 14] = [
    "BLEU-1",
    "BLEU-2",
    "ROUGE-L",
    "Entropy-1",
    "Entropy-2",
    "Entropy-3",
    "Entropy-4",
    "Distinct-1",
    "Distinct-2",
    "Copy rate",
    "Selection",
    "Perplexity",
    "C.score sum",
    "C.score max",
];

/// Which end of a column is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The most.
    Higher,
    /// The least.
    Lower,
}

/// Which end of a column is the better one; nothing for the copy rate, which is to be read beside gold's.
#[must_use]
pub fn better(column: &str) -> Option<Better> {
    match column {
        "Perplexity" => Some(Better::Lower),
        "Copy rate" => None,
        _ => Some(Better::Higher),
    }
}

/// Tests a system against another in every column that both have. Holm's correction is left to the caller.
///
/// # Errors
/// The metrics' and the tests'.
pub(super) fn compare(
    (system, other): (&Replied, &Replied),
    examples: &[Example],
    judge: &dyn PersonaJudge,
    trials: usize,
) -> Result<Vec<Compared>> {
    let seeds = system.seeds.len();
    let mut compared = Vec::new();
    for (names, joint) in columns((Side::of(system), Side::of(other)), seeds, examples, judge)? {
        let together = Together { examples: joint.as_ref(), seeds, count: examples.len() };
        let tests = approximate_randomisation(&together, &Swaps::seeded(trials, 1)).with_context(|| {
            format!("testing {} of {} against {}", names.join(", "), system.name, other.name)
        })?;
        let [first, second] = together.by_seed()?;
        for (at, (column, test)) in names.into_iter().zip(tests).enumerate() {
            let of = |side: &[Vec<f64>]| -> Vec<f64> {
                side.iter().filter_map(|values| values.get(at).copied()).collect()
            };
            // With one seed, and where no seed differs, there is no t.
            let (first, second) = (of(&first), of(&second));
            let sign = (test.value_a - test.value_b).signum();
            let both = first.iter().zip(&second);
            let agreeing = both.filter(|(a, b)| a != b && (*a - *b).signum() == sign).count();
            let p_seeds = TTest::default().welch(&first, &second).ok();
            compared.push(Compared {
                column,
                system: system.name.clone(),
                against: other.name.clone(),
                p_value: test.p_value,
                p_holm: test.p_value,
                p_seeds: p_seeds.map(|test| test.p_value),
                agreeing,
                seeds,
            });
        }
    }
    Ok(compared)
}

/// Columns that are computed together, and the examples of both systems that they are computed from.
type Columns = Vec<(Vec<String>, Box<dyn Resample>)>;

/// The columns of two systems' replies.
fn columns(
    (one, two): (Side, Side),
    seeds: usize,
    examples: &[Example],
    judge: &dyn PersonaJudge,
) -> Result<Columns> {
    let gold = gold(examples);
    let TextMetrics { bleu, rouge, entropy, distinct, copies } = TextMetrics::of(&gold);
    let references = repeated(&gold, seeds);
    let personas: Vec<&[String]> = examples.iter().map(|example| example.persona.as_slice()).collect();
    let personas = repeated(&personas, seeds);
    let labels: Vec<&[usize]> =
        examples.iter().map(|example| example.relevant.as_deref().unwrap_or(&[])).collect();
    let labels = repeated(&labels, seeds);

    let mut columns: Columns = Vec::new();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
    let joint = bleu.examples(&one.texts, &references)?.joined(bleu.examples(&two.texts, &references)?)?;
    columns.push((names(&["BLEU-1", "BLEU-2"]), Box::new(joint)));
    let joint = rouge.examples(&one.texts, &references)?.joined(rouge.examples(&two.texts, &references)?)?;
    columns.push((names(&["ROUGE-L"]), Box::new(joint)));
    let joint = entropy.paired_examples(&one.texts, &two.texts)?;
    columns.push((names(&["Entropy-1", "Entropy-2", "Entropy-3", "Entropy-4"]), Box::new(joint)));
    let joint = distinct.paired_examples(&one.texts, &two.texts)?;
    columns.push((names(&["Distinct-1", "Distinct-2"]), Box::new(joint)));
    let joint = copies.examples(&one.texts, &personas)?.joined(copies.examples(&two.texts, &personas)?)?;
    columns.push((names(&["Copy rate"]), Box::new(joint)));
    // Examples without a persona are no part of C.score's mean, and a test needs the same examples in every column.
    if personas.iter().all(|persona| !persona.is_empty()) {
        for (name, form) in [("C.score sum", Consistency::sum()), ("C.score max", Consistency::max())] {
            let joint = form.examples(judge, &one.texts, &personas)?;
            let joint = joint.joined(form.examples(judge, &two.texts, &personas)?)?;
            columns.push((names(&[name]), Box::new(joint)));
        }
    }
    if let (Some(right), Some(other_right)) = (one.right(&labels), two.right(&labels)) {
        let ones = vec![1.0; right.len() + other_right.len()];
        let ratio = Ratio { above: [right, other_right].concat(), below: ones, exp: false };
        columns.push((names(&["Selection"]), Box::new(ratio)));
    }
    let ratio = Ratio {
        above: [one.losses, two.losses].concat(),
        below: [one.tokens, two.tokens].concat(),
        exp: true,
    };
    columns.push((names(&["Perplexity"]), Box::new(ratio)));
    Ok(columns)
}

/// Corrects the p-values of comparisons that are reported together, column by column.
///
/// # Errors
/// Never of p-values.
pub(super) fn correct(compared: &mut [Compared]) -> Result<()> {
    let mut columns: Vec<String> = compared.iter().map(|one| one.column.clone()).collect();
    columns.sort_unstable();
    columns.dedup();
    for column in columns {
        let of_column = |one: &&mut Compared| one.column == column;
        let p_values: Vec<f64> = compared.iter_mut().filter(of_column).map(|one| one.p_value).collect();
        for (one, p_holm) in compared.iter_mut().filter(of_column).zip(holm(&p_values)?) {
            one.p_holm = p_holm;
        }
    }
    Ok(())
}

/// A list as often as there are seeds.
fn repeated<T: Clone>(list: &[T], seeds: usize) -> Vec<T> {
    (0..seeds).flat_map(|_| list.iter().cloned()).collect()
}

/// A system's replies, one seed after the other.
struct Side {
    texts: Vec<String>,
    choices: Vec<Option<Option<usize>>>,
    losses: Vec<f64>,
    tokens: Vec<f64>,
}

impl Side {
    fn of(system: &Replied) -> Self {
        let all = || system.seeds.iter().flat_map(|seed| &seed.replies);
        Self {
            texts: all().map(|reply| reply.text.clone()).collect(),
            choices: all().map(|reply| reply.highlighted.selection()).collect(),
            losses: all().map(|reply| -reply.gold_log_prob).collect(),
            tokens: all().map(|reply| reply.gold_tokens as f64).collect(),
        }
    }

    /// 1 for each right selection and 0 for each wrong one; nothing of a system that does not select.
    fn right(&self, labels: &[&[usize]]) -> Option<Vec<f64>> {
        let right = |(choice, labels): (&Option<Option<usize>>, &&[usize])| {
            choice.map(|choice| match choice {
                Some(index) => f64::from(labels.contains(&index)),
                None => f64::from(labels.is_empty()),
            })
        };
        self.choices.iter().zip(labels).map(right).collect()
    }
}

/// A score that is a sum over examples by another, or e to the power of that.
struct Ratio {
    above: Vec<f64>,
    below: Vec<f64>,
    exp: bool,
}

impl Resample for Ratio {
    fn len(&self) -> usize {
        self.above.len()
    }

    fn scores_of(&self, indexes: &[u32]) -> persona_metrics::Result<Vec<f64>> {
        let mut sums = (0.0, 0.0);
        for &index in indexes {
            let index = index as usize;
            let (Some(above), Some(below)) = (self.above.get(index), self.below.get(index)) else {
                return Err(persona_metrics::Error::IndexOutOfRange { index, len: self.above.len() });
            };
            sums = (sums.0 + above, sums.1 + below);
        }
        let ratio = sums.0 / sums.1;
        Ok(vec![if self.exp { ratio.exp() } else { ratio }])
    }
}

/// The examples of two systems, in each of which the replies of all seeds are one. A score is the mean over the seeds.
struct Together<'a> {
    /// The first system's seed after seed, then the second's.
    examples: &'a dyn Resample,
    seeds: usize,
    /// Of one seed.
    count: usize,
}

impl Together<'_> {
    /// The scores of each seed, of the first system and of the second.
    fn by_seed(&self) -> Result<[Vec<Vec<f64>>; 2]> {
        let all = |system: usize| -> Vec<u32> {
            (0..self.count).map(|example| place(system * self.count + example)).collect()
        };
        let score = |system| -> Result<Vec<Vec<f64>>> {
            let seeds = (0..self.seeds).map(|seed| Ok(self.of_seed(&all(system), seed)?));
            seeds.collect()
        };
        Ok([score(0)?, score(1)?])
    }

    /// The scores of examples of both systems by their replies of a seed.
    fn of_seed(&self, indexes: &[u32], seed: usize) -> persona_metrics::Result<Vec<f64>> {
        let count = self.count.max(1);
        let at = |&index: &u32| {
            let (system, example) = (index as usize / count, index as usize % count);
            place((system * self.seeds + seed) * count + example)
        };
        self.examples.scores_of(&indexes.iter().map(at).collect::<Vec<u32>>())
    }
}

/// An index as the tests have it; one that is too large is out of range there.
fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Resample for Together<'_> {
    fn len(&self) -> usize {
        2 * self.count
    }

    fn scores_of(&self, indexes: &[u32]) -> persona_metrics::Result<Vec<f64>> {
        let mut means: Vec<f64> = Vec::new();
        for seed in 0..self.seeds {
            let scores = self.of_seed(indexes, seed)?;
            means.resize(scores.len(), 0.0);
            for (mean, score) in means.iter_mut().zip(scores) {
                *mean += score / self.seeds as f64;
            }
        }
        Ok(means)
    }
}

#[cfg(test)]
mod tests {
    use persona_metrics::Judgement;

    use super::*;
    use crate::experiment::make::Judgements;
    use crate::experiment::measure::{Remembered, table};
    use crate::report::Cell;
    use crate::systems::{Highlighted, SystemReplies, SystemReply};

    #[test]
    fn all_replies_to_an_example_are_swapped_together() {
        let values: Vec<f64> = (0..12).map(f64::from).collect();
        let together = Together {
            examples: &Ratio { above: values, below: vec![1.0; 12], exp: false },
            seeds: 2,
            count: 3,
        };
        assert_eq!(together.len(), 6);
        // Example 1 of the first system: values 1 and 4; example 2 of the second: 8 and 11.
        assert_eq!(together.scores_of(&[1]).unwrap(), [2.5]);
        assert_eq!(together.scores_of(&[5]).unwrap(), [9.5]);
        assert_eq!(together.by_seed().unwrap(), [[[1.0], [4.0]], [[7.0], [10.0]]]);
        assert!(together.scores_of(&[6]).is_err());
    }

    #[test]
    fn a_correction_is_by_column() {
        let one = |column: &str, p_value| Compared {
            column: column.into(),
            system: "a".into(),
            against: "b".into(),
            p_value,
            p_holm: p_value,
            p_seeds: None,
            agreeing: 1,
            seeds: 1,
        };
        let mut all = [one("x", 0.01), one("y", 0.03), one("x", 0.04)];
        correct(&mut all).unwrap();
        let corrected: Vec<f64> = all.iter().map(|one| one.p_holm).collect();
        assert_eq!(corrected, [0.02, 0.03, 0.04]);
    }

    #[test]
    fn the_score_is_the_mean_over_seeds_as_in_the_table() {
        // Two seeds of two examples, then the other system's: exp(3) and exp(1), not exp of the mean.
        let ratio =
            Ratio { above: vec![3.0, 3.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], below: vec![1.0; 8], exp: true };
        let together = Together { examples: &ratio, seeds: 2, count: 2 };
        let score = together.scores_of(&[0, 1]).unwrap()[0];
        assert!((score - (3.0f64.exp() + 1.0f64.exp()) / 2.0).abs() < 1e-12);
        assert!((together.scores_of(&[2, 3]).unwrap()[0] - 2.0f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn a_system_that_says_nothing_is_measured_and_compared() {
        let example = |at: usize| Example {
            id: format!("a#{at}"),
            persona: vec!["i ski.".into()],
            history: Vec::new(),
            response: "i like snow".into(),
            relevant: Some(vec![0]),
            candidates: Vec::new(),
        };
        let examples: Vec<Example> = (0..3).map(example).collect();
        let system = |name: &str, text: &str| {
            let reply = |example: &Example| SystemReply {
                id: example.id.clone(),
                text: text.to_owned(),
                highlighted: Highlighted::None,
                gold_log_prob: -3.0,
                gold_tokens: 2,
            };
            let seed = SystemReplies { system: name.into(), replies: examples.iter().map(reply).collect() };
            Replied { name: name.into(), seeds: vec![seed.clone(), seed] }
        };
        let (silent, talking) = (system("silent", ""), system("talking", "i like to ski"));
        let mut judge = Remembered::default();
        for text in ["", "i like to ski", "i like snow"] {
            let replies = vec![(text.to_owned(), vec![Judgement::Neutral]); 3];
            judge.add(&examples, Judgements { judge: "j".into(), replies });
        }
        let table = table(&[silent.clone(), talking.clone()], &examples, &judge).unwrap();
        assert_eq!(table.rows[0].cells[0], Cell::Spread { mean: 0.0, deviation: 0.0 });
        let tests = compare((&silent, &talking), &examples, &judge, 19).unwrap();
        let sorted = |mut names: Vec<String>| {
            names.sort_unstable();
            names
        };
        let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
        assert_eq!(columns, COLUMNS);
        assert_eq!(sorted(tests.iter().map(|test| test.column.clone()).collect()), sorted(columns));
        let bleu = tests.iter().find(|test| test.column == "BLEU-1").unwrap();
        assert!(bleu.p_value < 0.5 && (bleu.agreeing, bleu.seeds) == (2, 2), "{bleu:?}");
        let perplexity = tests.iter().find(|test| test.column == "Perplexity").unwrap();
        assert_eq!((perplexity.p_value, perplexity.agreeing, perplexity.p_seeds), (1.0, 0, None));
    }

    #[test]
    fn perplexity_is_over_all_tokens() {
        let ratio = Ratio { above: vec![2.0, 4.0], below: vec![1.0, 2.0], exp: true };
        assert!((ratio.scores_of(&[0, 1]).unwrap()[0] - 2.0f64.exp()).abs() < 1e-12);
    }
}
