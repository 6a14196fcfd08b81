//! Outcomes and orders of a small file.

use super::*;
use crate::report::{Cell, Column, Row};

fn table(values: &[(System, f64)]) -> Table {
    let column = Column { name: "BLEU-1".into(), signature: String::new(), decimals: 1 };
    let row = |&(system, value): &(System, f64)| Row {
        system: system.name().into(),
        cells: vec![Cell::Value(value)],
    };
    Table { columns: vec![column], rows: values.iter().map(row).collect() }
}

fn test(system: System, p_holm: f64, agreeing: usize) -> Compared {
    Compared {
        column: "BLEU-1".into(),
        system: system.name().into(),
        against: System::Pal.name().into(),
        p_value: p_holm,
        p_holm,
        p_seeds: None,
        agreeing,
        seeds: 3,
    }
}

const FILE: &str = "written = 'now'\n[paper]\nsource = 'Table 5'\nsizes = 'all'\ncolumns = ['BLEU-1']\n\
    [paper.rows]\npal = [17.05]\nwithout_pa = [14.45]\nwithout_mix = [16.03]\n\
    [[paper.orders]]\nsource = 'Figure 3'\ncolumns = ['BLEU-1']\nbest_first = ['pal', 'pal_random']\n\
    [[rows]]\nrow = 'without_pa'\ncolumn = 'BLEU-1'\nexpect = 'lower'\nwhy = 'x'\n\
    [[rows]]\nrow = 'gold'\ncolumn = 'BLEU-1'\nexpect = 'higher'\nwhy = 'x'\n\
    [[curve]]\ncolumn = 'BLEU-1'\nexpect = 'rises_then_falls'\nwhy = 'x'\n";

#[test]
fn an_outcome_counts_by_the_test_and_by_every_seed() {
    let read: Predictions = toml::from_str(FILE).unwrap();
    let table = table(&[(System::Pal, 10.0), (System::WithoutPa, 9.0)]);
    let holds = |tests: &[Compared]| {
        let outcomes = read.outcomes(&table, tests, &[]);
        (outcomes[0].holds, outcomes[0].outcome.clone())
    };
    assert_eq!(holds(&[]), (None, None));
    assert_eq!(holds(&[test(System::WithoutPa, 0.01, 3)]), (Some(true), Some("lower".into())));
    for test in [test(System::WithoutPa, 0.06, 3), test(System::WithoutPa, 0.01, 2)] {
        assert_eq!(holds(&[test]), (Some(false), Some("not told apart".into())));
    }
    let outcomes = read.outcomes(&table, &[], &[]);
    assert_eq!(outcomes[0].paper.as_deref(), Some("14.45 against 17.05"));
    assert_eq!((outcomes[1].holds, outcomes[2].holds), (None, None), "neither gold nor a curve was measured");
}

#[test]
fn a_curve_is_judged_by_where_it_is_highest() {
    assert_eq!(Shape::of(&[1.0, 3.0, 2.0]), Some(Shape::RisesThenFalls));
    assert_eq!(Shape::of(&[1.0, 2.0, 3.0]), Some(Shape::Rises));
    assert_eq!(Shape::of(&[3.0, 3.0, 2.0]), Some(Shape::Falls));
    assert_eq!((Shape::of(&[]), Shape::of(&[3.0]), Shape::of(&[0.0, 0.0, 0.0])), (None, None, None));
    let read: Predictions = toml::from_str(FILE).unwrap();
    let at = |value| table(&[(System::Pal, value)]);
    let curve = [(0, at(1.0)), (10, at(3.0)), (20, at(2.0))];
    assert_eq!(read.outcomes(&at(3.0), &[], &curve)[2].holds, Some(true));
    // A curve that does not move is highest nowhere, whatever was predicted.
    let flat = [0, 10, 20].map(|step| (step, at(2.0)));
    for shape in ["falls", "rises_then_falls"] {
        let read: Predictions = toml::from_str(&FILE.replace("rises_then_falls", shape)).unwrap();
        let outcome = &read.outcomes(&at(2.0), &[], &flat)[2];
        assert_eq!((outcome.holds, outcome.outcome.as_deref()), (Some(false), Some("the same throughout")));
    }
}

#[test]
fn gold_is_compared_and_not_tested() {
    let read: Predictions = toml::from_str(FILE).unwrap();
    let mut table = table(&[(System::Pal, 10.0)]);
    table.rows.push(Row { system: "gold".into(), cells: vec![Cell::Value(10.5)] });
    let outcome = &read.outcomes(&table, &[], &[])[1];
    assert_eq!((outcome.holds, outcome.numbers.as_str()), (Some(true), "10.500 against 10.000, not tested"));
    let same: Predictions = toml::from_str(&FILE.replace("'higher'", "'same'")).unwrap();
    let outcome = &same.outcomes(&table, &[], &[])[1];
    assert_eq!(outcome.holds, Some(false));
    assert!(outcome.numbers.contains("cannot come true"), "{}", outcome.numbers);
}

