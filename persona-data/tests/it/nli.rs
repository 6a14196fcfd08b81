//! Files of natural language inference: published forms, bad lines, missing labels; judges' scores; the saved split.

use std::io::Cursor;

use persona_data::{
    Dialogue, EntailedPairs, EntailmentLabeller, EntailmentRule, NliFormat, NliItem, NliLabel, PersonaScores,
    RecordList, Speaker, Turn, label_dialogues, open_nli, read_nli,
};

fn read(text: &str, format: NliFormat) -> (Vec<Result<NliItem, String>>, u64) {
    let mut items = read_nli(Cursor::new(text.as_bytes().to_vec()), "some/pairs.jsonl", format).unwrap();
    let all = items.by_ref().map(|item| item.map_err(|error| error.to_string())).collect();
    (all, items.unlabelled())
}

fn item(id: &str, premise: &str, hypothesis: &str, label: NliLabel) -> Result<NliItem, String> {
    Ok(NliItem { id: id.into(), premise: premise.into(), hypothesis: hypothesis.into(), label })
}

const SNLI: &str = r#"{"annotator_labels": ["neutral"], "captionID": "1.jpg#4", "gold_label": "neutral", "pairID": "1.jpg#4r1n", "sentence1": "A person sails.", "sentence1_binary_parse": "( )", "sentence1_parse": "(ROOT)", "sentence2": "They race.", "sentence2_binary_parse": "( )", "sentence2_parse": "(ROOT)"}
{"annotator_labels": ["neutral", "entailment"], "captionID": "2", "gold_label": "-", "pairID": "2", "sentence1": "a", "sentence2": "b"}
{"annotator_labels": ["contradiction"], "gold_label": "contradiction", "genre": "fiction", "promptID": "6", "pairID": "6c", "sentence1": "It sank.", "sentence2": "It floats."}
"#;

#[test]
fn snli_and_multinli() {
    for format in [NliFormat::Snli, NliFormat::MultiNli] {
        let (items, unlabelled) = read(SNLI, format);
        let want = [
            item("pairs-1.jpg#4r1n", "A person sails.", "They race.", NliLabel::Neutral),
            item("pairs-6c", "It sank.", "It floats.", NliLabel::Contradiction),
        ];
        assert_eq!((items, unlabelled), (want.to_vec(), 1));
    }
}

#[test]
fn ocnli_and_cmnli() {
    let text = r#"{"level":"medium","sentence1":"身上裹一件工厂发的棉大衣","sentence2":"身上至少一件衣服","label":"entailment","label0":"entailment","label1":null,"genre":"lit","prem_id":"lit_635","id":0}
{"sentence1":"甲","sentence2":"乙","label":"-","id":1}
{"sentence1":"从概念上看","sentence2":"产品和地理","label":"neutral"}
{"id": 3, "sentence1":"甲","sentence2":"乙"}
"#;
    for format in [NliFormat::Ocnli, NliFormat::Cmnli] {
        let (items, unlabelled) = read(text, format);
        let want = [
            item("pairs-0", "身上裹一件工厂发的棉大衣", "身上至少一件衣服", NliLabel::Entailment),
            item("pairs-00003", "从概念上看", "产品和地理", NliLabel::Neutral),
        ];
        assert_eq!((items, unlabelled), (want.to_vec(), 2));
    }
}

#[test]
fn dnli_is_one_array() {
    let text = r#"[{"dtype": "matchingtriple_up", "id": "train_0", "label": "positive", "sentence1": "i love dogs .", "sentence2": "dogs are great .", "triple1": ["i", "like_animal", "dog"], "triple2": ["i", "like_animal", "dog"]},
 {"id": "train_1", "label": "negative", "sentence1": "i have 2 cats .", "sentence2": "i have 3 cats ."},
 {"id": "train_2", "label": "neutral", "sentence1": "a", "sentence2": "b"}]"#;
    let (items, unlabelled) = read(text, NliFormat::Dnli);
    let labels: Vec<NliLabel> = items.iter().map(|item| item.as_ref().unwrap().label).collect();
    assert_eq!(labels, [NliLabel::Entailment, NliLabel::Contradiction, NliLabel::Neutral]);
    assert_eq!((items[1].as_ref().unwrap().id.as_str(), unlabelled), ("pairs-train_1", 0));
}

