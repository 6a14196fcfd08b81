//! How well a judge agrees with labels: accuracy, F1, calibration, C.score.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use persona_data::NliLabel;
use persona_metrics::stats::{Draws, Resample, bootstrap};
use serde::{Deserialize, Serialize};

use crate::report::{Curve, Line};

/// One judged pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Its dialogue.
    pub dialogue: usize,
    /// Its reply, within the dialogue.
    pub reply: usize,
    /// The label.
    pub label: NliLabel,
    /// The judge's probabilities in the order of [`NliLabel::ALL`].
    pub probabilities: [f64; 3],
}

impl Judged {
    /// The likeliest class; of equals the first.
    fn found(&self) -> NliLabel {
        let mut best = NliLabel::Contradiction;
        for label in NliLabel::ALL {
            if self.probabilities[label.index()] > self.probabilities[best.index()] {
                best = label;
            }
        }
        best
    }
}

/// A measured value with its confidence interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What is measured.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// How sure the judge is of its class, against how often it is right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error (Guo et al. 2017): the mean over pairs of the difference between confidence and accuracy
    /// in the pair's bin.
    pub expected_error: f64,
    /// Bins of equal width over the confidence.
    pub bins: Vec<Bin>,
}

/// Pairs of like confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The bin's upper end; it begins above the one before.
    pub up_to: f64,
    /// How many pairs.
    pub pairs: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// The share that is right.
    pub accuracy: f64,
}

const BINS: usize = 15;

/// Everything that is measured on one set of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How many pairs.
    pub pairs: usize,
    /// How many replies.
    pub replies: usize,
    /// How many dialogues: what is drawn again for the intervals.
    pub dialogues: usize,
    /// Values with 95 % percentile intervals over dialogues.
    pub figures: Vec<Figure>,
    /// Rows are labels, columns what the judge found, both in the order of [`NliLabel::ALL`].
    pub confusion: [[u64; 3]; 3],
    /// How far confidence can be trusted.
    pub calibration: Calibration,
    /// How often dialogues were drawn again.
    pub draws: usize,
    /// The seed of the draws.
    pub seed: u64,
}

/// What one dialogue adds.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    confusion: [[u64; 3]; 3],
    replies: u64,
    /// Sums over replies of the sum over descriptions: the judge's and the labels'.
    sum: [f64; 2],
    /// Of the maximum over descriptions.
    max: [f64; 2],
}

/// The dialogues, to be drawn again.
struct Dialogues(Vec<Sums>);

impl Resample for Dialogues {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn scores_of(&self, indexes: &[u32]) -> persona_metrics::Result<Vec<f64>> {
        let mut all = Sums::default();
        for dialogue in indexes.iter().filter_map(|&at| self.0.get(at as usize)) {
            for (row, other) in all.confusion.iter_mut().zip(dialogue.confusion) {
                row.iter_mut().zip(other).for_each(|(cell, other)| *cell += other);
            }
            all.replies += dialogue.replies;
            for at in 0..2 {
                all.sum[at] += dialogue.sum[at];
                all.max[at] += dialogue.max[at];
            }
        }
        Ok(all.values())
    }
}

const NAMES: [&str; 14] = [
    "accuracy",
    "macro-F1",
    "F1 contradiction",
    "F1 neutral",
    "F1 entailment",
    "precision contradiction",
    "recall contradiction",
    "precision entailment",
    "recall entailment",
    "C.score sum, judge",
    "C.score sum, labels",
    "C.score sum, difference",
    "C.score max, judge",
    "C.score max, labels",
];

