//! A judge that finds each class as often as labels have it: what `judge match-shares` does.
//!
//! A classifier that is unsure of a rare class hardly ever names it, however often it is right: its C.score is then off by
//! the classes' shares. Shifts of the logits, fitted on pairs that neither training nor measuring uses, put that right
//! (as in Saerens, Latinne and Decaestecker 2002, with shares that are known).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use persona_data::{EncoderTokenizer, NliLabel};
use persona_model::{Classifier, Model, load_classifier};
use tch::{Device, Kind};

use super::data::{ScorePart, ScoredPairs};
use super::score::Judge;

/// What was fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Pairs that it was fitted on.
    pub pairs: usize,
    /// How many of each class, in the order of [`NliLabel::ALL`]: by the labels, by the judge before, and after.
    pub counts: [[usize; 3]; 3],
    /// What is added to the classes' logits; that of neutral stays.
    pub shift: [f64; 3],
}

/// Fits the shifts of a judge on a part of published judgements, and writes the judge with them to another folder.
///
/// # Errors
/// The judge's and the table's; a part without neutral pairs; when the folder holds a model, or cannot be written.
pub fn match_shares(
    judge: &Path,
    scores: &Path,
    part: ScorePart,
    device: Device,
    out: &Path,
) -> Result<Shares> {
    ensure!(
        !out.join("config.json").exists(),
        "{}: a model lies there, which would be written over; name another folder, or remove it",
        out.display()
    );
    let pairs = ScoredPairs::open(scores, part)?;
    let texts: Vec<(&str, &str)> =
        pairs.scores().iter().map(|score| (score.description.as_str(), score.reply.as_str())).collect();
    let labels: Vec<NliLabel> = pairs.scores().iter().map(|score| score.label).collect();
    let (probabilities, _) = Judge::load(judge, device)?.probabilities(&texts)?;
    let shares = Shares::fit(&probabilities, &labels)?;
    let (mut model, _) = load_classifier(judge, Device::Cpu, Kind::Float)?;
    let shift = NliLabel::order_of(model.labels())?.map(|class| shares.shift[class.index()]);
    model.shift_logits(&shift)?;
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    model.save(out)?;
    EncoderTokenizer::from_folder(judge)?.save(out)?;
    Ok(shares)
}

impl Shares {
    /// From probabilities and labels of the same pairs. Entailment and contradiction are fitted in turn until nothing
    /// changes, each to the midpoint between the last pair that is found and the first that is not.
    ///
    /// # Errors
    /// No pair is neutral, or their numbers differ.
    pub fn fit(probabilities: &[[f64; 3]], labels: &[NliLabel]) -> Result<Self> {
        const ROUNDS: usize = 50;
        let (pairs, count) = (probabilities.len(), labels.len());
        ensure!(pairs == count, "{pairs} pairs with probabilities, and {count} labels");
        let mut wanted = [0; 3];
        labels.iter().for_each(|label| wanted[label.index()] += 1);
        ensure!(wanted[NliLabel::Neutral.index()] > 0, "no pair is neutral: shares cannot be fitted");
        let logits: Vec<[f64; 3]> = probabilities.iter().map(|row| row.map(|p| p.max(1e-30).ln())).collect();
        let mut shift = [0.0; 3];
        for _ in 0..ROUNDS {
            let before = shift;
            for class in [NliLabel::Entailment, NliLabel::Contradiction].map(NliLabel::index) {
                let mut margins: Vec<f64> = logits.iter().map(|row| margin(row, &shift, class)).collect();
                margins.sort_unstable_by(f64::total_cmp);
                shift[class] = between(&margins, wanted[class]);
            }
            if shift == before {
                break;
            }
        }
        Ok(Self { pairs, counts: [wanted, found(&logits, &[0.0; 3]), found(&logits, &shift)], shift })
    }
}

/// What the logit of a class has to be raised by, from what it is unshifted, to be the highest.
fn margin(row: &[f64; 3], shift: &[f64; 3], class: usize) -> f64 {
    let others = (0..3).filter(|&other| other != class).map(|other| row[other] + shift[other]);
    others.fold(f64::NEG_INFINITY, f64::max) - row[class]
}

/// A number above the first `count` of sorted ones, and below the rest.
fn between(sorted: &[f64], count: usize) -> f64 {
    match (count.checked_sub(1).and_then(|last| sorted.get(last)), sorted.get(count)) {
        (Some(last), Some(first)) => last.midpoint(*first),
        (None, Some(first)) => first - 1.0,
        (Some(last), None) => last + 1.0,
        (None, None) => 0.0,
    }
}

fn found(logits: &[[f64; 3]], shift: &[f64; 3]) -> [usize; 3] {
    let mut counts = [0; 3];
    for row in logits {
        let best =
            (1..3).fold(0, |best, at| if row[at] + shift[at] > row[best] + shift[best] { at } else { best });
        counts[best] += 1;
    }
    counts
}

impl std::fmt::Display for Shares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pairs, counts, shift } = self;
        writeln!(f, "{pairs} pairs{:>22}{:>9}{:>12}", "contradiction", "neutral", "entailment")?;
        for (name, [a, b, c]) in ["labels", "judge before", "judge after"].iter().zip(counts) {
            writeln!(f, "{name:<16}{a:>14}{b:>9}{c:>12}")?;
        }
        let [a, b, c] = shift;
        writeln!(f, "{:<16}{a:>14.3}{b:>9.3}{c:>12.3}", "shift of logits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_as_often_as_labels_have_it() {
        use NliLabel::{Contradiction, Entailment, Neutral};
        // A judge that knows the order of the classes' odds, and names neutral almost always.
        let row = |contradiction: f64, entailment: f64| {
            [contradiction, 1.0 - contradiction - entailment, entailment]
        };
        let probabilities =
            [row(0.3, 0.01), row(0.2, 0.02), row(0.01, 0.4), row(0.01, 0.3), row(0.02, 0.6), row(0.1, 0.1)];
        let labels = [Contradiction, Neutral, Entailment, Neutral, Entailment, Neutral];
        let shares = Shares::fit(&probabilities, &labels).unwrap();
        assert_eq!(shares.counts, [[1, 3, 2], [0, 5, 1], [1, 3, 2]]);
        assert!(shares.shift[0] > 0.0 && shares.shift[1] == 0.0 && shares.shift[2] > 0.0);
        assert!(shares.to_string().contains("shift of logits"));
    }

    #[test]
    fn a_class_that_no_label_has_is_never_found() {
        let probabilities = [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]];
        let shares = Shares::fit(&probabilities, &[NliLabel::Neutral, NliLabel::Entailment]).unwrap();
        assert_eq!(shares.counts[2], [0, 1, 1]);
        assert!(Shares::fit(&probabilities, &[NliLabel::Entailment; 2]).is_err());
        assert!(Shares::fit(&probabilities, &[NliLabel::Neutral]).is_err());
    }
}
