//! Parts of a data set that never share a dialogue, and the list that gives the same parts again.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::dialogue::{Dialogue, ExampleOptions};
use crate::error::{Error, Place, Result};
use crate::loaders::{Source, read_error, write_whole};

/// How large a part is to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// So many examples, as nearly as whole dialogues allow.
    Examples(usize),
    /// This share of all examples, from 0 to 1, as nearly as whole dialogues allow.
    Fraction(f64),
    /// Whatever the other parts leave; one part at most.
    Rest,
    /// A set of its own in the source, taken as it is: [`PalParts::from_sets`] writes it, [`RecordList::draw`] refuses it.
    Given,
}

/// One part: its dialogues by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The part's name.
    pub name: String,
    /// The size that was asked for.
    pub target: Target,
    /// The size that came out, in examples.
    pub examples: usize,
    /// The ids of the dialogues, in the order of the data set.
    pub dialogues: Vec<String>,
}

/// Which dialogue went into which part: what a run saves so that a later one has the same parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordList {
    /// The seed of the drawing.
    pub seed: u64,
    /// How examples were counted.
    pub options: ExampleOptions,
    /// The parts in the order in which they were asked for.
    pub parts: Vec<Part>,
}

impl RecordList {
    /// Draws parts at random by whole dialogues. The same dialogues (in the same order), parts and seed give the same list.
    ///
    /// Targets count examples under `options`, and together they must make up all of them; a part with [`Target::Rest`]
    /// takes what is over. Without one, the last part takes the dialogues left when the others are as near to their
    /// targets as whole dialogues allow.
    ///
    /// # Errors
    /// [`Error::DuplicateId`]; [`Error::Split`] when the targets do not fit the examples or a part would be empty.
    pub fn draw(
        dialogues: &[Dialogue],
        parts: &[(&str, Target)],
        options: &ExampleOptions,
        seed: u64,
    ) -> Result<Self> {
        check_ids(&[("", dialogues)])?;
        let counts: Vec<usize> = dialogues.iter().map(|dialogue| dialogue.example_count(options)).collect();
        let examples = counts.iter().sum();
        let fail = |problem: String| Error::Split { dialogues: dialogues.len(), examples, problem };
        let sizes = sizes(parts, examples).map_err(fail)?;
        let names: HashSet<&str> = parts.iter().map(|(name, _)| *name).collect();
        if names.len() < parts.len() {
            return Err(fail("two parts have the same name".into()));
        }

        let mut pool: Vec<usize> = (0..dialogues.len()).collect();
        pool.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        // The part that takes what is over is served last.
        let over = parts.iter().position(|(_, target)| *target == Target::Rest).unwrap_or(parts.len() - 1);
        let mut taken: Vec<Vec<usize>> = sizes
            .iter()
            .enumerate()
            .map(|(part, &size)| if part == over { Vec::new() } else { take(&mut pool, &counts, size) })
            .collect();
        if let Some(part) = taken.get_mut(over) {
            *part = pool;
        }

        let mut list = Self { seed, options: options.clone(), parts: Vec::with_capacity(parts.len()) };
        for (((name, target), size), mut members) in parts.iter().zip(sizes).zip(taken) {
            if members.is_empty() && (size > 0 || *target == Target::Rest) {
                return Err(fail(format!("part {name:?} would get no dialogue; give it a larger share")));
            }
            members.sort_unstable();
            list.parts.push(Part {
                name: (*name).to_owned(),
                target: *target,
                examples: members.iter().filter_map(|&at| counts.get(at)).sum(),
                dialogues: members.iter().filter_map(|&at| dialogues.get(at)).map(|d| d.id.clone()).collect(),
            });
        }
        Ok(list)
    }