impl Sums {
    /// In the order of [`NAMES`]. A share of nothing is 0.
    fn values(&self) -> Vec<f64> {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let row = |class: usize| self.confusion[class].iter().sum::<u64>();
        let column = |class: usize| self.confusion.iter().map(|row| row[class]).sum::<u64>();
        let hit = |class: usize| self.confusion[class][class];
        let f1 = [0, 1, 2].map(|class| share(2 * hit(class), row(class) + column(class)));
        let all = row(0) + row(1) + row(2);
        let mean = |sum: f64| if self.replies == 0 { 0.0 } else { sum / self.replies as f64 };
        let precision = |class| share(hit(class), column(class));
        let recall = |class| share(hit(class), row(class));
        vec![
            share(hit(0) + hit(1) + hit(2), all),
            f1.iter().sum::<f64>() / 3.0,
            f1[0],
            f1[1],
            f1[2],
            precision(0),
            recall(0),
            precision(2),
            recall(2),
            mean(self.sum[0]),
            mean(self.sum[1]),
            mean(self.sum[0] - self.sum[1]),
            mean(self.max[0]),
            mean(self.max[1]),
        ]
    }
}

impl Figures {
    /// Measures judged pairs; every description of a reply's speaker has to be among them for C.score to be one.
    ///
    /// # Errors
    /// No pair, fewer than two draws.
    pub fn of(judged: &[Judged], draws: usize, seed: u64) -> Result<Self> {
        ensure!(!judged.is_empty(), "no pair to measure");
        let mut dialogues: BTreeMap<usize, BTreeMap<usize, Vec<&Judged>>> = BTreeMap::new();
        for pair in judged {
            dialogues.entry(pair.dialogue).or_default().entry(pair.reply).or_default().push(pair);
        }
        let sums: Vec<Sums> = dialogues.values().map(of_dialogue).collect();
        let replies = sums.iter().map(|sums| sums.replies as usize).sum();
        let mut confusion = [[0; 3]; 3];
        for pair in judged {
            confusion[pair.label.index()][pair.found().index()] += 1;
        }
        let intervals = bootstrap(&Dialogues(sums), &Draws::seeded(draws, seed), 0.95)?;
        let figures = NAMES.iter().zip(intervals).map(|(name, interval)| Figure {
            name: (*name).to_owned(),
            value: interval.value,
            low: interval.low,
            high: interval.high,
        });
        Ok(Self {
            pairs: judged.len(),
            replies,
            dialogues: dialogues.len(),
            figures: figures.collect(),
            confusion,
            calibration: Calibration::of(judged),
            draws,
            seed,
        })
    }

    /// A value by its name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

fn of_dialogue(replies: &BTreeMap<usize, Vec<&Judged>>) -> Sums {
    let worth = |label: NliLabel| label.index() as f64 - 1.0;
    let mut sums = Sums { replies: replies.len() as u64, ..Sums::default() };
    for pairs in replies.values() {
        let mut max = [f64::NEG_INFINITY; 2];
        for pair in pairs {
            sums.confusion[pair.label.index()][pair.found().index()] += 1;
            for (at, label) in [pair.found(), pair.label].into_iter().enumerate() {
                sums.sum[at] += worth(label);
                max[at] = max[at].max(worth(label));
            }
        }
        sums.max[0] += max[0];
        sums.max[1] += max[1];
    }
    sums
}

impl Calibration {
    fn of(judged: &[Judged]) -> Self {
        let mut bins = vec![(0_usize, 0.0, 0_usize); BINS];
        for pair in judged {
            let found = pair.found();
            let confidence = pair.probabilities[found.index()];
            let at = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
            bins[at].0 += 1;
            bins[at].1 += confidence;
            bins[at].2 += usize::from(found == pair.label);
        }
        let bins: Vec<Bin> = bins
            .into_iter()
            .enumerate()
            .filter(|(_, (pairs, ..))| *pairs > 0)
            .map(|(at, (pairs, confidence, right))| Bin {
                up_to: (at + 1) as f64 / BINS as f64,
                pairs,
                confidence: confidence / pairs as f64,
                accuracy: right as f64 / pairs as f64,
            })
            .collect();
        let off = |bin: &Bin| bin.pairs as f64 * (bin.confidence - bin.accuracy).abs();
        Self { expected_error: bins.iter().map(off).sum::<f64>() / judged.len() as f64, bins }
    }

