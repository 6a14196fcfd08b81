//! The four parts of an experiment's dialogues, written one way and labelled.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use persona_data::{
    Dialogue, EntailedPairs, Example, ExampleOptions, PalParts, RecordList, Speaker, Target, open,
};
use serde::{Deserialize, Serialize};

use super::contractions::{apart, description};
use super::recipe::{ExperimentData, ExperimentRecipe};
use crate::data::{loader_notes, sample};
use crate::judge::{Judge, judge_dialogues};
use crate::workspace::digest;

/// The parts' names.
pub(super) const PARTS: [&str; 4] = ["train", "valid1", "choose", "test"];

/// The dialogues in their parts, with contractions written apart. Turns without labels have none yet.
#[derive(Debug)]
pub(super) struct Parts {
    /// Training, pairs, choosing, test: in the order of [`PARTS`].
    pub dialogues: [Vec<Dialogue>; 4],
    /// The test dialogues with revised personas.
    pub revised: Option<Vec<Dialogue>>,
    /// Which dialogue is in which part.
    pub split: RecordList,
    /// Named facts for the report.
    pub facts: Vec<(String, String)>,
}

/// Labels of every turn of some dialogues, as [`Turn::relevant`](persona_data::Turn::relevant).
pub(super) type Labels = Vec<Vec<Option<Vec<usize>>>>;

/// Reads, writes contractions one way, labels the training turns that the file of labels knows, and divides.
///
/// # Errors
/// The loaders' and the split's, with the file; when the revised file does not fit the other one.
pub(super) fn load(recipe: &ExperimentRecipe) -> Result<Parts> {
    let data = &recipe.data;
    let mut facts = Vec::new();
    let mut changed = [0, 0];
    let mut read = |path: &Path| -> Result<Vec<Dialogue>> {
        let mut dialogues = read_file(&data.folder.join(path), &mut facts)?;
        write_one_way(&mut dialogues, &mut changed);
        Ok(dialogues)
    };
    let mut train = read(&data.train)?;
    let valid = data.valid.as_ref().map(|valid| read(valid)).transpose()?;
    let revised = data.revised.as_ref().map(|revised| read(revised)).transpose()?;
    let [texts, all] = changed;
    facts.push((
        "contractions".to_owned(),
        format!(
            "written apart everywhere (i'm is i am), in data, replies and personas: {texts} of {all} texts changed"
        ),
    ));
    if let Some(labels) = &data.train_labels {
        facts.push(label_by_file(&mut train, &data.folder.join(labels))?);
    }
    let (dialogues, revised, split) = match valid {
        Some(valid) => divide(data, train, valid, revised)?,
        None => {
            let targets = data.parts.context("`data.parts` is missing, as is `data.valid`")?;
            let (parts, split) = PalParts::from_one(train, targets, &data.examples, data.seed)?;
            ([parts.train, parts.valid1, parts.valid2, parts.test], None, split)
        }
    };
    for (name, dialogues) in PARTS.iter().zip(&dialogues) {
        let examples: usize = dialogues.iter().map(|dialogue| dialogue.example_count(&data.examples)).sum();
        ensure!(examples > 0, "the part {name} has no examples; give it more dialogues");
        facts.push((format!("part {name}"), format!("{} dialogues, {examples} examples", dialogues.len())));
    }
    Ok(Parts { dialogues, revised, split, facts })
}

type Divided = ([Vec<Dialogue>; 4], Option<Vec<Dialogue>>, RecordList);

/// Valid#1 and Valid#2 by the saved list, and Valid#2 once more into what is chosen on and the test part.
fn divide(
    data: &ExperimentData,
    train: Vec<Dialogue>,
    valid: Vec<Dialogue>,
    revised: Option<Vec<Dialogue>>,
) -> Result<Divided> {
    let list = match &data.split {
        Some(path) => RecordList::load(data.folder.join(path))?,
        None => RecordList::persona_chat_valid()?,
    };
    let names: Vec<&str> = list.parts.iter().map(|part| part.name.as_str()).collect();
    ensure!(names == ["valid1", "valid2"], "the split has the parts {names:?}, not valid1 and valid2");
    let revised = revised.map(|revised| with_personas_of(&valid, revised)).transpose()?;
    let halves = |dialogues: Vec<Dialogue>| -> Result<(Vec<Dialogue>, Vec<Dialogue>)> {
        let mut parts = list.divide_in_order(dialogues).context("the validation dialogues")?.into_iter();
        Ok((parts.next().unwrap_or_default(), parts.next().unwrap_or_default()))
    };
    let (valid1, valid2) = halves(valid)?;
    let targets = [("choose", Target::Fraction(data.choose)), ("test", Target::Rest)];
    let mut split = RecordList::draw(&valid2, &targets, &data.examples, data.seed)?;
    let two = |list: &RecordList, dialogues| -> Result<(Vec<Dialogue>, Vec<Dialogue>)> {
        let mut parts = list.apply(dialogues)?.into_iter();
        Ok((parts.next().unwrap_or_default(), parts.next().unwrap_or_default()))
    };
    let revised = revised.map(|revised| Ok::<_, anyhow::Error>(two(&split, halves(revised)?.1)?.1));
    let (choose, test) = two(&split, valid2)?;
    split.parts.splice(0..0, list.parts.into_iter().filter(|part| part.name == "valid1"));
    Ok(([train, valid1, choose, test], revised.transpose()?, split))
}

