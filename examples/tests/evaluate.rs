//! The `evaluate` program's work: tables of both forms, streams, and lines that are no records.
#![allow(clippy::unwrap_used, clippy::panic)]

mod tiny_judge;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use persona_examples::evaluate::{Evaluation, Options, evaluate, load_encoder};
use persona_examples::judge::Judge;
use persona_metrics::suite::{Preset, Sampling};
use tch::{Device, Kind};

const REPLIES: [&str; 6] = [
    "i have a dog .",
    "do you like to ski ?",
    "i love to sing in the choir .",
    "no",
    "my two dogs are brown .",
    "what is your job ?",
];

fn file(folder: &Path, name: &str, predictions: impl Fn(usize) -> String, more: &str) -> PathBuf {
    let mut text = String::new();
    for (at, reference) in REPLIES.iter().cycle().take(60).enumerate() {
        let prediction = serde_json::to_string(&predictions(at)).unwrap();
        let question = at % 10;
        writeln!(
            text,
            r#"{{"prediction": {prediction}, "references": ["{reference}"], "personas": ["i have a dog ."], "history": ["question {question}"], "candidates": ["no", "{reference}"]{more}}}"#
        )
        .unwrap();
    }
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn options(preset: Preset) -> Options<'static> {
    Options { preset, sampling: Sampling { trials: 50, ..Sampling::default() }, ..Options::default() }
}

fn value(evaluation: &Evaluation, name: &str) -> f64 {
    let found = evaluation.input.scores.iter().find(|score| score.score.name() == name);
    found.unwrap_or_else(|| panic!("no {name}")).score.value()
}

#[test]
fn every_preset_has_its_scores_intervals_and_signature() {
    let folder = tempfile::tempdir().unwrap();
    let input = file(folder.path(), "a.jsonl", |at| REPLIES[at % 6].replace("dog", "cat"), "");
    let other = file(folder.path(), "b.jsonl", |at| REPLIES[(at + at % 2) % 6].to_owned(), "");
    for preset in Preset::ALL {
        let evaluation = evaluate(&input, Some(&other), &options(preset)).unwrap();
        assert!(!evaluation.input.scores.is_empty(), "{preset}");
        assert_eq!(evaluation.tests.len(), evaluation.input.scores.len(), "{preset}");
        for measured in &evaluation.input.scores {
            let (name, bounds) = (measured.score.name(), measured.interval.unwrap());
            assert!(bounds.low <= bounds.high && bounds.low.is_finite(), "{name}");
        }
        assert!(evaluation.tests.iter().all(|test| test.p_holm >= test.p_value && test.p_holm <= 1.0));
        let table = evaluation.to_string();
        assert!(table.contains("version:persona-metrics-") && table.contains("p (Holm)"), "{table}");
        let json = serde_json::to_string(&evaluation).unwrap();
        assert!(json.contains("\"signature\"") && !json.contains("null,\"unit\""));
    }
    let standard = evaluate(&input, None, &options(Preset::Standard)).unwrap();
    assert_eq!(value(&standard, "hits@5"), 1.0);
    assert!(value(&standard, "BLEU") > 10.0 && value(&standard, "ROUGE-1 F") > 0.5);
    let same = evaluate(&input, Some(&input), &options(Preset::Standard)).unwrap();
    assert!(same.tests.iter().all(|test| test.difference == 0.0 && test.p_value == 1.0));
}

#[test]
fn a_judge_adds_c_score_of_both_files_and_of_gold() {
    let folder = tempfile::tempdir().unwrap();
    tiny_judge::write(&folder.path().join("judge"));
    let judge = Judge::load(&folder.path().join("judge"), Device::Cpu).unwrap();
    let input = file(
        folder.path(),
        "a.jsonl",
        |at| if at == 3 { String::new() } else { REPLIES[at % 6].to_owned() },
        "",
    );
    let other = file(folder.path(), "b.jsonl", |_| "i have a dog .".to_owned(), "");
    let judged = Options { judge: Some(&judge), ..options(Preset::Pal) };
    let evaluation = evaluate(&input, Some(&other), &judged).unwrap();
    let of = |system: &persona_examples::evaluate::System| system.consistency.clone().unwrap();
    let (one, two) = (of(&evaluation.input), of(evaluation.compare.as_ref().unwrap()));
    assert_eq!(one.gold, two.gold, "the gold replies are the same");
    assert_eq!(two.system.copy_rate.value(), 1.0);
    assert!(one.system.sum.value().abs() <= 1.0);
    let table = evaluation.to_string();
    assert!(table.contains("C.score (max)") && table.contains("judge:"), "{table}");
    assert!(!table.contains("not measured: C.score"), "{table}");
    let none = evaluate(&input, None, &options(Preset::Pal)).unwrap();
    assert!(none.input.consistency.is_none() && none.to_string().contains("not measured: C.score"));

    // What C.score needs and is not there is named.
    let streamed = Options { judge: Some(&judge), intervals_up_to: 0, ..options(Preset::Pal) };
    let error = evaluate(&input, None, &streamed).unwrap_err().to_string();
    assert!(error.contains("--intervals-up-to"), "{error}");
    let bare = folder.path().join("bare.jsonl");
    std::fs::write(&bare, "{\"prediction\": \"no\", \"references\": [\"yes\"]}\n").unwrap();
    let judged = Options { judge: Some(&judge), ..options(Preset::Standard) };
    let error = evaluate(&bare, None, &judged).unwrap_err().to_string();
    assert!(error.contains("bare.jsonl") && error.contains("`personas`"), "{error}");
}

