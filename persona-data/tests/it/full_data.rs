//! The counts of the published files, where `PERSONA_DATA_DIR` names a folder with `personachat_en`,
//! `synthetic_persona_chat` and `xpersona` in it.

use std::path::PathBuf;

use persona_data::{
    Dialogue, EntailedPairs, Example, ExampleOptions, Format, NliLabel, Notes, OverlapLabeller, PalParts,
    PalRecords, PersonaScore, PersonaScores, RecordList, Responder, Speaker, Target, label_dialogues, open,
};

/// The file, or `None` with a word about it where it is not there.
fn file(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PERSONA_DATA_DIR").map(|folder| PathBuf::from(folder).join(name));
    let found = path.filter(|path| path.is_file());
    if found.is_none() {
        println!("passed over: no {name} under PERSONA_DATA_DIR");
    }
    found
}

fn load(name: &str, format: Format) -> Option<(Vec<Dialogue>, Notes)> {
    let mut dialogues = open(file(name)?, None).unwrap();
    assert_eq!(dialogues.format(), format, "{name}");
    let all = dialogues.by_ref().map(|dialogue| dialogue.unwrap()).collect();
    Some((all, dialogues.notes()))
}

/// Turns of a speaker.
fn turns(dialogues: &[Dialogue], speaker: Speaker) -> usize {
    dialogues.iter().flat_map(|dialogue| &dialogue.turns).filter(|turn| turn.speaker == speaker).count()
}

fn examples(dialogues: &[Dialogue], responder: Responder) -> usize {
    let options = ExampleOptions { responder, history_turns: None, openings: false };
    dialogues.iter().map(|dialogue| dialogue.example_count(&options)).sum()
}

#[test]
fn persona_chat() {
    for (name, dialogues) in [
        ("valid_self_original_no_cands.txt", 1000),
        ("valid_self_revised_no_cands.txt", 1000),
        ("valid_both_original_no_cands.txt", 1000),
        ("valid_both_revised_no_cands.txt", 1000),
        ("valid_other_original_no_cands.txt", 1000),
        ("test_self_original_cands_67dialogs.txt", 67),
    ] {
        let Some((all, notes)) = load(&format!("personachat_en/{name}"), Format::Parlai) else { continue };
        let responses = if dialogues == 67 { 524 } else { 7801 };
        assert_eq!((all.len(), turns(&all, Speaker::Two)), (dialogues, responses), "{name}");
        assert_eq!(examples(&all, Responder::Two), responses, "{name}");
        assert_eq!(notes, Notes::default(), "{name}");
        for (speaker, there) in [(Speaker::One, "other"), (Speaker::Two, "self")] {
            let given = name.contains("both") || name.contains(there);
            assert!(all.iter().all(|dialogue| dialogue.persona(speaker).is_empty() != given), "{name}");
        }
        let candidates =
            all.iter().flat_map(|dialogue| &dialogue.turns).map(|turn| turn.candidates.len()).sum::<usize>();
        assert_eq!(candidates, if dialogues == 67 { 20 * 524 } else { 0 }, "{name}");
    }
}

