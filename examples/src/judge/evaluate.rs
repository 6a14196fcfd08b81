//! A judge on published judgements: what `judge evaluate` does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use persona_data::{Dialogue, OverlapLabeller, PairReport, Speaker, Turn};
use serde::{Deserialize, Serialize};
use tch::Device;

use super::data::{ScorePart, ScoredPairs};
use super::measure::{Figures, Judged};
use super::score::Judge;

/// What was measured on one part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The judge's folder.
    pub judge: PathBuf,
    /// The table of judgements.
    pub scores: PathBuf,
    /// The part.
    pub part: ScorePart,
    /// The distinct pairs in tokens.
    pub encoding: PairReport,
    /// Seconds that judging took.
    pub seconds: f64,
    /// The judge's figures.
    pub judged: Figures,
    /// Those of labels by shared words, which know no contradiction: the cosine from
    /// [`OverlapLabeller::THRESHOLD`] on, with frequencies of the part itself.
    pub overlap: Figures,
}

/// How often dialogues are drawn again for intervals.
const DRAWS: usize = 1000;

/// Judges every pair of a part and compares with its labels. With a folder, writes `evaluation.json` and
/// `calibration.svg` to it.
///
/// # Errors
/// The judge's and the table's; when a file cannot be written.
pub fn evaluate(
    judge: &Path,
    scores: &Path,
    part: ScorePart,
    device: Device,
    out: Option<&Path>,
) -> Result<Evaluation> {
    let pairs = ScoredPairs::open(scores, part)?;
    let loaded = Judge::load(judge, device)?;
    let texts: Vec<(&str, &str)> =
        pairs.scores().iter().map(|score| (score.description.as_str(), score.reply.as_str())).collect();
    let began = std::time::Instant::now();
    let (probabilities, encoding) = loaded.probabilities(&texts)?;
    let seconds = began.elapsed().as_secs_f64();
    let judged = |probabilities: &[[f64; 3]]| -> Vec<Judged> {
        let pair = |(score, probabilities): (&persona_data::PersonaScore, &[f64; 3])| Judged {
            dialogue: score.dialogue,
            reply: score.reply_index,
            label: score.label,
            probabilities: *probabilities,
        };
        pairs.scores().iter().zip(probabilities).map(pair).collect()
    };
    let evaluation = Evaluation {
        judge: judge.to_path_buf(),
        scores: scores.to_path_buf(),
        part,
        encoding,
        seconds,
        judged: Figures::of(&judged(&probabilities), DRAWS, 1)?,
        overlap: Figures::of(&judged(&overlap(&texts)?), DRAWS, 1)?,
    };
    if let Some(out) = out {
        std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
        persona_model::write_atomically(
            &out.join("evaluation.json"),
            &serde_json::to_vec_pretty(&evaluation)?,
        )?;
        if let Some(svg) = evaluation.judged.calibration.svg("Calibration")? {
            persona_model::write_atomically(&out.join("calibration.svg"), svg.as_bytes())?;
        }
    }
    Ok(evaluation)
}

/// Entailment where words are shared, neutral elsewhere.
fn overlap(pairs: &[(&str, &str)]) -> Result<Vec<[f64; 3]>> {
    let text = |(description, reply): &(&str, &str)| Dialogue {
        id: String::new(),
        personas: [Vec::new(), vec![(*description).to_owned()]],
        turns: vec![Turn::new(Speaker::Two, *reply)],
    };
    let labeller = OverlapLabeller::fit(&pairs.iter().map(text).collect::<Vec<_>>())?;
    let entailed = |(description, reply): &(&str, &str)| {
        let score = labeller.scores(&[(*description).to_owned()], reply).first().copied().unwrap_or(0.0);
        if score >= OverlapLabeller::THRESHOLD { [0.0, 0.0, 1.0] } else { [0.0, 1.0, 0.0] }
    };
    Ok(pairs.iter().map(entailed).collect())
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { judge, scores, part, encoding, seconds, judged, overlap } = self;
        writeln!(f, "{} on {part:?} of {}", judge.display(), scores.display())?;
        writeln!(f, "{encoding}, distinct; judged in {seconds:.1} s\n")?;
        writeln!(f, "{judged}")?;
        let overlap = ["accuracy", "macro-F1", "F1 entailment", "C.score sum, judge"]
            .map(|name| format!("{name} {:.4}", overlap.value(name).unwrap_or(f64::NAN)));
        writeln!(f, "labels by shared words: {}", overlap.join(", "))
    }
}
