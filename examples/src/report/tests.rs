//! A small report, and what JSON does to it.

use super::*;

pub(super) fn sample() -> Report {
    let column = |name: &str, signature: &str, decimals| Column {
        name: name.into(),
        signature: signature.into(),
        decimals,
    };
    let row = |system: &str, bleu, distinct| Row {
        system: system.into(),
        cells: vec![Cell::Value(bleu), Cell::Value(distinct), Cell::Missing("no judge".into())],
    };
    let check = |name: &str, measured, against: &str, baseline, holds| Check {
        name: name.into(),
        measured,
        against: against.into(),
        baseline,
        holds,
        note: "Lower is better.".into(),
    };
    let reply = |system: &str, selected: Option<&str>, text: &str| Reply {
        system: system.into(),
        selected: selected.map(Into::into),
        text: text.into(),
    };
    Report {
        title: "PAL on a small corpus".into(),
        summary: vec!["Trained from scratch.".into()],
        facts: vec![("Seconds".into(), "412".into())],
        curves: vec![Curve {
            title: "Loss".into(),
            x: "step".into(),
            y: "nats per token".into(),
            lines: vec![Line {
                name: "generation".into(),
                points: vec![(0.0, 8.0), (100.0, 6.0), (200.0, 4.9)],
            }],
            levels: vec![("unigram entropy".into(), 6.204)],
        }],
        table: Table {
            columns: vec![
                column("BLEU-1", "corpus, 1 reference, 13a, lower case", 1),
                column("Distinct-2", "corpus", 3),
                column("C.score", "", 3),
            ],
            rows: vec![row("stage 1 only", 11.04, 0.21), row("PAL", 12.38, 0.254), row("gold", 100.0, 0.612)],
        },
        checks: vec![
            check("validation loss", 4.812, "unigram entropy", 6.204, true),
            check("copy rate", 0.31, "plain fine-tuning", 0.28, false),
        ],
        conversations: vec![Conversation {
            persona: vec!["i have two dogs.".into(), "i work at night.".into()],
            history: vec![("A".into(), "hi! do you have pets?".into()), ("B".into(), "yes, and you?".into())],
            replies: vec![
                reply("stage 1 only", None, "i like to read."),
                reply("PAL", Some("i have two dogs."), "i have two dogs, they keep me busy."),
                reply("gold", None, "two dogs! they sleep when i work."),
            ],
        }],
        recipe: "steps = 600\n".into(),
    }
}

#[test]
fn json_reads_back_with_numbers_that_it_cannot_hold() {
    let mut report = sample();
    report.table.rows[0].cells[0] = Cell::Value(f64::NAN);
    report.checks[0].measured = f64::NAN;
    report.checks[0].baseline = f64::INFINITY;
    report.curves[0].lines[0].points[1].1 = f64::NAN;
    report.curves[0].levels[0].1 = f64::NAN;
    let json = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&json).unwrap();
    assert!(matches!(read.table.rows[0].cells[0], Cell::Value(v) if v.is_nan()));
    assert_eq!(read.table.rows[0].cells[1..], report.table.rows[0].cells[1..]);
    assert!(read.checks[0].measured.is_nan() && read.checks[0].baseline.is_nan());
    assert!(read.curves[0].lines[0].points[1].1.is_nan() && read.curves[0].levels[0].1.is_nan());
    assert_eq!(read.curves[0].lines[0].points[2], report.curves[0].lines[0].points[2]);
}
