//! Labels for dialogues by a judge: what `judge label` does.

use std::path::Path;

use anyhow::{Context, Result};
use persona_data::{
    Dialogue, EntailmentLabeller, EntailmentRule, Format, LabelReport, OverlapLabeller, PairReport,
    label_dialogues, open, write_jsonl,
};
use tch::Device;

use super::score::Judge;

/// How dialogues are labelled.
#[derive(Debug, Clone, Copy, Default)]
pub struct LabelOptions {
    /// The file's format; recognised by content where it is left out.
    pub format: Option<Format>,
    /// Which description comes first, and how sure the judge has to be.
    pub rule: EntailmentRule,
    /// Label turns anew that have labels.
    pub relabel: bool,
}

/// What labelling did.
#[derive(Debug)]
pub struct Labelled {
    /// Dialogues written.
    pub dialogues: u64,
    /// The distinct pairs in tokens.
    pub pairs: PairReport,
    /// By the judge.
    pub judge: LabelReport,
    /// By shared words, for comparison.
    pub overlap: LabelReport,
    /// The share of the turns labelled now whose first label, or lack of one, is the same by both.
    pub same_first: f64,
}

/// Labels the dialogues of a file with a judge and writes them as JSON lines. Turns without text, and turns whose speaker
/// has no persona, are not given to the judge: to the former no description applies, the latter stay unlabelled.
///
/// # Errors
/// The judge's and the loader's, with file and line; when the file cannot be written.
pub fn label(
    judge: &Path,
    input: &Path,
    output: &Path,
    device: Device,
    options: &LabelOptions,
) -> Result<Labelled> {
    let judge = Judge::load(judge, device)?;
    let mut dialogues = open(input, options.format)?.collect::<persona_data::Result<Vec<_>>>()?;
    if options.relabel {
        let turns = dialogues.iter_mut().flat_map(|dialogue| &mut dialogue.turns);
        turns.for_each(|turn| turn.relevant = None);
    }
    let mut by_words = dialogues.clone();
    let (judged, report) = judge_dialogues(&judge, &mut dialogues, options.rule)?;
    let words = OverlapLabeller::fit(&by_words).context("comparing with labels by shared words")?;
    let was_there: Vec<bool> = turns(&by_words).map(|turn| turn.relevant.is_some()).collect();
    let overlap = label_dialogues(&mut by_words, &words)?;
    let first = |relevant: &Option<Vec<usize>>| relevant.as_ref().map(|relevant| relevant.first().copied());
    let fresh = turns(&dialogues).zip(turns(&by_words)).zip(was_there).filter(|(_, was_there)| !was_there);
    let same =
        fresh.filter(|((a, b), _)| a.relevant.is_some() && first(&a.relevant) == first(&b.relevant)).count();
    let dialogues = write_jsonl(output, &dialogues)?;
    let same_first = same as f64 / judged.labelled.max(1) as f64;
    Ok(Labelled { dialogues, pairs: report, judge: judged, overlap, same_first })
}

/// Labels the turns without labels. What [`label`] does with a file.
///
/// # Errors
/// The judge's; a threshold that is no probability.
pub fn judge_dialogues(
    judge: &Judge,
    dialogues: &mut [Dialogue],
    rule: EntailmentRule,
) -> Result<(LabelReport, PairReport)> {
    let pairs = pairs(dialogues);
    let (probabilities, report) = judge.probabilities(&pairs)?;
    let labeller = EntailmentLabeller::new(pairs.into_iter().zip(probabilities), rule)?;
    Ok((label_dialogues(dialogues, &labeller)?, report))
}

fn turns(dialogues: &[Dialogue]) -> impl Iterator<Item = &persona_data::Turn> {
    dialogues.iter().flat_map(|dialogue| &dialogue.turns)
}

/// Every description of its speaker with every unlabelled turn that says something.
fn pairs(dialogues: &[Dialogue]) -> Vec<(&str, &str)> {
    let mut pairs = Vec::new();
    for dialogue in dialogues {
        for turn in &dialogue.turns {
            if turn.relevant.is_none() && !turn.text.trim().is_empty() {
                let persona = dialogue.persona(turn.speaker);
                pairs.extend(persona.iter().map(|description| (description.as_str(), turn.text.as_str())));
            }
        }
    }
    pairs
}

impl std::fmt::Display for Labelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dialogues, pairs, judge, overlap, same_first } = self;
        writeln!(f, "{dialogues} dialogues; {pairs}, distinct")?;
        for (name, report) in [("judge", judge), ("shared words", overlap)] {
            let (none, several) = (100.0 * report.none_share(), 100.0 * report.several_share());
            writeln!(
                f,
                "by the {name}: {} turns labelled, {none:.1} % none, {several:.1} % several",
                report.labelled
            )?;
        }
        writeln!(
            f,
            "{} turns had labels and kept them, {} have no persona",
            judge.kept, judge.without_persona
        )?;
        writeln!(f, "the first label is the same by both in {:.1} %", 100.0 * same_first)
    }
}