#[test]
fn orders_name_the_pairs_that_are_turned() {
    let read: Predictions = toml::from_str(FILE).unwrap();
    let ours = table(&[
        (System::Pal, 10.0),
        (System::WithoutPa, 11.0),
        (System::WithoutMix, 2.0),
        (System::PalRandom, 12.0),
    ]);
    let orders = read.orders(&ours);
    assert_eq!(orders[0].paper, [System::Pal.name(), System::WithoutMix.name(), System::WithoutPa.name()]);
    assert_eq!(orders[0].ours, [System::WithoutPa.name(), System::Pal.name(), System::WithoutMix.name()]);
    assert_eq!(orders[0].turned.len(), 2);
    assert!((orders[0].tau.unwrap() + 1.0 / 3.0).abs() < 1e-12, "{:?}", orders[0].tau);
    assert_eq!(orders[1].turned, [(System::Pal.name().to_owned(), System::PalRandom.name().to_owned())]);
}

#[test]
fn an_order_claims_no_more_than_the_figure_shows() {
    let three = FILE.replace("'pal_random']", "'pal_random', 'pal_not_select']");
    let read: Predictions = toml::from_str(&three).unwrap();
    let others = [(System::PalRandom, 2.0), (System::PalNotSelect, 3.0)];
    let shown = read.orders(&table(&[&[(System::Pal, 1.0)][..], &others].concat()));
    let rest = format!("{} and {}", System::PalRandom.name(), System::PalNotSelect.name());
    assert_eq!(shown[0].paper, [System::Pal.name(), &rest]);
    assert_eq!(shown[0].ours.last().map(String::as_str), Some(System::Pal.name()));
    // Between the others it shows none.
    assert!(read.orders(&table(&others)).is_empty());
}

#[test]
fn the_best_perplexity_is_the_lowest() {
    let read: Predictions = toml::from_str(&FILE.replace("'BLEU-1'", "'Perplexity'")).unwrap();
    let mut ours = table(&[(System::Pal, 10.0), (System::WithoutPa, 11.0), (System::WithoutMix, 9.0)]);
    ours.columns[0].name = "Perplexity".into();
    let order = &read.orders(&ours)[0];
    let [pal, without_pa, without_mix] =
        [System::Pal, System::WithoutPa, System::WithoutMix].map(|system| system.name().to_owned());
    assert_eq!(order.paper, [without_pa.clone(), without_mix.clone(), pal.clone()]);
    assert_eq!(order.ours, [without_mix.clone(), pal.clone(), without_pa.clone()]);
    assert_eq!(order.turned, [(without_pa.clone(), pal), (without_pa, without_mix)]);
}

#[test]
fn the_shipped_predictions_are_good_and_a_short_row_is_named() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let (read, _) = Predictions::load(&recipes.join("personachat.predictions.toml")).unwrap();
    assert!(read.rows.len() > 20 && read.curve.len() == 3);
    let (read, _) = Predictions::load(&recipes.join("personachat_described.predictions.toml")).unwrap();
    assert_eq!((read.rows.len(), read.curve.len()), (12, 0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    std::fs::write(&path, FILE.replace("[14.45]", "[14.45, 7.86]")).unwrap();
    let error = format!("{:#}", Predictions::load(&path).unwrap_err());
    assert!(error.contains("2 values") && error.contains("stage 1 alone"), "{error}");
    std::fs::write(&path, FILE.replace("expect = 'lower'", "expect = 'down'")).unwrap();
    assert!(format!("{:#}", Predictions::load(&path).unwrap_err()).contains("down"));
    for (from, to, at) in [
        (
            "column = 'BLEU-1'\nexpect = 'higher'",
            "column = 'BLUE-1'\nexpect = 'higher'",
            "number 2 of `rows`, gold",
        ),
        ("column = 'BLEU-1'\nexpect = 'rises", "column = 'C.score'\nexpect = 'rises", "number 1 of `curve`"),
        ("columns = ['BLEU-1']\n[paper.rows]", "columns = ['BLEU']\n[paper.rows]", "`paper.columns`"),
        ("columns = ['BLEU-1']\nbest", "columns = ['BLEU-1', 'ROUGE']\nbest", "`paper.orders`, Figure 3"),
    ] {
        assert!(FILE.contains(from), "{from}");
        std::fs::write(&path, FILE.replace(from, to)).unwrap();
        let error = format!("{:#}", Predictions::load(&path).unwrap_err());
        assert!(
            error.contains(at) && error.contains("p.toml") && error.contains("BLEU-1, BLEU-2"),
            "{error}"
        );
    }
}
