//! Every format, on excerpts of the published files.

use std::io::{Cursor, Write};

use persona_data::{
    Dialogue, Example, ExampleOptions, Format, PalRecords, Responder, Role, Speaker, Turn, open, read,
    write_jsonl,
};

use crate::fixture;

/// Dialogues of a fixture whose format is found out from its text.
fn load(name: &str, format: Format) -> Vec<Dialogue> {
    let dialogues = open(fixture(name), None).unwrap();
    assert_eq!(dialogues.format(), format);
    dialogues.map(|dialogue| dialogue.unwrap()).collect()
}

fn turns(dialogues: &[Dialogue]) -> Vec<usize> {
    dialogues.iter().map(|dialogue| dialogue.turns.len()).collect()
}

#[test]
fn parlai_self() {
    let dialogues = load("personachat_self_original.txt", Format::Parlai);
    assert_eq!(turns(&dialogues), [16, 14, 14]);
    let first = &dialogues[0];
    assert_eq!(first.id, "personachat_self_original-00001");
    assert_eq!(first.persona(Speaker::One), [] as [String; 0]);
    assert_eq!(
        first.persona(Speaker::Two),
        [
            "i read twenty books a year.",
            "i'm a stunt double as my second job.",
            "i only eat kosher.",
            "i was raised in a single parent household."
        ]
    );
    assert_eq!(first.turns[0], Turn::new(Speaker::One, "hello what are doing today ?"));
    assert_eq!(first.turns[3].text, "i rather read , i've read about 20 books this year .");
    assert_eq!(first.turns[3].speaker, Speaker::Two);
}

#[test]
fn parlai_other_and_both() {
    let other = load("personachat_other_original.txt", Format::Parlai);
    let both = load("personachat_both_revised.txt", Format::Parlai);
    for (other, both) in other.iter().zip(&both) {
        assert!(other.persona(Speaker::Two).is_empty() && !other.persona(Speaker::One).is_empty());
        assert!(!both.persona(Speaker::One).is_empty() && !both.persona(Speaker::Two).is_empty());
        // The two editions differ in their contractions ("i have", "i've").
        assert_eq!(other.turns.len(), both.turns.len());
        assert_eq!(other.turns[0], both.turns[0]);
    }
    assert_eq!(other[0].persona(Speaker::One)[0], "horror movies are my favorites.");
}

#[test]
fn parlai_without_personas() {
    let text = "1 hi .\thello .\n2 bye .\tbye .\n1 hi again .\thello again .\n";
    let dialogues = read(Cursor::new(text), "none.txt", Format::Parlai).unwrap();
    let dialogues: Vec<Dialogue> = dialogues.map(|dialogue| dialogue.unwrap()).collect();
    assert_eq!(turns(&dialogues), [4, 2]);
    assert_eq!(dialogues[0].personas, [Vec::<String>::new(), Vec::new()]);
}

#[test]
fn parlai_candidates() {
    let dialogues = load("personachat_self_original_candidates.txt", Format::Parlai);
    assert_eq!(dialogues.len(), 2);
    for turn in dialogues.iter().flat_map(|dialogue| &dialogue.turns) {
        match turn.speaker {
            Speaker::One => assert!(turn.candidates.is_empty()),
            Speaker::Two => {
                assert_eq!(turn.candidates.len(), 20);
                assert_eq!(turn.candidates.last(), Some(&turn.text));
            }
        }
    }
}

#[test]
fn parlai_silence_is_left_out_and_counted() {
    let text = "1 your persona: i sail.\n2 __SILENCE__\tahoy .\n3 hi .\thi .\n";
    let mut dialogues = read(Cursor::new(text), "silence.txt", Format::Parlai).unwrap();
    let dialogue = dialogues.next().unwrap().unwrap();
    assert_eq!(dialogue.turns[0], Turn::new(Speaker::Two, "ahoy ."));
    assert_eq!(dialogue.turns.len(), 3);
    assert_eq!(dialogues.notes().silences, 1);
    let replies = |options: &ExampleOptions| -> Vec<(usize, String)> {
        let examples = dialogue.examples(options);
        assert_eq!(examples.len(), dialogue.example_count(options));
        examples.into_iter().map(|example| (example.history.len(), example.response)).collect()
    };
    let options = ExampleOptions::default();
    assert_eq!(replies(&options), [(2, "hi .".to_owned())]);
    let openings = ExampleOptions { openings: true, ..options };
    assert_eq!(replies(&openings), [(0, "ahoy .".to_owned()), (2, "hi .".to_owned())]);
}

#[test]
fn spc_csv() {
    let mut dialogues = open(fixture("synthetic_persona_chat.csv"), Format::SpcCsv).unwrap();
    let all: Vec<Dialogue> = dialogues.by_ref().map(|dialogue| dialogue.unwrap()).collect();
    assert_eq!(turns(&all), [25, 39, 14, 21, 0]);
    assert_eq!(dialogues.notes().stray_lines, 25 + 14);
    assert_eq!(all[0].personas[0][1], "I have a dogs.");
    assert_eq!(all[0].personas[1].len(), 4);
    assert_eq!(all[0].turns[2], Turn::new(Speaker::One, "What is your favorite thing to do?"));
    // Placeholders stay.
    assert_eq!(all[1].turns[1].text, "I'm [user 2's name].");
    // So does a speaker who goes on.
    assert!(all[3].turns.windows(2).any(|pair| pair[0].speaker == pair[1].speaker));
}

