//! Broken files: each an error that names the place, and never a panic.

use std::io::{Cursor, Write};

use persona_data::{Error, Format, PalRecords, open, read, write_jsonl};

use crate::fixture;

/// What reading gives: an id for each dialogue, a message for each error.
fn outcome(text: impl AsRef<[u8]>, format: Format) -> Vec<String> {
    match read(Cursor::new(text.as_ref().to_vec()), "f.x", format) {
        Ok(dialogues) => dialogues
            .map(|item| item.map_or_else(|error| format!("E {error}"), |dialogue| dialogue.id))
            .collect(),
        Err(error) => vec![format!("E {error}")],
    }
}

/// Asserts dialogues by id and errors by the start of their message.
fn check(text: impl AsRef<[u8]>, format: Format, want: &[&str]) {
    let got = outcome(text, format);
    let fits = got.len() == want.len()
        && got
            .iter()
            .zip(want)
            .all(|(got, want)| if want.starts_with("E ") { got.starts_with(want) } else { got == want });
    assert!(fits, "{format}: {got:#?}\nwanted {want:#?}");
}

const FORMATS: [Format; 7] = [
    Format::Parlai,
    Format::SpcCsv,
    Format::SpcJsonl,
    Format::Xpersona,
    Format::Pal,
    Format::Derived,
    Format::Jsonl,
];

#[test]
fn empty_files() {
    for format in FORMATS {
        for text in ["", "\n\n", "\u{feff}"] {
            check(text, format, &["E f.x:1: no dialogue in the file"]);
        }
    }
    check("[]", Format::Pal, &["E f.x:1: no dialogue"]);
    check(
        "user 1 personas,user 2 personas,Best Generated Conversation\r\n",
        Format::SpcCsv,
        &["E f.x:1: no dialogue"],
    );
    assert!(matches!(
        PalRecords::read(Cursor::new("[]"), "f").unwrap().next(),
        Some(Err(Error::Empty { .. }))
    ));
}

#[test]
fn the_wrong_format_is_an_error_at_once() {
    let text = std::fs::read(fixture("personachat_self_original.txt")).unwrap();
    for format in FORMATS.into_iter().filter(|&format| format != Format::Parlai) {
        assert!(outcome(&text, format)[0].starts_with("E f.x:1"), "{format}");
    }
    let text = std::fs::read(fixture("synthetic_persona_chat.jsonl")).unwrap();
    for format in FORMATS.into_iter().filter(|&format| format != Format::SpcJsonl) {
        assert!(outcome(&text, format)[0].starts_with("E f.x:1"), "{format}");
    }
}

#[test]
fn parlai_lines() {
    // The first and the last dialogue are fine; the one between is broken in its second line.
    let around = |broken: &str| format!("1 a\tb\n1 c\td\n{broken}\n3 e\tf\n1 g\th\n");
    for (broken, want) in [
        ("no number\tat all", "E f.x:3: the line has no number"),
        ("2", "E f.x:3: the line has no number"),
        ("3 c\td", "E f.x:3: the line is numbered 3 where 2 follows"),
        ("2 c d", "E f.x:3: no tab between utterance and response"),
        ("2 c\td\t\te|f\tg", "E f.x:3: 5 columns"),
        ("2 c\td\t\te|f", "E f.x:3: the response is not among its candidates"),
        ("2 your persona: i sail.", "E f.x:3: a persona line after the first exchange"),
        ("99999999999999999999999 c\td", "E f.x:3: the line has no number"),
    ] {
        check(around(broken), Format::Parlai, &["f-00001", want, "f-00003"]);
    }
    check(
        "1 your persona: i sail.\n1 c\td\n",
        Format::Parlai,
        &["E f.x:1: the dialogue that starts here", "f-00002"],
    );
    check("4 c\td\n5 c\td\n1 c\td\n", Format::Parlai, &["E f.x:1: the file does not start", "f-00002"]);
    check(
        b"1 a\tb\n2 \xff\tb\n3 c\td\n1 c\td\n",
        Format::Parlai,
        &["E f.x:2: byte 3 of the line", "f-00002"],
    );
}