    /// Writes the list as JSON; the file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_whole(path.as_ref(), |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })
    }

    /// Reads a list that [`RecordList::save`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read or is no such list.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let source = Source::open(path.as_ref())?;
        Self::read(source.bytes, &source.name)
    }

    pub(crate) fn read(bytes: impl std::io::Read, name: &str) -> Result<Self> {
        let place = Place { file: name.to_owned(), line: 1, record: None };
        let text = std::io::read_to_string(bytes).map_err(|error| read_error(error, place.clone()))?;
        let expected = "a record list {\"seed\", \"options\", \"parts\"}";
        serde_json::from_str(&text).map_err(|source| {
            let place = Place { line: (source.line() as u64).max(1), ..place };
            Error::Json { place, expected, source }
        })
    }

    /// Divides dialogues as the list says: one vector for each of [`RecordList::parts`].
    ///
    /// # Errors
    /// [`Error::DuplicateId`]; [`Error::RecordList`] when the list names a dialogue that is not there or names one twice,
    /// when a dialogue is missing from the list, or when a part's dialogues do not give the number of examples noted.
    pub fn apply(&self, dialogues: Vec<Dialogue>) -> Result<Vec<Vec<Dialogue>>> {
        check_ids(&[("", &dialogues)])?;
        let fail = |problem: String| Error::RecordList { problem };
        let mut part_of: HashMap<&str, usize> = HashMap::new();
        for (at, part) in self.parts.iter().enumerate() {
            for id in &part.dialogues {
                if part_of.insert(id, at).is_some() {
                    return Err(fail(format!("it names dialogue {id:?} twice")));
                }
            }
        }
        let mut divided: Vec<Vec<Dialogue>> = self.parts.iter().map(|_| Vec::new()).collect();
        for dialogue in dialogues {
            match part_of.remove(dialogue.id.as_str()).and_then(|at| divided.get_mut(at)) {
                Some(part) => part.push(dialogue),
                None => return Err(fail(format!("dialogue {:?} is in none of its parts", dialogue.id))),
            }
        }
        // The smallest, so that the message is the same each time.
        if let Some(id) = part_of.keys().min() {
            let more = part_of.len() - 1;
            return Err(fail(format!(
                "it names dialogue {id:?} (and {more} more), which the data do not have"
            )));
        }
        for (part, members) in self.parts.iter().zip(&divided) {
            let examples = count(members, &self.options);
            if examples != part.examples {
                let Part { name, examples: noted, .. } = part;
                return Err(fail(format!(
                    "part {name:?} has {examples} examples where {noted} are noted; have the data changed?"
                )));
            }
        }
        Ok(divided)
    }
}

/// The four parts of PAL: [`train`](Self::train) for stage 1, [`valid1`](Self::valid1) (Valid#1) for the preference pairs,
/// [`valid2`](Self::valid2) (Valid#2) to choose checkpoints, [`test`](Self::test). No two share a dialogue.
#[derive(Debug, Clone, PartialEq)]
pub struct PalParts {
    /// Stage 1: persona-aware learning.
    pub train: Vec<Dialogue>,
    /// Valid#1: preference pairs.
    pub valid1: Vec<Dialogue>,
    /// Valid#2: validation.
    pub valid2: Vec<Dialogue>,
    /// What is reported.
    pub test: Vec<Dialogue>,
}

impl PalParts {
    /// The parts' names in a record list.
    pub const NAMES: [&str; 4] = ["train", "valid1", "valid2", "test"];

    /// How many examples PAL's Valid#1 and Valid#2 have, of PERSONA-CHAT's 7,801 validation examples.
    pub const PAPER: [Target; 2] = [Target::Examples(6500), Target::Examples(1301)];

    /// The parts of a data set that comes as train, valid and test: only valid is divided, into Valid#1 and Valid#2
    /// ([`PalParts::PAPER`] for the paper's sizes; the paper does not say which examples they were).
    ///
    /// # Errors
    /// As [`RecordList::draw`]; an id may not occur twice in the three sets together.
    pub fn from_sets(
        [train, valid, test]: [Vec<Dialogue>; 3],
        [valid1, valid2]: [Target; 2],
        options: &ExampleOptions,
        seed: u64,
    ) -> Result<(Self, RecordList)> {
        check_ids(&[("train, ", &train), ("valid, ", &valid), ("test, ", &test)])?;
        let [train_name, name1, name2, test_name] = Self::NAMES;
        let mut list = RecordList::draw(&valid, &[(name1, valid1), (name2, valid2)], options, seed)?;
        let given = |name: &str, set: &[Dialogue]| Part {
            name: name.to_owned(),
            target: Target::Given,
            examples: count(set, options),
            dialogues: set.iter().map(|dialogue| dialogue.id.clone()).collect(),
        };
        list.parts.insert(0, given(train_name, &train));
        list.parts.push(given(test_name, &test));
        let dialogues = [train, valid, test].into_iter().flatten().collect();
        Ok((Self::from_list(dialogues, &list)?, list))
    }

