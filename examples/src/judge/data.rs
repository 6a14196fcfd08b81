//! The pairs of a recipe: where they come from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use persona_data::{
    EntailedPairs, NeutralOptions, NliFormat, NliItem, NliLabel, PersonaScore, PersonaScores, RecordList,
    open, open_nli, sampled_neutrals,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::made::{MakeOptions, make};

/// A file of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// `valid_persona_nli_scores.tsv`: every description with every reply, and a judge's label.
    PersonaScores {
        /// The file.
        path: PathBuf,
        /// Of which dialogues.
        part: ScorePart,
    },
    /// `train_entailed_sentences.json`, with neutral pairs drawn for it.
    Entailed {
        /// The file.
        path: PathBuf,
        /// How many neutral pairs.
        #[serde(default)]
        neutrals: NeutralOptions,
        /// At most so many entailed pairs, drawn from the seed; absent for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// A published file of natural language inference.
    Nli {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: NliFormat,
        /// At most so many pairs, drawn from the seed; absent for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Dialogues in any format that persona-data reads, of which pairs are made; see [`make`].
    Made {
        /// The files, each dialogue once.
        dialogues: Vec<PathBuf>,
        /// How pairs are made.
        #[serde(default)]
        options: MakeOptions,
    },
}

/// Dialogues of PERSONA-CHAT's validation set, by the split that ships with persona-data
/// ([`RecordList::persona_chat_valid`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScorePart {
    /// Valid#1.
    Valid1,
    /// Valid#2.
    Valid2,
    /// Valid#1 without the two that follow: six dialogues of ten.
    Valid1Train,
    /// Every tenth dialogue of Valid#1: to choose checkpoints.
    Valid1Dev,
    /// Three dialogues of ten of Valid#1: to fit shares of classes, which takes many.
    Valid1Calibration,
}

impl ScorePart {
    /// Whether it has a dialogue, by its place in Valid#1; None for those of Valid#2.
    fn has(self, place: Option<usize>) -> bool {
        let Some(place) = place else { return self == Self::Valid2 };
        let own = match place % 10 {
            0 => Self::Valid1Dev,
            1 | 4 | 7 => Self::Valid1Calibration,
            _ => Self::Valid1Train,
        };
        self == Self::Valid1 || self == own
    }
}

impl std::str::FromStr for ScorePart {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let text = serde_json::Value::String(name.to_owned());
        serde_json::from_value(text).map_err(|_| {
            format!(
                "unknown part {name:?}; the parts are valid1, valid2, valid1-train, valid1-dev and valid1-calibration"
            )
        })
    }
}

impl Source {
    /// The files.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::PersonaScores { path, .. } | Self::Entailed { path, .. } | Self::Nli { path, .. } => {
                vec![path]
            }
            Self::Made { dialogues, options } => {
                dialogues.iter().chain(&options.similarity).map(PathBuf::as_path).collect()
            }
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if let Self::Made { dialogues, options } = self {
            ensure!(!dialogues.is_empty(), "`dialogues` is empty; name at least one file");
            options.validate()?;
        }
        Ok(())
    }

    /// Its pairs, and a fact about them.
    ///
    /// # Errors
    /// The loaders', with file and line; when there is no pair.
    pub fn load(&self, seed: u64) -> Result<(Vec<NliItem>, String)> {
        let (items, more) = match self {
            Self::PersonaScores { path, part } => {
                (ScoredPairs::open(path, *part)?.items(), format!("{part:?}"))
            }
            Self::Entailed { path, neutrals, limit } => entailed(path, neutrals, *limit, seed)?,
            Self::Nli { path, format, limit } => {
                let mut stream = open_nli(path, *format)?;
                let items = stream.by_ref().collect::<persona_data::Result<Vec<_>>>()?;
                let more = format!("{} without a label passed over", stream.unlabelled());
                (drawn(items, *limit, seed), more)
            }
            Self::Made { dialogues, options } => {
                let mut all = Vec::new();
                for path in dialogues {
                    all.extend(open(path, None)?.collect::<persona_data::Result<Vec<_>>>()?);
                }
                (make(&all, options, seed)?, format!("made of {} dialogues", all.len()))
            }
        };
        let files: Vec<String> = self.paths().iter().map(|path| path.display().to_string()).collect();
        let files = files.join(", ");
        ensure!(!items.is_empty(), "{files}: no pair");
        let with = |label| items.iter().filter(|item| item.label == label).count();
        let [contradiction, neutral, entailment] = NliLabel::ALL.map(with);
        let fact = format!(
            "{files}: {contradiction} contradiction, {neutral} neutral, {entailment} entailment; {more}"
        );
        Ok((items, fact))
    }
}

