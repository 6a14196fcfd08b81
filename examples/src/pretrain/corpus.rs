//! The dialogues of a recipe: read, written one way, divided into training and held-out ones.

use std::collections::HashSet;
use std::fmt;

use anyhow::{Context, Result, ensure};
use persona_data::{Dialogue, Turn, open};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::english::tidy;
use super::recipe::PretrainRecipe;

/// What a pre-training reads.
#[derive(Debug)]
pub struct Corpus {
    /// Trained on.
    pub train: Vec<Dialogue>,
    /// Never trained on.
    pub held_out: Vec<Dialogue>,
    /// What became of each source.
    pub sources: Vec<SourceCounts>,
}

/// What became of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Its name in the recipe.
    pub name: String,
    /// The file's SHA-256 in hexadecimal.
    pub sha256: String,
    /// Dialogues in the file.
    pub dialogues: usize,
    /// Dialogues of which nothing was left.
    pub left_out: usize,
    /// Turns of the file.
    pub turns: usize,
    /// Turns left out for a bracket: a name or a place that nobody filled in, or a stage direction.
    pub bracketed: usize,
    /// Turns left out because nothing is said, or because none stands beside them.
    pub alone: usize,
    /// Stretches: runs of turns between those left out, each of which goes on as a dialogue by itself.
    pub stretches: usize,
    /// Dialogues held out.
    pub held_out: usize,
}

impl fmt::Display for SourceCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} dialogues ({} held out, {} left out), {} turns ({} with brackets and {} alone or empty left out), {} \
             stretches",
            self.name,
            self.dialogues,
            self.held_out,
            self.left_out,
            self.turns,
            self.bracketed,
            self.alone,
            self.stretches
        )
    }
}

/// A stretch has at least so many turns: with fewer, nobody answers anybody.
const LEAST_TURNS: usize = 2;

impl Corpus {
    /// Reads the sources, writes them one way ([`tidy`]), cuts dialogues where a turn is left out, and holds some out.
    ///
    /// # Errors
    /// The loaders', with file and line; a file that is another than the recipe's; two dialogues of one id; when nothing is
    /// left to train on, or nothing is held out.
    pub fn load(recipe: &PretrainRecipe) -> Result<Self> {
        let mut sources = Vec::new();
        // The source of every dialogue, and its stretches.
        let mut all: Vec<(usize, Vec<Dialogue>)> = Vec::new();
        for (at, source) in recipe.corpus.sources.iter().enumerate() {
            let path = recipe.place(source);
            let bytes = std::fs::read(&path).with_context(|| {
                format!("reading {}; name the folder that holds the data with --data", path.display())
            })?;
            let sha256 = format!("{:x}", Sha256::digest(&bytes));
            if let Some(wanted) = &source.sha256 {
                ensure!(
                    *wanted == sha256,
                    "{} is not the recipe's file: its SHA-256 is {sha256}, and `sha256` says {wanted}",
                    path.display()
                );
            }
            drop(bytes);
            let mut counts = SourceCounts { name: source.name.clone(), sha256, ..SourceCounts::default() };
            for dialogue in open(&path, None)? {
                let stretches = stretches(&dialogue?, &mut counts);
                all.push((at, stretches));
            }
            sources.push(counts);
        }
        // Documents are traced back to their dialogues by the id.
        let mut ids = HashSet::new();
        for stretch in all.iter().flat_map(|(_, stretches)| stretches) {
            ensure!(
                ids.insert(stretch.id.as_str()),
                "the id {:?} stands for more than one dialogue of `corpus.sources`; name a file once, and give files \
                 whose dialogues have no ids different names",
                stretch.id.rsplit_once('/').map_or("", |(id, _)| id)
            );
        }
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.seed));
        order.truncate((all.len() as f64 * recipe.corpus.held_out).ceil() as usize);
        order.sort_unstable();
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (at, (source, stretches)) in all.into_iter().enumerate() {
            if order.binary_search(&at).is_err() {
                train.extend(stretches);
                continue;
            }
            if let Some(counts) = sources.get_mut(source) {
                counts.held_out += 1;
            }
            held_out.extend(stretches);
        }
        ensure!(!train.is_empty(), "no dialogue is left to train on; look at `corpus.sources`");
        ensure!(
            !held_out.is_empty(),
            "no dialogue is held out; give more of them, or `corpus.held_out` more"
        );
        Ok(Self { train, held_out, sources })
    }
}

/// The runs of turns that stay, each with the whole personas.
fn stretches(dialogue: &Dialogue, counts: &mut SourceCounts) -> Vec<Dialogue> {
    let personas = dialogue.personas.clone().map(|persona| {
        let texts = persona.iter().map(|text| tidy(text));
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>()
    });
    counts.dialogues += 1;
    counts.turns += dialogue.turns.len();
    let mut runs: Vec<Vec<Turn>> = vec![Vec::new()];
    for turn in &dialogue.turns {
        let text = tidy(&turn.text);
        if text.contains(['[', '{', '(']) {
            counts.bracketed += 1;
            runs.push(Vec::new());
        } else if text.is_empty() {
            counts.alone += 1;
        } else if let Some(run) = runs.last_mut() {
            run.push(Turn::new(turn.speaker, text));
        }
    }
    let mut stretches = Vec::new();
    for turns in runs {
        if turns.len() < LEAST_TURNS {
            counts.alone += turns.len();
            continue;
        }
        let id = format!("{}/{}", dialogue.id, stretches.len());
        stretches.push(Dialogue { id, personas: personas.clone(), turns });
    }
    counts.stretches += stretches.len();
    counts.left_out += usize::from(stretches.is_empty());
    stretches
}

#[cfg(test)]
mod tests {
    use persona_data::Speaker;

    use super::*;

    #[test]
    fn a_turn_with_a_bracket_ends_a_stretch() {
        let turns = [
            "hi , i'm [user 1's name] .",
            "hello !",
            "do you ski ?",
            "i do .",
            "(laughs)",
            "why ?",
            "{}",
            " ",
            "a",
            "b",
        ];
        let turn = |(at, text): (usize, &&str)| {
            Turn::new(if at % 2 == 0 { Speaker::One } else { Speaker::Two }, *text)
        };
        let dialogue = Dialogue {
            id: "d".into(),
            personas: [vec![" ".into()], vec!["i ski .".into()]],
            turns: turns.iter().enumerate().map(turn).collect(),
        };
        let mut counts = SourceCounts::default();
        let found = stretches(&dialogue, &mut counts);
        let texts: Vec<Vec<&str>> =
            found.iter().map(|d| d.turns.iter().map(|turn| turn.text.as_str()).collect()).collect();
        assert_eq!(texts, [vec!["Hello!", "Do you ski?", "I do."], vec!["A", "B"]]);
        assert_eq!(found[1].id, "d/1");
        assert_eq!(found[0].personas, [vec![], vec!["I ski.".to_owned()]]);
        assert_eq!(found[0].turns[0].speaker, Speaker::Two);
        assert_eq!((counts.bracketed, counts.alone, counts.stretches, counts.left_out), (3, 2, 2, 0));
    }
}