    /// Four parts drawn from one set, with targets for train, Valid#1, Valid#2 and test.
    ///
    /// # Errors
    /// As [`RecordList::draw`].
    pub fn from_one(
        dialogues: Vec<Dialogue>,
        targets: [Target; 4],
        options: &ExampleOptions,
        seed: u64,
    ) -> Result<(Self, RecordList)> {
        let parts: Vec<(&str, Target)> = Self::NAMES.into_iter().zip(targets).collect();
        let list = RecordList::draw(&dialogues, &parts, options, seed)?;
        Ok((Self::from_list(dialogues, &list)?, list))
    }

    /// The parts that a saved list gives, of all its dialogues in one vector.
    ///
    /// # Errors
    /// As [`RecordList::apply`], and [`Error::RecordList`] when the list is not of PAL's four parts.
    pub fn from_list(dialogues: Vec<Dialogue>, list: &RecordList) -> Result<Self> {
        let names: Vec<&str> = list.parts.iter().map(|part| part.name.as_str()).collect();
        if names != Self::NAMES {
            return Err(Error::RecordList {
                problem: format!("its parts are {names:?}, not {:?}", Self::NAMES),
            });
        }
        let mut parts = list.apply(dialogues)?.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        Ok(Self { train: next(), valid1: next(), valid2: next(), test: next() })
    }
}

/// No two dialogues of all sets may have one id; what stands before a set names it in the error.
fn check_ids(sets: &[(&str, &[Dialogue])]) -> Result<()> {
    let mut seen = HashMap::new();
    for (set, dialogues) in sets {
        for (at, dialogue) in dialogues.iter().enumerate() {
            if let Some((before, place)) = seen.insert(dialogue.id.as_str(), (set, at)) {
                let name = |set: &str, at: usize| format!("{set}dialogue {}", at + 1);
                let (first, second) = (name(before, place), name(set, at));
                return Err(Error::DuplicateId { id: dialogue.id.clone(), first, second });
            }
        }
    }
    Ok(())
}

pub(crate) fn count(dialogues: &[Dialogue], options: &ExampleOptions) -> usize {
    dialogues.iter().map(|dialogue| dialogue.example_count(options)).sum()
}

/// Targets in examples; the rest takes what the others do not.
fn sizes(parts: &[(&str, Target)], total: usize) -> Result<Vec<usize>, String> {
    let (mut sizes, mut rests, mut sum, mut share) = (Vec::new(), 0, 0_usize, 0.0);
    for (name, target) in parts {
        let size = match *target {
            Target::Examples(size) => size,
            Target::Fraction(fraction) if (0.0..=1.0).contains(&fraction) => {
                // Rounding the running sum keeps fractions that make up 1 at exactly the total.
                let before = (share * total as f64).round();
                share += fraction;
                ((share * total as f64).round() - before) as usize
            }
            Target::Fraction(fraction) => {
                return Err(format!("part {name:?} asks for {fraction}, not 0 to 1"));
            }
            Target::Rest => {
                rests += 1;
                0
            }
            Target::Given => return Err(format!("part {name:?} has no target to draw for")),
        };
        sum = sum.saturating_add(size);
        sizes.push(size);
    }
    match rests {
        _ if parts.is_empty() => Err("no part is asked for".into()),
        _ if total == 0 => Err("there is nothing to split".into()),
        0 if sum != total => {
            Err(format!("the targets sum to {sum} of {total} examples; let one part take the rest"))
        }
        1 if sum > total => Err(format!("the targets sum to {sum} of {total} examples")),
        0 | 1 => Ok(sizes),
        _ => Err("more than one part takes the rest".into()),
    }
}