#[test]
fn spc_jsonl() {
    let dialogues = load("synthetic_persona_chat.jsonl", Format::SpcJsonl);
    assert_eq!(turns(&dialogues), [19, 30, 0, 62]);
    assert_eq!(dialogues[0].id, "SPC-train-00001");
    assert_eq!(dialogues[0].personas[0][0], "I am 32.");
    let options = ExampleOptions { responder: Responder::Both, history_turns: None, openings: false };
    let examples: Vec<usize> = dialogues.iter().map(|d| d.example_count(&options)).collect();
    // The last utterance of the last dialogue is blank and makes no example.
    assert_eq!(examples, [18, 29, 0, 60]);
    for dialogue in &dialogues {
        assert_eq!(dialogue.examples(&options).len(), dialogue.example_count(&options));
    }
}

#[test]
fn xpersona() {
    let zh = load("xpersona_zh.json", Format::Xpersona);
    assert_eq!(turns(&zh), [14, 14]);
    assert_eq!(zh[0].persona(Speaker::Two)[0], "我有两只狗。");
    assert_eq!(turns(&load("xpersona_jp.json", Format::Xpersona)), [14, 14]);
    // Every English dialogue opens with a silence.
    let en = load("xpersona_en.json", Format::Xpersona);
    assert_eq!(turns(&en), [15, 13]);
    assert!(en.iter().all(|dialogue| dialogue.turns[0].speaker == Speaker::Two));
}

#[test]
fn pal_records() {
    let records: Vec<Example> =
        PalRecords::open(fixture("pal_records.json")).unwrap().map(|record| record.unwrap()).collect();
    assert_eq!(records.len(), 14);
    let third = &records[2];
    assert_eq!(third.id, "pal_records-00003");
    assert_eq!(third.selected(), Some(3));
    let roles: Vec<Role> = third.history.iter().map(|utterance| utterance.role).collect();
    assert_eq!(roles, [Role::Partner, Role::Agent, Role::Partner]);
    assert_eq!(records[1].relevant, Some(Vec::new()));
    assert_eq!(records[1].selected(), None);
}

#[test]
fn pal_dialogues_are_those_that_the_records_were_cut_from() {
    let mut joined = open(fixture("pal_records.json"), None).unwrap();
    assert_eq!(joined.format(), Format::Pal);
    let dialogues: Vec<Dialogue> = joined.by_ref().map(|dialogue| dialogue.unwrap()).collect();
    assert_eq!(joined.notes().fragments, 0);
    let source = load("personachat_self_original.txt", Format::Parlai);
    assert_eq!(dialogues.len(), 2);
    for (joined, source) in dialogues.iter().zip(&source[1..]) {
        assert_eq!(joined.personas, source.personas);
        let texts = |dialogue: &Dialogue| -> Vec<(Speaker, String)> {
            dialogue.turns.iter().map(|turn| (turn.speaker, turn.text.clone())).collect()
        };
        assert_eq!(texts(joined), texts(source));
    }
    // Cut again, they are the records, up to the ids.
    let records = PalRecords::open(fixture("pal_records.json")).unwrap().map(|record| record.unwrap());
    let again = dialogues.iter().flat_map(|dialogue| dialogue.examples(&ExampleOptions::default()));
    for (record, again) in records.zip(again) {
        assert_eq!(Example { id: again.id.clone(), ..record }, again);
    }
}

#[test]
fn pal_records_out_of_order_become_fragments() {
    let text = r#"[[["p"], ["a"], "b", [0]], [["p"], ["x", "y", "z"], "w", [-1]], [["p"], ["y", "z", "w", "v"], "u", []]]"#;
    let mut dialogues = read(Cursor::new(text), "pal.json", Format::Pal).unwrap();
    let all: Vec<Dialogue> = dialogues.by_ref().map(|dialogue| dialogue.unwrap()).collect();
    // The third record goes on from the second, with a longer history than PAL's.
    assert_eq!(turns(&all), [2, 6]);
    assert_eq!(all.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["pal-00001", "pal-00002"]);
    assert_eq!(all[1].turns[5].relevant, Some(Vec::new()));
    assert_eq!(dialogues.notes().fragments, 1);
}