#[test]
fn a_line_that_is_not_utf_8_costs_its_dialogue_and_no_other() {
    let around = |broken: &[u8]| [b"1 a\tb\n2 c\td\n", broken, b"1 g\th\n"].concat();
    for (broken, error) in [
        (&b"1 \xff\tb\n2 e\tf\n"[..], "E f.x:3: byte 3 of the line"),
        (b"1 your persona: \xff\n2 e\tf\n", "E f.x:3: byte 17 of the line"),
        (b"1 e\tf\n2 \xff\tf\n3 e\tf\n", "E f.x:4: byte 3 of the line"),
        (b"1 e\tf\n2 e\t\xff\n", "E f.x:4: byte 5 of the line"),
    ] {
        check(around(broken), Format::Parlai, &["f-00001", error, "f-00003"]);
    }
    let twice = around(b"1 \xff\tb\n2 \xff\tf\n1 \xff\tb\n");
    let error = |line: u32| format!("E f.x:{line}: byte 3 of the line");
    let want = ["f-00001", &error(3), &error(4), &error(5), "f-00004"];
    check(twice, Format::Parlai, &want);
    check(b"1 \xff\tb\n2 e\tf\n1 g\th\n", Format::Parlai, &["E f.x:1: byte 3", "f-00002"]);
    check(b"1 a\tb\n1 \xff\tb\n", Format::Parlai, &["f-00001", "E f.x:2: byte 3"]);

    let derived =
        |text: &[u8]| [br#"{"persona": ["p"], "turns": [["u", ""#, text, b"\"]], \"id\": \"a\"}\n"].concat();
    let broken = [derived(b"r"), derived(b"\xff"), derived(b"r")].concat();
    check(broken, Format::Derived, &["a", "E f.x:2: byte 37 of the line", "a"]);
    let spc = |text: &[u8]| {
        let start = br#"{"id": "a", "user_1_personas": [], "user_2_personas": [], "utterances": [[1, ""#;
        [&start[..], text, b"\"]]}\n"].concat()
    };
    let broken = [spc(b"r"), spc(b"\xff"), spc(b"r")].concat();
    check(broken, Format::SpcJsonl, &["a", "E f.x:2: byte 79 of the line", "a"]);
    let broken = b"[{\"persona\": [], \"dialogue\": [[\"a\", \"b\"]]}, {\"persona\": [\"\xff\"]},\n\
                   {\"persona\": [], \"dialogue\": [[\"a\", \"b\"]]}]";
    check(broken, Format::Xpersona, &["f-00001", "E f.x:1 (record 2): byte ", "f-00003"]);
}

#[test]
fn tables() {
    let header = "user 1 personas,user 2 personas,Best Generated Conversation\r\n";
    let row = "\"i sail.\ni swim.\",i run.,\"User 1: hi\nUser 2: hi\"\r\n";
    check(
        "id,user 1 personas,text\r\n1,2,3\r\n",
        Format::SpcCsv,
        &["E f.x:1: no column \"user 2 personas\""],
    );
    // Short rows cost only themselves.
    let text = format!("{header}{row}only one cell\r\n{row}");
    check(text, Format::SpcCsv, &["f-00001", "E f.x:5: the row has 1 cells and no cell 2", "f-00003"]);
    let text = [header.as_bytes(), b"a,b,\"User 1: fine\nUser 2: \xff\"\r\n", row.as_bytes()].concat();
    check(text, Format::SpcCsv, &["E f.x:3: byte 9 of the line is not UTF-8", "f-00002"]);
    let text = format!("{header}{row}{}", &row[..row.len() - 3]);
    check(text, Format::SpcCsv, &["f-00001", "E f.x:5: the file ends within a quoted cell"]);
    // Blank lines are nothing.
    check(format!("{header}\r\n{row}\r\n"), Format::SpcCsv, &["f-00001"]);
    // A last row without its line end is whole.
    let text = format!("{header}{}", row.trim_end());
    check(text, Format::SpcCsv, &["f-00001"]);
    // A quote in a bare cell is text, and two in a quoted cell are one.
    for last in [
        "i am 5' 4\" tall.,b,User 1: hi",
        "a,b,\"User 1: \"\"hi\"\"\"",
        "a,b,\"User 1: \"hi\"",
        "a,\"b\",User 1: \"",
    ] {
        check(format!("{header}{row}{last}"), Format::SpcCsv, &["f-00001", "f-00002"]);
    }
    for last in ["5\",b,\"User 1: hi", "a,b,\"User 1: hi\"\"", "a,\"b,User 1: hi"] {
        let want = ["f-00001", "E f.x:5: the file ends within a quoted cell"];
        check(format!("{header}{row}{last}"), Format::SpcCsv, &want);
    }
}

#[test]
fn json_lines() {
    let good = r#"{"id": "a", "personas": [["p"], []], "turns": [{"speaker": 1, "text": "t"}]}"#;
    let lines = |broken: &str| format!("{good}\n{broken}\n{good}\n");
    for (broken, want) in [
        ("{\"id\": \"b\"", "E f.x:2: EOF while parsing"),
        ("{\"id\": \"b\"}", "E f.x:2: missing field `personas`"),
        (
            r#"{"id": "b", "personas": [[], []], "turns": [{"speaker": 3, "text": "t"}]}"#,
            "E f.x:2: speaker 3 is neither",
        ),
        (
            r#"{"id": "b", "personas": [["p"], []], "turns": [{"speaker": 2, "text": "t", "relevant": [0]}]}"#,
            "E f.x:2: label 0 is no index into a persona of 0 descriptions",
        ),
        (
            r#"{"id": "b", "personas": [["p"], []], "turns": [{"speaker": 1, "text": "t", "relevent": [0]}]}"#,
            "E f.x:2: unknown field `relevent`, expected one of `speaker`, `text`, `relevant`",
        ),
    ] {
        check(lines(broken), Format::Jsonl, &["a", want, "a"]);
    }
    let broken = [good.as_bytes(), b"\n\"\xe9\"\n", good.as_bytes()].concat();
    check(broken, Format::Jsonl, &["a", "E f.x:2: byte 2 of the line", "a"]);
    check(
        r#"{"id": "a", "persona": ["p"], "turns": [["u", "r"]], "labels": [[0], [0]]}"#,
        Format::Derived,
        &["E f.x:1: 2 labels for 1 exchanges"],
    );
    check(
        r#"{"id": "a", "persona": ["p"], "turns": [["u", "r"]], "label": [[0]]}"#,
        Format::Derived,
        &["E f.x:1: unknown field `label`, expected one of `id`, `persona`, `turns`, `labels`"],
    );
}

#[test]
fn labels_out_of_range() {
    let record = |label: &str| {
        format!(r#"[[["p"], ["u"], "r", [0]], [["p"], ["u"], "r", {label}], [["p"], ["u"], "r", []]]"#)
    };
    for label in ["[1]", "[-2]", "[0, 7]", "[-1, 0]"] {
        let items: Vec<_> = PalRecords::read(Cursor::new(record(label)), "f").unwrap().collect();
        assert!(items[0].is_ok() && items[2].is_ok());
        let error = items[1].as_ref().unwrap_err();
        assert!(matches!(error, Error::LabelOutOfRange { .. }), "{error}");
        assert!(error.to_string().starts_with("f:1 (record 2): label "), "{error}");
    }
    assert!(PalRecords::read(Cursor::new(record("[0]")), "f").unwrap().all(|item| item.is_ok()));
    let items: Vec<_> = PalRecords::read(Cursor::new(r#"[[["p"], ["u"], "r"]]"#), "f").unwrap().collect();
    let message = items[0].as_ref().unwrap_err().to_string();
    assert!(
        message.contains("invalid length 3") && message.contains("[persona, history, response, labels]"),
        "{message}"
    );
}

#[test]
fn a_bad_record_costs_its_dialogue_and_no_other() {
    let record =
        |persona: &str, history: &str, label: i32| format!(r#"[["{persona}"], {history}, "r", [{label}]]"#);
    let first = record("p", r#"["a"]"#, 0);
    let second = record("p", r#"["a", "r", "b"]"#, 0);
    let third = record("p", r#"["b", "r", "c"]"#, 0);
    let bad = record("p", r#"["a", "r", "b"]"#, 9);
    let next = record("q", r#"["a"]"#, 0);
    let later = record("q", r#"["a", "r", "b"]"#, 0);
    let file = |records: &[&String]| {
        let records: Vec<&str> = records.iter().map(|record| record.as_str()).collect();
        format!("[{}]", records.join(","))
    };
    check(file(&[&first, &second, &third, &next, &later]), Format::Pal, &["f-00001", "f-00004"]);
    check(
        file(&[&first, &bad, &third, &next, &later]),
        Format::Pal,
        &["E f.x:1 (record 2): label 9", "f-00004"],
    );
    check(file(&[&bad, &second, &third, &next]), Format::Pal, &["E f.x:1 (record 1): label 9", "f-00004"]);
}

#[test]
fn files_that_are_not_there_or_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let missing = open(folder.path().join("none.txt"), Format::Parlai).err().unwrap();
    assert!(missing.to_string().contains("none.txt") && matches!(missing, Error::Open { .. }), "{missing}");
    assert!(matches!(open(folder.path(), None).err(), Some(Error::Open { .. })));

    let path = folder.path().join("cut.txt");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all("1 a\tb\n".repeat(5000).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    std::fs::write(&path, &packed[..packed.len() / 2]).unwrap();
    let error = open(&path, Format::Parlai).unwrap().find_map(Result::err).unwrap();
    assert!(matches!(error, Error::TruncatedGzip { .. }), "{error}");
    std::fs::write(&path, [&packed[..10], &[0xff; 40]].concat()).unwrap();
    let outcome = open(&path, Format::Parlai).map(|mut dialogues| dialogues.find_map(Result::err));
    assert!(matches!(outcome, Err(Error::Read { .. }) | Ok(Some(Error::Read { .. }))));

    std::fs::write(&path, "nothing known").unwrap();
    assert!(matches!(open(&path, None).err(), Some(Error::UndetectedFormat { .. })));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(open(&path, None).err(), Some(Error::Empty { .. })));
    std::fs::write(&path, b"\xff\xfe1\0 \0a\0").unwrap();
    assert!(matches!(open(&path, Format::Parlai).err(), Some(Error::Utf16 { .. })));
    assert!(matches!(write_jsonl(folder.path().join("no/folder.jsonl"), &[]), Err(Error::Write { .. })));
}

#[test]
fn lenient_reading_counts_what_it_skips() {
    let text = format!("1 a\tb\n{}1 c\td\n", "1 no tab\n".repeat(25));
    let mut lenient = read(Cursor::new(text), "f.x", Format::Parlai).unwrap().lenient();
    let ids: Vec<String> = lenient.by_ref().map(|dialogue| dialogue.id).collect();
    assert_eq!(ids, ["f-00001", "f-00027"]);
    assert_eq!(lenient.skipped(), 25);
    assert_eq!(lenient.messages().len(), 10);
    assert_eq!(lenient.messages()[0], "f.x:2: no tab between utterance and response");
    assert_eq!(lenient.inner().notes().silences, 0);
}

#[test]
fn any_bytes_end_without_a_panic() {
    // Cut and damaged copies of good files: whatever comes out, reading ends.
    for name in [
        "personachat_self_original_candidates.txt",
        "synthetic_persona_chat.csv",
        "pal_records.json",
        "xpersona_zh.json",
    ] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let format = Format::detect(fixture(name)).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 97) {
            outcome(&whole[..at], format);
            let mut damaged = whole.clone();
            for byte in [0_u8, b'"', b'\n', b'[', 0xff] {
                damaged[at] = byte;
                let count = outcome(&damaged, format).len();
                assert!(count >= 1, "{name} with {byte} at {at}");
            }
        }
    }
}
