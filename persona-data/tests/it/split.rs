//! Parts that never share a dialogue.

use std::collections::HashSet;

use persona_data::{Dialogue, Error, ExampleOptions, PalParts, RecordList, Speaker, Target, Turn};
use proptest::prelude::*;

/// A dialogue with so many examples of the second speaker.
fn dialogue(id: String, examples: usize) -> Dialogue {
    let exchange = [Turn::new(Speaker::One, "u"), Turn::new(Speaker::Two, "r")];
    Dialogue {
        id,
        personas: Default::default(),
        turns: exchange.iter().cycle().take(2 * examples).cloned().collect(),
    }
}

fn set(name: &str, dialogues: usize) -> Vec<Dialogue> {
    (0..dialogues).map(|at| dialogue(format!("{name}-{at}"), 5 + at * 7 % 4)).collect()
}

fn ids(dialogues: &[Dialogue]) -> Vec<String> {
    dialogues.iter().map(|dialogue| dialogue.id.clone()).collect()
}

const FOUR: [Target; 4] = [Target::Rest, Target::Fraction(0.2), Target::Fraction(0.05), Target::Examples(60)];

#[test]
fn the_same_seed_gives_the_same_parts_and_another_others() {
    let options = ExampleOptions::default();
    let (parts, list) = PalParts::from_one(set("d", 100), FOUR, &options, 7).unwrap();
    assert_eq!((parts.clone(), list.clone()), PalParts::from_one(set("d", 100), FOUR, &options, 7).unwrap());
    let other = PalParts::from_one(set("d", 100), FOUR, &options, 8).unwrap().0;
    assert_ne!(ids(&parts.test), ids(&other.test));
    assert_eq!(list.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), PalParts::NAMES);
    let total: usize = set("d", 100).iter().map(|d| d.example_count(&options)).sum();
    assert_eq!(list.parts.iter().map(|part| part.examples).sum::<usize>(), total);
    assert_eq!(list.parts[3].examples, 60);
    assert_eq!(list.parts[1].examples, (0.2 * total as f64).round() as usize);
}

#[test]
fn only_valid_is_divided_where_the_sets_are_given() {
    let options = ExampleOptions::default();
    let sets = || [set("train", 30), set("valid", 40), set("test", 20)];
    let (parts, list) =
        PalParts::from_sets(sets(), [Target::Examples(211), Target::Rest], &options, 1).unwrap();
    assert_eq!(ids(&parts.train), ids(&sets()[0]));
    assert_eq!(ids(&parts.test), ids(&sets()[2]));
    assert_eq!(list.parts[1].examples, 211);
    let valid: HashSet<String> = ids(&sets()[1]).into_iter().collect();
    let drawn: HashSet<String> = ids(&parts.valid1).into_iter().chain(ids(&parts.valid2)).collect();
    assert_eq!(drawn, valid);
    // An id in two sets would make a dialogue shared.
    let error = PalParts::from_sets(
        [set("d", 3), set("d", 3), set("e", 3)],
        [Target::Examples(5), Target::Rest],
        &options,
        1,
    );
    let message = error.unwrap_err().to_string();
    assert!(message.contains("\"d-0\": train, dialogue 1 and valid, dialogue 1"), "{message}");
    assert!(message.contains("in different folders"), "{message}");
}

#[test]
fn a_saved_list_gives_the_same_parts() {
    let (parts, list) = PalParts::from_one(set("d", 50), FOUR, &ExampleOptions::default(), 3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("parts.json");
    list.save(&path).unwrap();
    let loaded = RecordList::load(&path).unwrap();
    assert_eq!(loaded, list);
    assert_eq!(PalParts::from_list(set("d", 50), &loaded).unwrap(), parts);

    std::fs::write(&path, "{\n  \"seed\": 3,\n  \"parts\": [],\n  \"more\": 1\n}").unwrap();
    let message = RecordList::load(&path).unwrap_err().to_string();
    assert!(message.contains("parts.json:4: unknown field `more`"), "{message}");
    assert!(matches!(RecordList::load(folder.path().join("none.json")), Err(Error::Open { .. })));
}

#[test]
fn a_list_of_other_data_is_refused() {
    let (_, list) = PalParts::from_one(set("d", 50), FOUR, &ExampleOptions::default(), 3).unwrap();
    let problem = |dialogues: Vec<Dialogue>, list: &RecordList| {
        PalParts::from_list(dialogues, list).unwrap_err().to_string()
    };

    let message = problem(set("d", 51), &list);
    assert!(message.contains("dialogue \"d-50\" is in none of its parts"), "{message}");
    let message = problem(set("d", 49), &list);
    assert!(
        message.contains("it names dialogue \"d-49\" (and 0 more), which the data do not have"),
        "{message}"
    );
    let mut grown = set("d", 50);
    grown[0] = dialogue("d-0".into(), 30);
    assert!(problem(grown, &list).contains("have the data changed?"));
    let mut twice = list.clone();
    let id = twice.parts[0].dialogues[0].clone();
    twice.parts[1].dialogues.push(id);
    assert!(problem(set("d", 50), &twice).contains("twice"));
    let mut three = list.clone();
    three.parts.pop();
    assert!(problem(set("d", 50), &three).contains("its parts are"));
    let mut doubled = set("d", 50);
    doubled.extend(set("d", 1));
    let message = list.apply(doubled).unwrap_err().to_string();
    assert!(message.contains("\"d-0\": dialogue 1 and dialogue 51"), "{message}");
}

#[test]
fn parts_that_cannot_be_made_are_errors() {
    let options = ExampleOptions::default();
    let draw = |parts: &[(&str, Target)]| {
        RecordList::draw(&set("d", 4), parts, &options, 0).unwrap_err().to_string()
    };
    assert!(draw(&[("a", Target::Examples(9999)), ("b", Target::Rest)]).contains("sum to 9999 of"));
    assert!(draw(&[("a", Target::Rest), ("a", Target::Examples(5))]).contains("same name"));
    assert!(draw(&[("a", Target::Examples(1)), ("b", Target::Rest)]).contains("\"a\" would get no dialogue"));
    assert!(draw(&[("a", Target::Given), ("b", Target::Rest)]).contains("no target"));
    let empty = RecordList::draw(&[], &[("a", Target::Rest)], &options, 0).unwrap_err().to_string();
    assert!(empty.contains("nothing to split"), "{empty}");
}

proptest! {
    #[test]
    fn no_dialogue_is_shared_or_lost(sizes in prop::collection::vec(1_usize..30, 20..80), seed: u64) {
        let dialogues: Vec<Dialogue> =
            sizes.iter().enumerate().map(|(at, &size)| dialogue(format!("d{at}"), size)).collect();
        let targets = [("a", Target::Fraction(0.5)), ("b", Target::Fraction(0.3)), ("c", Target::Fraction(0.2))];
        let list = RecordList::draw(&dialogues, &targets, &ExampleOptions::default(), seed).unwrap();
        let named: Vec<&String> = list.parts.iter().flat_map(|part| &part.dialogues).collect();
        let distinct: HashSet<&String> = named.iter().copied().collect();
        prop_assert_eq!(distinct.len(), named.len());
        prop_assert_eq!(named.len(), dialogues.len());
        let parts = list.apply(dialogues).unwrap();
        for (part, members) in list.parts.iter().zip(&parts) {
            prop_assert_eq!(&part.dialogues, &ids(members));
        }
    }
}