fn entailed(
    path: &Path,
    neutrals: &NeutralOptions,
    limit: Option<usize>,
    seed: u64,
) -> Result<(Vec<NliItem>, String)> {
    let pairs = EntailedPairs::open(path)?.collect::<persona_data::Result<Vec<_>>>()?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let item = |kind: &str, label: NliLabel, at: usize, (premise, hypothesis): (String, String)| NliItem {
        id: format!("{stem}-{kind}{at:05}"),
        premise,
        hypothesis,
        label,
    };
    let mut neutral: Vec<NliItem> = sampled_neutrals(&pairs, neutrals, seed)
        .into_iter()
        .enumerate()
        .map(|(at, pair)| item("n", NliLabel::Neutral, at, pair))
        .collect();
    let all = pairs.len();
    let mut items: Vec<NliItem> =
        pairs.into_iter().enumerate().map(|(at, pair)| item("e", NliLabel::Entailment, at, pair)).collect();
    if let Some(limit) = limit.filter(|&limit| limit < all) {
        let share = limit as f64 / all as f64;
        items = drawn(items, Some(limit), seed);
        let neutrals = (neutral.len() as f64 * share).round() as usize;
        neutral = drawn(neutral, Some(neutrals), seed);
    }
    let more = format!("the neutral ones drawn ({neutrals:?})");
    items.append(&mut neutral);
    Ok((items, more))
}

/// At most so many, drawn from a seed, in their order.
fn drawn<T>(items: Vec<T>, limit: Option<usize>, seed: u64) -> Vec<T> {
    let Some(limit) = limit.filter(|&limit| limit < items.len()) else { return items };
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut kept = vec![false; items.len()];
    for &at in order.iter().take(limit) {
        kept[at] = true;
    }
    items.into_iter().zip(kept).filter_map(|(item, kept)| kept.then_some(item)).collect()
}

/// The published judgements of one part.
#[derive(Debug)]
pub struct ScoredPairs(Vec<PersonaScore>);

impl ScoredPairs {
    /// Reads the table and keeps the dialogues of a part.
    ///
    /// # Errors
    /// The loader's, with file and line; a dialogue beyond the 1,000 of the split.
    pub fn open(path: &Path, part: ScorePart) -> Result<Self> {
        let parts = RecordList::persona_chat_valid()?.parts_in_order()?;
        let mut first = 0;
        // The places of Valid#1's dialogues among themselves.
        let within: Vec<Option<usize>> = parts
            .iter()
            .map(|&part| {
                let place = (part == 0).then_some(first);
                first += usize::from(part == 0);
                place
            })
            .collect();
        let mut kept = Vec::new();
        for score in PersonaScores::open(path)? {
            let score = score?;
            let place = within.get(score.dialogue).with_context(|| {
                format!(
                    "{}: dialogue {} of 1,000; is it the table of the validation set?",
                    path.display(),
                    score.dialogue
                )
            })?;
            if part.has(*place) {
                kept.push(score);
            }
        }
        ensure!(!kept.is_empty(), "{}: no pair of {part:?}", path.display());
        Ok(Self(kept))
    }

    /// The judgements.
    #[must_use]
    pub fn scores(&self) -> &[PersonaScore] {
        &self.0
    }

    fn items(self) -> Vec<NliItem> {
        let item = |score: PersonaScore| NliItem {
            id: format!("{}/{}/{}", score.dialogue, score.description_index, score.reply_index),
            premise: score.description,
            hypothesis: score.reply,
            label: score.label,
        };
        self.0.into_iter().map(item).collect()
    }
}