#[test]
fn derived_with_and_without_labels() {
    let text = concat!(
        r#"{"id": "a", "persona": ["p", "q"], "turns": [["u", "r"], ["v", "s"]], "labels": [[1, 0], [-1]]}"#,
        "\n\n",
        r#"{"id": "b", "persona": ["p"], "turns": [["__SILENCE__", "r"]]}"#,
        "\n",
    );
    let dialogues = read(Cursor::new(text), "derived.jsonl", Format::Derived).unwrap();
    let dialogues: Vec<Dialogue> = dialogues.map(|dialogue| dialogue.unwrap()).collect();
    assert_eq!(turns(&dialogues), [4, 1]);
    let relevant: Vec<_> = dialogues[0].turns.iter().map(|turn| turn.relevant.clone()).collect();
    assert_eq!(relevant, [None, Some(vec![1, 0]), None, Some(Vec::new())]);
    assert_eq!(dialogues[1].turns[0].relevant, None);
}

#[test]
fn own_format_keeps_everything() {
    let mut all = Vec::new();
    for name in [
        "personachat_self_original_candidates.txt",
        "pal_records.json",
        "xpersona_jp.json",
        "synthetic_persona_chat.csv",
    ] {
        all.extend(open(fixture(name), None).unwrap().map(|dialogue| dialogue.unwrap()));
    }
    let mut odd =
        Dialogue { id: "odd \"id\"\n\u{2028}".into(), personas: Default::default(), turns: Vec::new() };
    odd.turns.push(Turn::new(Speaker::Two, "  spaces, \ttabs\r\nand ends stay \u{0}\u{1f600} "));
    all.push(odd);
    let folder = tempfile::tempdir().unwrap();
    for name in ["all.jsonl", "all.jsonl.gz"] {
        let path = folder.path().join(name);
        assert_eq!(write_jsonl(&path, &all).unwrap(), all.len() as u64);
        let again = open(&path, None).unwrap();
        assert_eq!(again.format(), Format::Jsonl);
        assert_eq!(again.map(|dialogue| dialogue.unwrap()).collect::<Vec<_>>(), all, "{name}");
    }
    let starts: Vec<bool> = ["all.jsonl", "all.jsonl.gz"]
        .iter()
        .map(|name| std::fs::read(folder.path().join(name)).unwrap().starts_with(&[0x1f, 0x8b]))
        .collect();
    assert_eq!(starts, [false, true]);
}

#[test]
fn every_format_may_be_gzipped_and_marked() {
    for name in [
        "personachat_both_revised.txt",
        "synthetic_persona_chat.csv",
        "synthetic_persona_chat.jsonl",
        "xpersona_zh.json",
        "pal_records.json",
    ] {
        let plain = std::fs::read(fixture(name)).unwrap();
        let marked = [b"\xef\xbb\xbf".as_slice(), &plain].concat();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&marked).unwrap();
        let packed = packed.finish().unwrap();
        let strict = |bytes: Vec<u8>| -> Vec<Dialogue> {
            let format = Format::detect(fixture(name)).unwrap();
            read(Cursor::new(bytes), name, format).unwrap().map(|dialogue| dialogue.unwrap()).collect()
        };
        let want = strict(plain);
        assert!(!want.is_empty());
        assert_eq!(strict(marked), want, "{name}");
        assert_eq!(strict(packed), want, "{name}");
    }
}

#[test]
fn all_turns_can_be_written_in_toml_and_in_json() {
    let all = ExampleOptions { history_turns: None, ..ExampleOptions::default() };
    let text = toml::to_string(&all).unwrap();
    assert!(text.contains("history_turns = \"all\""), "{text}");
    assert_eq!(toml::from_str::<ExampleOptions>(&text).unwrap(), all);
    let text = serde_json::to_string(&all).unwrap();
    assert!(text.contains("\"history_turns\":\"all\""), "{text}");
    assert_eq!(serde_json::from_str::<ExampleOptions>(&text).unwrap(), all);
    assert_eq!(serde_json::from_str::<ExampleOptions>("{\"history_turns\": null}").unwrap(), all);

    let read = |text: &str| toml::from_str::<ExampleOptions>(text).map(|options| options.history_turns);
    assert_eq!(read("history_turns = 5"), Ok(Some(5)));
    assert_eq!(read(""), Ok(Some(3)));
    for text in ["history_turns = \"most\"", "history_turns = -1", "history_turns = 1.5"] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains("a number of turns, or \"all\""), "{message}");
    }
    let few = ExampleOptions { history_turns: Some(7), ..ExampleOptions::default() };
    assert_eq!(toml::from_str::<ExampleOptions>(&toml::to_string(&few).unwrap()).unwrap(), few);
}

#[test]
fn a_window_of_any_length() {
    let text = "1 a\tb\n2 c\td\n3 e\tf\n";
    let dialogue = read(Cursor::new(text), "f", Format::Parlai).unwrap().next().unwrap().unwrap();
    let lengths = |history_turns| -> Vec<usize> {
        let options = ExampleOptions { history_turns, ..ExampleOptions::default() };
        let examples = dialogue.examples(&options);
        assert_eq!(examples.len(), dialogue.example_count(&options));
        examples.iter().map(|example| example.history.len()).collect()
    };
    assert_eq!(lengths(Some(usize::MAX)), [1, 3, 5]);
    assert_eq!(lengths(None), [1, 3, 5]);
    assert_eq!(lengths(Some(0)), [0, 0, 0]);
}