/// The dialogues with the personas of the revised file, whose dialogues stand in the same order.
fn with_personas_of(dialogues: &[Dialogue], revised: Vec<Dialogue>) -> Result<Vec<Dialogue>> {
    let (count, others) = (dialogues.len(), revised.len());
    ensure!(count == others, "`data.revised` has {others} dialogues, and `data.valid` {count}");
    let replies = |dialogue: &Dialogue| -> usize {
        dialogue.turns.iter().filter(|turn| turn.speaker == Speaker::Two).count()
    };
    let both = dialogues.iter().zip(revised);
    both.map(|(dialogue, other)| {
        let (old, new) = (dialogue.persona(Speaker::Two), other.persona(Speaker::Two));
        ensure!(
            old.len() == new.len() && replies(dialogue) == replies(&other),
            "dialogue {:?} of `data.revised` has {} descriptions and {} replies, and {:?} of `data.valid`, at the \
             same place, {} and {}: they are not the same dialogues in the same order",
            other.id,
            new.len(),
            replies(&other),
            dialogue.id,
            old.len(),
            replies(dialogue)
        );
        Ok(Dialogue { personas: other.personas, ..dialogue.clone() })
    })
    .collect()
}

fn read_file(path: &Path, facts: &mut Vec<(String, String)>) -> Result<Vec<Dialogue>> {
    let mut stream = open(path, None).with_context(|| {
        format!("opening {}; give the folder of the data with --data, or `data.folder`", path.display())
    })?;
    let dialogues = stream.by_ref().collect::<persona_data::Result<Vec<_>>>()?;
    // The file's name alone: a report is the same wherever the data lie.
    let name = path.file_name().map_or(path, Path::new);
    facts.extend(loader_notes(name, stream.notes()));
    Ok(dialogues)
}

fn write_one_way(dialogues: &mut [Dialogue], [changed, all]: &mut [usize; 2]) {
    let mut set = |text: &mut String, new: String| {
        *all += 1;
        *changed += usize::from(*text != new);
        *text = new;
    };
    for dialogue in dialogues {
        for text in dialogue.personas.iter_mut().flatten() {
            let new = description(text);
            set(text, new);
        }
        for turn in &mut dialogue.turns {
            let new = apart(&turn.text);
            set(&mut turn.text, new);
        }
    }
}

/// Labels the second speaker's turns of every dialogue of which the file holds a reply: what it does not list with a reply
/// is not entailed. Other dialogues stay as they are.
fn label_by_file(dialogues: &mut [Dialogue], path: &Path) -> Result<(String, String)> {
    let pairs = EntailedPairs::open(path)
        .with_context(|| format!("`data.train_labels`: opening {}", path.display()))?;
    let mut known: HashSet<(String, String)> = HashSet::new();
    for pair in pairs {
        let (text, reply) = pair?;
        known.insert((description(&text), apart(&reply)));
    }
    let (mut labelled, mut described, mut left) = (0, 0, 0);
    for dialogue in dialogues.iter_mut() {
        let persona = dialogue.persona(Speaker::Two).to_vec();
        let follows = |reply: &str| -> Vec<usize> {
            let entailed = persona.iter().enumerate();
            let entailed = entailed.filter(|(_, text)| known.contains(&((*text).clone(), reply.to_owned())));
            entailed.map(|(at, _)| at).collect()
        };
        let replies = || dialogue.turns.iter().filter(|turn| turn.speaker == Speaker::Two);
        let labels: Vec<Vec<usize>> = replies().map(|turn| follows(&turn.text)).collect();
        if labels.iter().all(Vec::is_empty) {
            left += 1;
            continue;
        }
        let replies = dialogue.turns.iter_mut().filter(|turn| turn.speaker == Speaker::Two);
        for (turn, label) in replies.zip(labels) {
            labelled += 1;
            described += usize::from(!label.is_empty());
            turn.relevant = Some(label);
        }
    }
    ensure!(labelled > 0, "{} knows no reply of the training dialogues", path.display());
    let none = 100.0 * (1.0 - described as f64 / labelled as f64);
    let fact = format!("{labelled} turns by the file, 'none' {none:.1} %; {left} dialogues are not in it");
    Ok(("training labels".to_owned(), fact))
}

impl Parts {
    /// Whether a turn that becomes a response has no label.
    #[must_use]
    pub(super) fn lacks_labels(&self, options: &ExampleOptions) -> bool {
        let mut dialogues = self.dialogues.iter().flatten();
        dialogues.any(|dialogue| dialogue.examples(options).iter().any(|example| example.relevant.is_none()))
    }