#[test]
fn an_encoder_adds_bertscore_and_similarity_with_intervals_and_tests() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("encoder");
    tiny_judge::write(&model);
    let encoder = load_encoder(&model, Some(1), Device::Cpu, Kind::Float).unwrap();
    let same = file(folder.path(), "a.jsonl", |at| REPLIES[at % 6].to_owned(), "");
    let other = file(folder.path(), "b.jsonl", |at| REPLIES[(at + at % 2) % 6].to_owned(), "");
    let encoded = Options { encoder: Some(&encoder), ..options(Preset::Sacrebleu) };
    let evaluation = evaluate(&same, Some(&other), &encoded).unwrap();
    let names = ["BERTScore-P", "BERTScore-R", "BERTScore-F1", "Similarity", "Acc@sim0.9"];
    for name in names {
        assert!((value(&evaluation, name) - 1.0).abs() < 1e-6, "{name}: gold against itself");
        let test = evaluation.tests.iter().find(|test| test.name == name).unwrap();
        assert!(test.difference >= 0.0 && test.p_holm >= test.p_value, "{name}");
    }
    // Holm's correction is over the whole table: the least of so many p-values is multiplied by their number.
    let least = evaluation.tests.iter().min_by(|a, b| a.p_value.total_cmp(&b.p_value)).unwrap();
    assert!((least.p_holm - (least.p_value * evaluation.tests.len() as f64).min(1.0)).abs() < 1e-12);
    assert_eq!(evaluation.input.similarities, Some([0, 0, 0, 0, 0, 60]));
    let others = evaluation.compare.as_ref().unwrap();
    assert_eq!(others.similarities.unwrap().iter().sum::<u64>(), 60);
    let table = evaluation.to_string();
    assert!(table.contains("model:encoder") && table.contains("similarities from"), "{table}");

    let streamed = Options { intervals_up_to: 0, ..encoded };
    let error = evaluate(&same, None, &streamed).unwrap_err().to_string();
    assert!(error.contains("--intervals-up-to"), "{error}");
    let error = load_encoder(&model, Some(2), Device::Cpu, Kind::Float).unwrap_err().to_string();
    assert!(error.contains("layer 2"), "{error}");
}

#[test]
fn a_stream_has_the_scores_of_the_whole_and_no_intervals() {
    let folder = tempfile::tempdir().unwrap();
    let input = file(folder.path(), "a.jsonl", |at| REPLIES[(at + 1) % 6].to_owned(), ", \"model\": 3");
    let whole = evaluate(&input, None, &options(Preset::Standard)).unwrap();
    let streamed = Options { intervals_up_to: 0, ..options(Preset::Standard) };
    let streamed = evaluate(&input, None, &streamed).unwrap();
    for (one, other) in whole.input.scores.iter().zip(&streamed.input.scores) {
        assert_eq!(one.score, other.score);
        assert!(one.interval.is_some() && other.interval.is_none());
    }
    assert!(streamed.notes.iter().any(|note| note.contains("no intervals")));
    assert!(whole.notes.iter().any(|note| note.contains("`model`")), "{:?}", whole.notes);
}

#[test]
fn bad_lines_and_other_examples_are_named_and_nothing_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jsonl");
    let message = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        format!("{:#}", evaluate(&path, None, &options(Preset::Standard)).unwrap_err())
    };
    let good = r#"{"prediction": "a", "references": ["b"]}"#;
    assert!(message(b"").contains("no record"));
    assert!(message(format!("{good}\n\n{{\"prediction\": 3}}\n").as_bytes()).contains("bad.jsonl:3"));
    assert!(message(format!("{good}\n{good} {good}\n").as_bytes()).contains("bad.jsonl:2"));
    assert!(message(&[good.as_bytes(), b"\n{\"prediction\": \"\xff\"}"].concat()).contains("bad.jsonl:2"));
    assert!(message(format!("{good}\n{{\"prediction\": \"\\ud800\"}}\n").as_bytes()).contains("bad.jsonl:2"));
    let unlike = message(format!("{good}\n{{\"prediction\": \"a\"}}\n").as_bytes());
    assert!(unlike.contains("bad.jsonl:2") && unlike.contains("references"), "{unlike}");

    let one = file(folder.path(), "a.jsonl", |_| "a b".to_owned(), "");
    let other = folder.path().join("c.jsonl");
    let text = std::fs::read_to_string(&one).unwrap();
    std::fs::write(&other, text.replacen("question 4", "question 5", 1)).unwrap();
    let error = format!("{:#}", evaluate(&one, Some(&other), &options(Preset::Pal)).unwrap_err());
    assert!(error.contains("example 4") && error.contains("history"), "{error}");
    std::fs::write(&other, text.lines().next().unwrap()).unwrap();
    let error = format!("{:#}", evaluate(&one, Some(&other), &options(Preset::Pal)).unwrap_err());
    assert!(error.contains("60") && error.contains('1'), "{error}");
}

#[test]
fn what_has_no_value_is_named_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"prediction\": \"one\"}\n{\"prediction\": \"\"}\n").unwrap();
    let evaluation = evaluate(&path, None, &options(Preset::Standard)).unwrap();
    let why = |metric: &str| {
        let missing = evaluation.input.missing.iter().find(|missing| missing.metric == metric);
        missing.unwrap_or_else(|| panic!("{:?}", evaluation.input.missing)).why.clone()
    };
    assert!(why("Distinct").contains("2 tokens"));
    assert_eq!(why("BLEU"), "needs references");
    assert!(value(&evaluation, "Entropy-1") == 0.0);
}