#[test]
fn bad_lines_are_named_and_the_next_is_read() {
    let good = r#"{"gold_label": "neutral", "sentence1": "a", "sentence2": "b"}"#;
    for (bad, want) in [
        ("{\"gold_label\": \"neutral\"", "some/pairs.jsonl:2: "),
        (r#"{"gold_label": "neutral", "sentence1": "a"}"#, "missing field `sentence2`"),
        (
            r#"{"gold_label": "maybe", "sentence1": "a", "sentence2": "b"}"#,
            "\"maybe\"; expected contradiction",
        ),
        (r#"{"gold_label": "neutral", "sentence1": " ", "sentence2": "b"}"#, "sentence1 is empty"),
        ("gold_label\tsentence1", "expected {\"gold_label\", \"sentence1\", \"sentence2\"} on each line"),
    ] {
        let (items, _) = read(&format!("{good}\n{bad}\n{good}\n"), NliFormat::Snli);
        assert_eq!(items.len(), 3, "{bad}");
        let message = items[1].as_ref().unwrap_err();
        assert!(message.starts_with("some/pairs.jsonl:2: ") && message.contains(want), "{message}");
        assert_eq!(items[2].as_ref().unwrap().id, "pairs-00003");
        let mut lenient =
            read_nli(Cursor::new(format!("{bad}\n{good}\n")), "f", NliFormat::Snli).unwrap().lenient();
        assert_eq!((lenient.by_ref().count(), lenient.skipped()), (1, 1));
    }
    let (items, _) = read(r#"[{"label": "positive", "sentence1": "a"}]"#, NliFormat::Dnli);
    assert!(items[0].as_ref().unwrap_err().contains("(record 1)"), "{items:?}");
    for format in [NliFormat::Snli, NliFormat::Dnli] {
        let (items, _) = read("\n", format);
        assert!(items.len() == 1 && items[0].as_ref().unwrap_err().contains("no pair"), "{items:?}");
    }
    assert!(open_nli("no/such/file", NliFormat::Snli).is_err());
}

#[test]
fn format_names_go_there_and_back() {
    for name in ["snli", "multinli", "ocnli", "cmnli", "dnli"] {
        assert_eq!(name.parse::<NliFormat>().unwrap().to_string(), name);
    }
    let message = "xnli".parse::<NliFormat>().unwrap_err().to_string();
    assert!(message.contains("\"xnli\"") && message.contains("snli, multinli"), "{message}");
}

const HEADER: &str = "dialog\tpersona_idx\tturn\tlabel\tlogit_contradiction\tlogit_neutral\tlogit_entailment\tpersona\tresponse\n";

#[test]
fn scores_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.tsv");
    let good = "3\t1\t0\tentailment\t-4.2577\t-1.5933\t5.6507\ti read .\ti read a lot .\n";
    let read = |text: String| -> Vec<Result<_, String>> {
        std::fs::write(&path, text).unwrap();
        PersonaScores::open(&path).unwrap().map(|score| score.map_err(|error| error.to_string())).collect()
    };
    let scores = read(format!("{HEADER}{good}"));
    let score = scores[0].as_ref().unwrap();
    assert_eq!((score.dialogue, score.description_index, score.reply_index), (3, 1, 0));
    assert_eq!((score.label, score.logits), (NliLabel::Entailment, [-4.2577, -1.5933, 5.6507]));
    assert_eq!((score.description.as_str(), score.reply.as_str()), ("i read .", "i read a lot ."));
    for (from, to, want) in [
        ("entailment", "neutral", "another logit"),
        ("entailment", "yes", "\"yes\""),
        ("5.6507", "NaN", "logit_entailment is \"NaN\""),
        ("3\t", "-3\t", "dialog is \"-3\""),
        ("i read .\t", "", "8 cells; expected 9"),
        ("i read .", " ", "persona is empty"),
    ] {
        let scores = read(format!("{HEADER}{good}{}{good}", good.replacen(from, to, 1)));
        let message = scores[1].as_ref().unwrap_err();
        assert!(message.contains("scores.tsv:3: ") && message.contains(want), "{message}");
        assert!(scores[2].is_ok());
    }
    assert!(read(good.to_owned())[0].as_ref().unwrap_err().contains("expected the columns dialog"));
    assert!(read(String::new())[0].is_err());
}

#[test]
fn entailed_pairs_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.json");
    std::fs::write(&path, "[[\"i ski.\", \"skiing is fun .\"], [\"\", \"x\"], [\"a\"], [\"b\", \"c\"]]")
        .unwrap();
    let pairs: Vec<_> = EntailedPairs::open(&path).unwrap().collect();
    assert_eq!(*pairs[0].as_ref().unwrap(), ("i ski.".to_owned(), "skiing is fun .".to_owned()));
    assert!(pairs[1].as_ref().unwrap_err().to_string().contains("(record 2): the description or the reply"));
    assert!(pairs[2].as_ref().unwrap_err().to_string().contains("[description, reply]"));
    assert!(pairs[3].is_ok() && pairs.len() == 4);
}

#[test]
fn the_saved_split_divides_by_place() {
    let list = RecordList::persona_chat_valid().unwrap();
    let sizes: Vec<(&str, usize)> =
        list.parts.iter().map(|part| (part.name.as_str(), part.examples)).collect();
    assert_eq!(sizes, [("valid1", 6500), ("valid2", 1301)]);
    let parts = list.parts_in_order().unwrap();
    assert_eq!(parts.len(), 1000);
    assert_eq!(parts.iter().filter(|&&part| part == 1).count(), list.parts[1].dialogues.len());
    let exchange = [Turn::new(Speaker::One, "u"), Turn::new(Speaker::Two, "r")];
    let dialogue =
        |at: usize| Dialogue { id: format!("x{at}"), personas: Default::default(), turns: exchange.to_vec() };
    let few = list.divide_in_order((0..3).map(dialogue).collect()).unwrap_err().to_string();
    assert!(few.contains("names 1000 dialogues, and the data have 3"), "{few}");
    let others = list.divide_in_order((0..1000).map(dialogue).collect()).unwrap_err().to_string();
    assert!(others.contains("6500 are noted"), "{others}");
    let mut twice = list.clone();
    let id = twice.parts[0].dialogues[0].clone();
    twice.parts[1].dialogues.push(id.clone());
    assert!(twice.parts_in_order().unwrap_err().to_string().contains(&id));
}

#[test]
fn a_judges_probabilities_label_dialogues() {
    let mut dialogues = vec![Dialogue {
        id: "d".into(),
        personas: [Vec::new(), vec!["i ski .".into(), "i sing .".into()]],
        turns: vec![
            Turn::new(Speaker::One, "hi"),
            Turn::new(Speaker::Two, "i sing on skis"),
            Turn::new(Speaker::One, "oh"),
            Turn::new(Speaker::Two, ""),
        ],
    }];
    let judged =
        [(("i ski .", "i sing on skis"), [0.0, 0.3, 0.7]), (("i sing .", "i sing on skis"), [0.0, 0.1, 0.9])];
    let labeller = EntailmentLabeller::new(judged, EntailmentRule::default()).unwrap();
    let report = label_dialogues(&mut dialogues, &labeller).unwrap();
    assert_eq!((report.labelled, report.none, report.without_persona), (2, 1, 2));
    assert_eq!(dialogues[0].turns[1].relevant.as_deref(), Some(&[1, 0][..]));
}