    /// Accuracy over confidence, as a picture.
    ///
    /// # Errors
    /// The drawing's.
    pub fn svg(&self, title: &str) -> Result<Option<String>> {
        let points = self.bins.iter().map(|bin| (bin.confidence, bin.accuracy)).collect();
        let curve = Curve {
            title: title.to_owned(),
            x: "confidence".to_owned(),
            y: "share that is right".to_owned(),
            lines: vec![
                Line { name: "judge".to_owned(), points },
                Line { name: "calibrated".to_owned(), points: vec![(1.0 / 3.0, 1.0 / 3.0), (1.0, 1.0)] },
            ],
            levels: Vec::new(),
        };
        curve.svg()
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} pairs, {} replies, {} dialogues", self.pairs, self.replies, self.dialogues)?;
        for Figure { name, value, low, high } in &self.figures {
            writeln!(f, "{name:<24} {value:>7.4}   {low:.4} to {high:.4}")?;
        }
        let Calibration { expected_error, bins } = &self.calibration;
        writeln!(f, "{:<24} {expected_error:>7.4}   {} bins", "calibration error", bins.len())?;
        writeln!(f, "label \\ judge   {:>14}{:>9}{:>12}", "contradiction", "neutral", "entailment")?;
        for (label, [a, b, c]) in NliLabel::ALL.iter().zip(self.confusion) {
            writeln!(f, "{label:<16}{a:>14}{b:>9}{c:>12}")?;
        }
        let Self { draws, seed, .. } = self;
        writeln!(f, "intervals: 95 %, percentile bootstrap over dialogues, {draws} draws, seed {seed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(dialogue: usize, reply: usize, label: NliLabel, found: NliLabel, confidence: f64) -> Judged {
        let mut probabilities = [(1.0 - confidence) / 2.0; 3];
        probabilities[found.index()] = confidence;
        Judged { dialogue, reply, label, probabilities }
    }

    #[test]
    fn figures_are_those_counted_by_hand() {
        use NliLabel::{Contradiction, Entailment, Neutral};
        let pairs = [
            judged(0, 0, Entailment, Entailment, 0.9),
            judged(0, 0, Neutral, Entailment, 0.6),
            judged(0, 1, Neutral, Neutral, 0.8),
            judged(1, 0, Contradiction, Neutral, 0.7),
            judged(1, 0, Neutral, Neutral, 0.8),
        ];
        let figures = Figures::of(&pairs, 100, 1).unwrap();
        let value = |name| figures.value(name).unwrap();
        assert_eq!((figures.pairs, figures.replies, figures.dialogues), (5, 3, 2));
        assert_eq!(figures.confusion, [[0, 1, 0], [0, 2, 1], [0, 0, 1]]);
        assert_eq!(value("accuracy"), 0.6);
        assert_eq!((value("F1 contradiction"), value("F1 neutral")), (0.0, 4.0 / 6.0));
        assert_eq!((value("F1 entailment"), value("precision entailment")), (2.0 / 3.0, 0.5));
        // The judge: 2, 0, 0. The labels: 1, 0, -1.
        assert_eq!((value("C.score sum, judge"), value("C.score sum, labels")), (2.0 / 3.0, 0.0));
        assert_eq!((value("C.score max, judge"), value("C.score max, labels")), (1.0 / 3.0, 1.0 / 3.0));
        // Bins: 0.9 right, 0.6 wrong, 0.7 wrong, and 0.8 twice, right.
        approx_eq(figures.calibration.expected_error, (0.1 + 0.6 + 0.7 + 0.4) / 5.0);
        assert!(figures.calibration.svg("t").unwrap().unwrap().contains("<svg"));
        assert!(figures.figures.iter().all(|figure| figure.low <= figure.high));
        assert!(figures.to_string().contains("F1 entailment"));
        assert!(Figures::of(&[], 100, 1).is_err());
    }

    fn approx_eq(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}