    /// How many test examples there are before any is drawn or left out.
    pub(super) fn test_examples(&self, options: &ExampleOptions) -> usize {
        let [.., test] = &self.dialogues;
        test.iter().map(|dialogue| dialogue.examples(options).len()).sum()
    }

    /// Labels by the judge for all dialogues, in the parts' order; turns that have labels keep them. The second value is a
    /// fact.
    ///
    /// # Errors
    /// The judge's.
    pub(super) fn judged(&self, judge: &Judge, recipe: &ExperimentRecipe) -> Result<(Labels, String)> {
        let mut dialogues: Vec<Dialogue> = self.dialogues.iter().flatten().cloned().collect();
        let (report, _) = judge_dialogues(judge, &mut dialogues, recipe.judge.rule).context("labelling")?;
        let labels = dialogues
            .into_iter()
            .map(|dialogue| dialogue.turns.into_iter().map(|turn| turn.relevant).collect::<Vec<_>>());
        let fact = format!(
            "{} turns by the judge, 'none' {:.1} %; {} turns had labels",
            report.labelled,
            100.0 * report.none_share(),
            report.kept
        );
        Ok((labels.collect(), fact))
    }

    /// Puts labels of [`judged`](Self::judged) in their places.
    ///
    /// # Errors
    /// When they are those of other dialogues.
    pub(super) fn set_labels(&mut self, labels: Labels) -> Result<()> {
        let count: usize = self.dialogues.iter().map(Vec::len).sum();
        ensure!(labels.len() == count, "labels of {} dialogues for {count}", labels.len());
        let mut labels = labels.into_iter();
        for dialogue in self.dialogues.iter_mut().flatten() {
            let turns = labels.next().unwrap_or_default();
            ensure!(turns.len() == dialogue.turns.len(), "labels of another dialogue than {:?}", dialogue.id);
            for (turn, label) in dialogue.turns.iter_mut().zip(turns) {
                turn.relevant = label;
            }
        }
        // The revised descriptions stand at the places of those that they are written from.
        let test = self.dialogues.last().map(Vec::as_slice).unwrap_or_default();
        for (revised, dialogue) in self.revised.iter_mut().flatten().zip(test) {
            revised.turns.clone_from(&dialogue.turns);
        }
        Ok(())
    }

    /// What each part, and last the revised one, is known by: its dialogues, how they are cut and how many are drawn.
    ///
    /// # Errors
    /// Never of these types.
    pub(super) fn keys(&self, recipe: &ExperimentRecipe) -> Result<[String; 5]> {
        let (sizes, data) = (recipe.sizes, &recipe.data);
        let key = |dialogues: &Vec<Dialogue>, size: Option<usize>, skip: usize| {
            let made_from = (dialogues, &data.examples, size, data.seed);
            if skip > 0 { digest(&(made_from, skip)) } else { digest(&made_from) }
        };
        let [train, valid1, choose, test] = &self.dialogues;
        Ok([
            key(train, sizes.train, 0)?,
            key(valid1, sizes.pairs, 0)?,
            key(choose, sizes.choose, 0)?,
            key(test, sizes.test, sizes.test_skip)?,
            key(self.revised.as_ref().unwrap_or(test), sizes.test, sizes.test_skip)?,
        ])
    }

    /// The drawn examples of each part, and those of the test part with revised personas.
    #[must_use]
    pub(super) fn drawn(&self, recipe: &ExperimentRecipe) -> Drawn {
        let (sizes, data) = (recipe.sizes, &recipe.data);
        let draw = |dialogues: &[Dialogue], size: Option<usize>, skip: usize| {
            let all: Vec<Example> =
                dialogues.iter().flat_map(|dialogue| dialogue.examples(&data.examples)).collect();
            let mut drawn =
                sample(&all, size.map_or(usize::MAX, |size| size.saturating_add(skip)), data.seed);
            drawn.drain(..skip.min(drawn.len()));
            drawn
        };
        let draw_test = |dialogues: &[Dialogue]| draw(dialogues, sizes.test, sizes.test_skip);
        let [train, valid1, choose, test] = &self.dialogues;
        Drawn {
            train: draw(train, sizes.train, 0),
            valid1: draw(valid1, sizes.pairs, 0),
            choose: draw(choose, sizes.choose, 0),
            test: draw_test(test),
            revised: self.revised.as_ref().map(|revised| draw_test(revised)),
        }
    }
}

/// The examples that an experiment uses.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Drawn {
    /// What is trained on.
    pub train: Vec<Example>,
    /// What is made into pairs.
    pub valid1: Vec<Example>,
    /// What is evaluated on while training.
    pub choose: Vec<Example>,
    /// What every system replies to.
    pub test: Vec<Example>,
    /// The same with revised personas.
    pub revised: Option<Vec<Example>>,
}
