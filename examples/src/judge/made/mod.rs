//! Labelled pairs of the project's own making, from dialogues alone.
//!
//! Nobody's labels are used: a reply restates a description of its speaker where the two share telling words, or mean like
//! things to a sentence encoder; descriptions of other speakers, and those far from the reply, are neutral; a restated
//! description that is edited into something that cannot be true at once is contradicted. English only.

mod edits;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use persona_data::{Dialogue, NliItem, NliLabel, OverlapLabeller};
use persona_metrics::SentenceEmbedder;
use persona_metrics::cosine;
use persona_metrics::model::{LongTexts, TextEncoder};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use edits::Relations;

/// How pairs are made. The score of a description and a reply is the cosine of their TF-IDF vectors
/// ([`OverlapLabeller::scores`]), or with `similarity` the mean of that and of the cosine of their sentence vectors (0 where
/// it is negative).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MakeOptions {
    /// The folder of a sentence encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<PathBuf>,
    /// At most so many turns, drawn from the seed; absent for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<usize>,
    /// From this score on a reply restates a description of its speaker.
    pub restated: f64,
    /// Below this score a description of the speaker is neutral to the reply; between the two it is left out.
    pub unrelated: f64,
    /// Below this score another speaker's description is neutral to the reply.
    pub others_below: f64,
    /// Of so many descriptions of other speakers, the one that shares most words is taken, and one at random.
    pub others_drawn: usize,
    /// From this score on a restated description is edited into a contradiction besides, where an edit fits.
    pub edited: f64,
    /// At most so many pairs of each class, drawn from the seed: contradiction, neutral, entailment.
    pub limits: [usize; 3],
}

impl Default for MakeOptions {
    fn default() -> Self {
        Self {
            similarity: None,
            turns: None,
            restated: 0.2,
            unrelated: 0.06,
            others_below: 0.16,
            others_drawn: 24,
            edited: 0.35,
            limits: [15_000, 70_000, 35_000],
        }
    }
}

impl MakeOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("restated", self.restated),
            ("unrelated", self.unrelated),
            ("others_below", self.others_below),
            ("edited", self.edited),
        ] {
            ensure!((0.0..=1.0).contains(&value), "`{key}` is {value}; it lies in 0 to 1");
        }
        ensure!(self.unrelated <= self.restated, "`unrelated` is above `restated`");
        ensure!(self.others_drawn > 0, "`others_drawn` is 0; give at least 1");
        Ok(())
    }
}

/// A turn with its speaker's persona.
struct Said<'a> {
    persona: &'a [String],
    reply: &'a str,
}

/// Makes labelled pairs from dialogues. The same dialogues, options and seed give the same pairs.
///
/// # Errors
/// [`MakeOptions::validate`]'s; dialogues without a word, or from which no pair can be made.
pub fn make(dialogues: &[Dialogue], options: &MakeOptions, seed: u64) -> Result<Vec<NliItem>> {
    options.validate()?;
    let labeller = OverlapLabeller::fit(dialogues)?;
    let mut said: Vec<Said<'_>> = dialogues
        .iter()
        .flat_map(|dialogue| {
            dialogue
                .turns
                .iter()
                .map(|turn| Said { persona: dialogue.persona(turn.speaker), reply: &turn.text })
        })
        .filter(|said| !said.persona.is_empty() && !said.reply.trim().is_empty())
        .collect();
    if let Some(turns) = options.turns {
        said.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        said.truncate(turns);
    }
    let mut descriptions: Vec<&str> = said
        .iter()
        .flat_map(|said| said.persona)
        .map(String::as_str)
        .filter(|text| !text.trim().is_empty())
        .collect();
    descriptions.sort_unstable();
    descriptions.dedup();
    ensure!(!descriptions.is_empty(), "no turn whose speaker has a persona");
    let relations = Relations::of(&descriptions);
    let mut turns: Vec<Paired<'_>> = said
        .par_iter()
        .enumerate()
        .map(|(at, said)| {
            // Each turn has a stream of its own, so that the pairs do not depend on the number of threads.
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(at as u64);
            Paired::with(said, options, &labeller, &descriptions, random)
        })
        .collect();
    if let Some(folder) = &options.similarity {
        add_similarity(&mut turns, folder)?;
    }
    let made: Vec<Vec<(NliLabel, String, String)>> =
        turns.into_par_iter().map(|turn| turn.labelled(options, &relations)).collect();

    let mut by_label: [Vec<(String, String)>; 3] = Default::default();
    let mut seen = HashSet::new();
    for (label, description, reply) in made.into_iter().flatten() {
        if seen.insert((description.clone(), reply.clone())) {
            by_label[label.index()].push((description, reply));
        }
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut items = Vec::new();
    for (label, mut pairs) in NliLabel::ALL.into_iter().zip(by_label) {
        pairs.shuffle(&mut random);
        pairs.truncate(options.limits[label.index()]);
        items.extend(pairs.into_iter().enumerate().map(|(at, (premise, hypothesis))| NliItem {
            id: format!("{label}-{at:06}"),
            premise,
            hypothesis,
            label,
        }));
    }
    Ok(items)
}

/// A description that a turn is paired with.
struct Candidate<'a> {
    description: &'a str,
    /// Whether it is of the turn's speaker.
    own: bool,
    score: f64,
}