#[test]
fn synthetic_persona_chat() {
    // Name, format; dialogues, utterances, utterances after a dialogue's first, of these by the second speaker, empty and
    // doubled dialogues. The last utterance of one training dialogue is blank: an utterance, and no example.
    for (name, format, want) in [
        ("spc_train.jsonl", Format::SpcJsonl, [8938, 243_045, 234_143, 119_502, 36, 160]),
        ("Synthetic-Persona-Chat_valid.csv", Format::SpcCsv, [1000, 27_704, 26_707, 13_636, 3, 23]),
        ("Synthetic-Persona-Chat_test.csv", Format::SpcCsv, [968, 26_517, 25_552, 13_029, 3, 18]),
        ("spc_new_personas.jsonl", Format::SpcJsonl, [11_001, 191_592, 180_591, 93_513, 0, 28]),
    ] {
        let Some((all, _)) = load(&format!("synthetic_persona_chat/{name}"), format) else { continue };
        let doubled = |d: &&Dialogue| d.turns.windows(2).any(|pair| pair[0].speaker == pair[1].speaker);
        let after_first = || all.iter().flat_map(|dialogue| dialogue.turns.iter().skip(1));
        let by_two = after_first().filter(|turn| turn.speaker == Speaker::Two).count();
        let blank = usize::from(name == "spc_train.jsonl");
        assert_eq!(examples(&all, Responder::Both) + blank, after_first().count(), "{name}");
        assert_eq!(examples(&all, Responder::Two) + blank, by_two, "{name}");
        let got = [
            all.len(),
            turns(&all, Speaker::One) + turns(&all, Speaker::Two),
            after_first().count(),
            by_two,
            all.iter().filter(|dialogue| dialogue.turns.is_empty()).count(),
            all.iter().filter(doubled).count(),
        ];
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn xpersona() {
    for (name, dialogues, responses, silences) in [
        ("En_persona_valid.json", 1000, 7316, 1000),
        ("En_persona_test.json", 1000, 7801, 0),
        ("Zh_persona_split_valid_human_annotated.json", 222, 1720, 0),
        ("Zh_persona_split_test_human_annotated.json", 222, 1729, 0),
        ("Jp_persona_split_valid_human_annotated.json", 275, 2139, 0),
        ("Jp_persona_split_test_human_annotated.json", 275, 2161, 0),
    ] {
        let Some((all, notes)) = load(&format!("xpersona/{name}"), Format::Xpersona) else { continue };
        assert_eq!((all.len(), turns(&all, Speaker::Two)), (dialogues, responses), "{name}");
        assert_eq!(notes.silences, silences, "{name}");
        // A response to silence is the dialogue's first turn: an example only where openings are.
        assert_eq!(examples(&all, Responder::Two), responses - usize::try_from(silences).unwrap(), "{name}");
        let openings = ExampleOptions { openings: true, ..ExampleOptions::default() };
        let with_openings = all.iter().flat_map(|dialogue| dialogue.examples(&openings));
        assert_eq!(with_openings.count(), responses, "{name}");
    }
}

#[test]
fn pal_records() {
    for (name, dialogues, none, more) in [
        ("valid_output", 1000, 4854, [2583, 329, 34, 1]),
        ("test_output", 968, 5022, [2267, 201, 21, 1]),
        ("valid_output-wo-th", 1000, 3818, [0; 4]),
        ("test_output-wo-th", 968, 3979, [0; 4]),
    ] {
        let name = format!("personachat_en/pal_format/{name}");
        let Some(path) = file(&name) else { continue };
        let records: Vec<Example> = PalRecords::open(path).unwrap().map(|record| record.unwrap()).collect();
        assert_eq!(records.len(), if dialogues == 1000 { 7801 } else { 7512 }, "{name}");
        let with = |count: usize| {
            records.iter().filter(|record| record.relevant.as_ref().map(Vec::len) == Some(count)).count()
        };
        assert_eq!(with(0), none, "{name}");
        if more[0] > 0 {
            assert_eq!([1, 2, 3, 4].map(with), more, "{name}");
        }
        let (all, notes) = load(&name, Format::Pal).unwrap();
        assert_eq!((all.len(), notes.fragments), (dialogues, 0), "{name}");
        // Cut again under PAL's window, the dialogues give the records.
        let again = all.iter().flat_map(|dialogue| dialogue.examples(&ExampleOptions::default()));
        for (record, again) in records.iter().zip(again) {
            assert_eq!((&record.history, &record.response), (&again.history, &again.response), "{name}");
            assert_eq!(record.relevant, again.relevant, "{name}");
        }
        assert_eq!(examples(&all, Responder::Two), records.len(), "{name}");
    }
}

#[test]
fn derived() {
    for (name, dialogues, responses, silences) in [
        ("derived_valid_dialogues.jsonl", 1000, 7801, 0),
        ("derived_test_dialogues.jsonl", 968, 7512, 0),
        ("derived_convai2_train_subset.jsonl", 2356, 17_316, 1000),
    ] {
        let Some((all, notes)) = load(&format!("personachat_en/{name}"), Format::Derived) else { continue };
        assert_eq!(
            (all.len(), turns(&all, Speaker::Two), notes.silences),
            (dialogues, responses, silences),
            "{name}"
        );
    }
    let pal = load("personachat_en/pal_format/valid_output", Format::Pal);
    let derived = load("personachat_en/derived_valid_dialogues.jsonl", Format::Derived);
    if let (Some((pal, _)), Some((derived, _))) = (pal, derived) {
        for (pal, derived) in pal.iter().zip(&derived) {
            assert_eq!((&pal.personas, &pal.turns), (&derived.personas, &derived.turns));
        }
    }
}

#[test]
fn pals_parts_have_pals_sizes() {
    let Some((valid, _)) = load("personachat_en/valid_self_original_no_cands.txt", Format::Parlai) else {
        return;
    };
    let sets = [Vec::new(), valid, Vec::new()];
    let (parts, list) = PalParts::from_sets(sets, PalParts::PAPER, &ExampleOptions::default(), 0).unwrap();
    assert_eq!(list.parts.iter().map(|part| part.examples).collect::<Vec<_>>(), [0, 6500, 1301, 0]);
    assert_eq!(parts.valid1.len() + parts.valid2.len(), 1000);
    assert_eq!(list.parts[1].target, Target::Examples(6500));
}

#[test]
fn the_saved_split_is_the_draw() {
    let Some((mut valid, _)) = load("personachat_en/valid_self_original_no_cands.txt", Format::Parlai) else {
        return;
    };
    let saved = RecordList::persona_chat_valid().unwrap();
    let sizes = saved.divide_in_order(valid.clone()).unwrap().iter().map(Vec::len).sum::<usize>();
    assert_eq!(sizes, 1000);
    for (at, dialogue) in valid.iter_mut().enumerate() {
        dialogue.id = format!("valid-{:05}", at + 1);
    }
    let [valid1, valid2] = PalParts::PAPER;
    let parts = [("valid1", valid1), ("valid2", valid2)];
    let drawn = RecordList::draw(&valid, &parts, &ExampleOptions::default(), 1).unwrap();
    assert_eq!(drawn, saved);
}

#[test]
fn published_judgements() {
    let Some(path) = file("personachat_en/pal_format/valid_persona_nli_scores.tsv") else { return };
    let scores: Vec<PersonaScore> = PersonaScores::open(path).unwrap().map(|score| score.unwrap()).collect();
    let with = |label| scores.iter().filter(|score| score.label == label).count();
    assert_eq!(NliLabel::ALL.map(with), [483, 29_556, 4900]);
    assert_eq!(scores.last().unwrap().dialogue, 998, "the last dialogue has none");
    let Some(path) = file("personachat_en/pal_format/train_entailed_sentences.json") else { return };
    let pairs: Vec<(String, String)> = EntailedPairs::open(path).unwrap().map(|pair| pair.unwrap()).collect();
    assert_eq!(pairs.len(), 39_147);
}

/// The share of the second speaker's replies that draw on no description.
fn none_share(mut dialogues: Vec<Dialogue>) -> f64 {
    let labeller = OverlapLabeller::fit(&dialogues).unwrap();
    label_dialogues(&mut dialogues, &labeller).unwrap();
    let examples = dialogues.iter().flat_map(|dialogue| dialogue.examples(&ExampleOptions::default()));
    let relevant: Vec<Vec<usize>> = examples.filter_map(|example| example.relevant).collect();
    relevant.iter().filter(|relevant| relevant.is_empty()).count() as f64 / relevant.len() as f64
}

#[test]
fn overlap_labels_leave_about_half_of_the_replies_without() {
    for (name, format, range) in [
        ("personachat_en/valid_self_original_no_cands.txt", Format::Parlai, 0.4..0.6),
        ("personachat_en/derived_convai2_train_subset.jsonl", Format::Derived, 0.4..0.6),
        ("xpersona/Zh_persona_split_valid_human_annotated.json", Format::Xpersona, 0.4..0.6),
        ("xpersona/Jp_persona_split_valid_human_annotated.json", Format::Xpersona, 0.4..0.6),
        // Two replies in three share no word of content with their speaker's persona.
        ("synthetic_persona_chat/spc_train.jsonl", Format::SpcJsonl, 0.6..0.7),
    ] {
        let Some((all, _)) = load(name, format) else { continue };
        let share = none_share(all);
        println!("{name}: {share:.3}");
        assert!(range.contains(&share), "{name}: {share}");
    }
}