/// Takes dialogues out of the shuffled pool until their counts come as near to `size` as they can: in the order of the
/// pool first, and for the last few by trying out every sum that the next dialogues can make.
fn take(pool: &mut Vec<usize>, counts: &[usize], size: usize) -> Vec<usize> {
    /// How many of the largest dialogues are left to the second step.
    const LAST: usize = 8;
    /// How many dialogues it chooses from at least.
    const CHOICE: usize = 64;
    let of = |at: usize| counts.get(at).copied().unwrap_or(0);
    let largest = pool.iter().map(|&at| of(at)).max().unwrap_or(0);

    let plain = size.saturating_sub(LAST * largest);
    let mut sum = 0;
    let head = pool.iter().take_while(|&&at| {
        sum += of(at);
        sum <= plain
    });
    let head = head.count();
    let mut taken: Vec<usize> = pool.drain(..head).collect();
    let gap = size - taken.iter().map(|&at| of(at)).sum::<usize>();

    // last[s]: the pool's dialogue that completes the sum s, of the first to reach it.
    let mut last: Vec<Option<usize>> = vec![None; gap + largest + 1];
    let mut offered = 0;
    for (at, &dialogue) in pool.iter().enumerate() {
        if at >= CHOICE && offered >= gap + largest {
            break;
        }
        let count = of(dialogue);
        offered += count;
        for sum in (count.max(1)..last.len()).rev() {
            let before = sum - count;
            let reached = before == 0 || last.get(before).is_some_and(Option::is_some);
            if let Some(slot) = last.get_mut(sum)
                && slot.is_none()
                && reached
            {
                *slot = Some(at);
            }
        }
    }
    let reached = (0..last.len()).filter(|&sum| sum == 0 || last.get(sum).is_some_and(Option::is_some));
    let mut sum = reached.min_by_key(|sum| sum.abs_diff(gap)).unwrap_or(0);
    let mut chosen = Vec::new();
    while let Some(Some(at)) = last.get(sum).copied() {
        chosen.push(at);
        sum -= pool.get(at).map_or(sum, |&dialogue| of(dialogue));
    }
    chosen.sort_unstable();
    // From behind, so that the places before stay what they are.
    taken.extend(chosen.into_iter().rev().map(|at| pool.remove(at)));
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_choice_of_dialogues_comes_nearer(
            counts in prop::collection::vec(0_usize..40, 1..12),
            share in 0.0..1.0_f64,
        ) {
            let size = (share * counts.iter().sum::<usize>() as f64) as usize;
            let mut pool: Vec<usize> = (0..counts.len()).collect();
            let taken = take(&mut pool, &counts, size);
            let mut all: Vec<usize> = taken.iter().chain(&pool).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..counts.len()).collect::<Vec<_>>());
            let sum = |members: &[usize]| members.iter().map(|&at| counts[at]).sum::<usize>();
            let best = (0..1_usize << counts.len())
                .map(|set| (0..counts.len()).filter(|at| set >> at & 1 == 1).collect::<Vec<_>>())
                .map(|members| sum(&members).abs_diff(size))
                .min();
            prop_assert_eq!(Some(sum(&taken).abs_diff(size)), best);
        }
    }

    #[test]
    fn many_dialogues_meet_the_target_in_full() {
        let counts: Vec<usize> = (0..9000).map(|at| 5 + at % 31).collect();
        let mut pool: Vec<usize> = (0..counts.len()).collect();
        let taken = take(&mut pool, &counts, 100_003);
        assert_eq!(taken.iter().map(|&at| counts[at]).sum::<usize>(), 100_003);
    }

    #[test]
    fn fractions_make_up_the_total() {
        let parts =
            [("a", Target::Fraction(0.7)), ("b", Target::Fraction(0.2)), ("c", Target::Fraction(0.1))];
        for total in [7, 101, 7801, 234_143] {
            assert_eq!(sizes(&parts, total).unwrap().iter().sum::<usize>(), total);
        }
        let cases: [(&[(&str, Target)], &str); 6] = [
            (&[("a", Target::Examples(3))], "sum to 3 of 10"),
            (&[("a", Target::Examples(11)), ("b", Target::Rest)], "sum to 11 of 10"),
            (&[("a", Target::Fraction(1.5))], "asks for 1.5"),
            (&[("a", Target::Fraction(f64::NAN))], "asks for NaN"),
            (&[("a", Target::Rest), ("b", Target::Rest)], "more than one"),
            (&[], "no part"),
        ];
        for (parts, want) in cases {
            let message = sizes(parts, 10).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
    }
}