/// A turn with the descriptions that it is paired with.
struct Paired<'a> {
    reply: &'a str,
    candidates: Vec<Candidate<'a>>,
    random: ChaCha8Rng,
}

impl<'a> Paired<'a> {
    /// All descriptions of the speaker; of others', the one that shares most words and one at random.
    fn with(
        said: &Said<'a>,
        options: &MakeOptions,
        labeller: &OverlapLabeller,
        descriptions: &[&'a str],
        mut random: ChaCha8Rng,
    ) -> Self {
        let scores = labeller.scores(said.persona, said.reply);
        let own = said.persona.iter().zip(scores).filter(|(description, _)| !description.trim().is_empty());
        let own = own.map(|(description, score)| Candidate { description, own: true, score });
        let drawn: Vec<&'a str> = (0..options.others_drawn)
            .filter_map(|_| descriptions.choose(&mut random).copied())
            .filter(|&description| !said.persona.iter().any(|own| own == description))
            .collect();
        let texts: Vec<String> = drawn.iter().map(|&description| description.to_owned()).collect();
        let scores = labeller.scores(&texts, said.reply);
        let others = || drawn.iter().zip(&scores).filter(|(_, score)| **score < options.others_below);
        let nearest = others().max_by(|(_, a), (_, b)| a.total_cmp(b));
        let others = nearest.into_iter().chain(others().next());
        let others = others.map(|(&description, &score)| Candidate { description, own: false, score });
        Self { reply: said.reply, candidates: own.chain(others).collect(), random }
    }

    fn labelled(mut self, options: &MakeOptions, relations: &Relations) -> Vec<(NliLabel, String, String)> {
        let random = &mut self.random;
        let mut made = Vec::new();
        let mut add = |label, description: &str, reply: &str| {
            made.push((label, description.to_owned(), reply.to_owned()));
        };
        let mut unrelated = Vec::new();
        for &Candidate { description, own, score } in &self.candidates {
            if !own {
                if score < options.others_below {
                    add(NliLabel::Neutral, description, self.reply);
                }
                continue;
            }
            if score < options.unrelated {
                unrelated.push(description);
            }
            if score >= options.restated {
                add(NliLabel::Entailment, description, self.reply);
            }
            if score >= options.restated.max(options.edited) {
                // Half of the time the reply is what changes, where an edit fits it.
                let reply = random.random_bool(0.5).then(|| edits::contradict(self.reply, relations, random));
                if let Some(reply) = reply.flatten() {
                    add(NliLabel::Contradiction, description, &reply);
                } else if let Some(edited) = edits::contradict(description, relations, random) {
                    add(NliLabel::Contradiction, &edited, self.reply);
                }
            }
        }
        if let Some(description) = unrelated.choose(random) {
            add(NliLabel::Neutral, description, self.reply);
        }
        made
    }
}

/// Makes each score the mean of itself and the cosine of the sentences' vectors.
fn add_similarity(turns: &mut [Paired<'_>], folder: &Path) -> Result<()> {
    let encoder = TextEncoder::load(folder, Device::Cpu, Kind::BFloat16)?.long_texts(LongTexts::Cut);
    let pairs =
        turns.iter().flat_map(|turn| turn.candidates.iter().map(|with| with.description).chain([turn.reply]));
    let mut texts: Vec<&str> = pairs.collect();
    texts.sort_unstable();
    texts.dedup();
    let vectors = encoder.embed(&texts).map_err(|error| anyhow!("{}: {error}", folder.display()))?;
    let place = |text: &str| texts.binary_search(&text).ok();
    let similarity = |one: &str, other: &str| -> Result<f64> {
        let (one, other) = place(one).zip(place(other)).context("a text without a vector")?;
        Ok(cosine(vectors.row(one), vectors.row(other))?.max(0.0))
    };
    turns.par_iter_mut().try_for_each(|turn| {
        for with in &mut turn.candidates {
            with.score = (with.score + similarity(with.description, turn.reply)?) / 2.0;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use persona_data::{Speaker, Turn};

    use super::*;

    fn dialogues() -> Vec<Dialogue> {
        let pets = ["dog", "cat", "parrot", "horse", "turtle", "snake", "rabbit", "hamster"];
        let jobs = ["nurse", "pilot", "baker", "lawyer", "farmer", "teacher", "painter", "plumber"];
        (0..64)
            .map(|at| {
                let (pet, job) = (pets[at % 8], jobs[at / 8]);
                let persona = vec![format!("I have two {pet}s."), format!("I work as a {job}.")];
                let turns = vec![
                    Turn::new(Speaker::One, "What do you do?"),
                    Turn::new(Speaker::Two, format!("I am a {job} and I love it.")),
                    Turn::new(Speaker::One, "Any animals?"),
                    Turn::new(Speaker::Two, format!("Yes, my two {pet}s are great.")),
                    Turn::new(Speaker::Two, "Nice weather here."),
                ];
                Dialogue { id: at.to_string(), personas: [Vec::new(), persona], turns }
            })
            .collect()
    }

    #[test]
    fn pairs_are_labelled_by_what_they_were_made_of() {
        let dialogues = dialogues();
        let options = MakeOptions { edited: 0.25, ..MakeOptions::default() };
        let items = make(&dialogues, &options, 3).unwrap();
        assert_eq!(items, make(&dialogues, &options, 3).unwrap());
        assert_ne!(items, make(&dialogues, &options, 4).unwrap());
        let of = |label| items.iter().filter(move |item| item.label == label).collect::<Vec<_>>();
        let entailed = of(NliLabel::Entailment);
        assert!(entailed.len() >= 16, "{entailed:?}");
        for item in &entailed {
            let word = item.premise.trim_end_matches(['.', 's']).rsplit(' ').next().unwrap();
            assert!(item.hypothesis.contains(word), "{item:?}");
        }
        for item in of(NliLabel::Neutral) {
            let word = item.premise.trim_end_matches(['.', 's']).rsplit(' ').next().unwrap();
            assert!(!item.hypothesis.contains(word), "{item:?}");
        }
        let contradicted = of(NliLabel::Contradiction);
        assert!(contradicted.len() >= 8, "{contradicted:?}");
        let ids: HashSet<&String> = items.iter().map(|item| &item.id).collect();
        assert_eq!(ids.len(), items.len());
        let few = make(&dialogues, &MakeOptions { limits: [2, 3, 4], ..options }, 3).unwrap();
        assert_eq!(few.len(), 9);
    }

    #[test]
    fn nothing_to_make_pairs_of_is_an_error() {
        assert!(make(&[], &MakeOptions::default(), 1).is_err());
        let nobody = Dialogue {
            id: "x".into(),
            personas: Default::default(),
            turns: vec![Turn::new(Speaker::One, "hello there friend")],
        };
        assert!(make(&[nobody], &MakeOptions::default(), 1).unwrap_err().to_string().contains("no turn"));
        let bad = MakeOptions { restated: 1.5, ..MakeOptions::default() };
        assert!(make(&dialogues(), &bad, 1).unwrap_err().to_string().contains("`restated`"));
    }
}
