use std::cell::RefCell;

use ndarray::Array2;

use super::*;
use crate::error::ModelError;
use crate::stats::Resample;

/// A token a letter between the special tokens 0 and 1. The vector of a letter is its place in the alphabet on a circle.
#[derive(Default)]
struct Letters {
    asked: RefCell<Vec<String>>,
}

impl TokenEmbedder for Letters {
    fn name(&self) -> String {
        "letters".to_owned()
    }

    fn layer(&self) -> usize {
        3
    }

    fn batch_size(&self) -> usize {
        2
    }

    fn token_ids(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, ModelError> {
        let ids = |text: &&str| [0].into_iter().chain(text.chars().map(|c| c as u32)).chain([1]).collect();
        Ok(texts.iter().map(ids).collect())
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<TokenVectors>, ModelError> {
        assert!(texts.len() <= 2);
        self.asked.borrow_mut().extend(texts.iter().map(|&text| text.to_owned()));
        let one = |ids: Vec<u32>| {
            let angle = |id: u32| if id == 63 { f32::NAN } else { 0.3 * id as f32 };
            let values = ids.iter().flat_map(|&id| [angle(id).cos(), angle(id).sin(), 2.0]).collect();
            let vectors = Array2::from_shape_vec((ids.len(), 3), values)?;
            Ok(TokenVectors { vectors, special: ids.iter().map(|&id| id < 2).collect(), ids })
        };
        self.token_ids(texts)?.into_iter().map(one).collect()
    }
}

fn values(settings: &BertScore, hypotheses: &[&str], references: &[&[&str]]) -> Result<Vec<f64>> {
    let references: Vec<Vec<&str>> = references.iter().map(|references| references.to_vec()).collect();
    Ok(settings.corpus(&Letters::default(), hypotheses, &references)?.values())
}

#[test]
fn each_distinct_text_is_embedded_once() {
    let embedder = Letters::default();
    let hypotheses = vec!["ab", "abc", " ab ", "d"];
    let references = vec![vec!["ab", "d"], vec!["abc"], vec!["ab"], vec!["d"]];
    let scores = BertScore::default().corpus(&embedder, &hypotheses, &references).unwrap();
    assert!(scores.values().iter().all(|value| (value - 1.0).abs() < 1e-7), "{scores}");
    assert_eq!(embedder.asked.into_inner(), ["abc", "ab", "d"], "the longest first");
    let line = scores.get(EmbeddedBertScore::F1).unwrap().to_string();
    let start = "BERTScore-F1 = 100.00 | variant:bert-score|model:letters|layer:3|idf:no|rescale:no|swap:no|refs:1-2|";
    assert!(line.starts_with(start), "{line}");
}

#[test]
fn the_best_reference_counts_for_each_score_by_itself() {
    let alone = |reference| values(&BertScore::default(), &["ab"], &[&[reference]]).unwrap();
    let (first, second) = (alone("abmn"), alone("a"));
    assert!(first[0] > second[0] && first[1] < second[1]);
    let both = values(&BertScore::default(), &["ab"], &[&["abmn", "a"]]).unwrap();
    assert_eq!(both, [first[0], second[1], first[2].max(second[2])]);
}

#[test]
fn empty_texts_score_0() {
    for (hypothesis, reference) in [("", "ab"), ("ab", " \t"), ("", "")] {
        assert_eq!(values(&BertScore::default(), &[hypothesis], &[&[reference]]).unwrap(), [0.0; 3]);
        assert_eq!(
            values(&BertScore::default().idf(true), &[hypothesis], &[&[reference]]).unwrap(),
            [0.0; 3]
        );
    }
}

#[test]
fn idf_weighs_rare_tokens_more() {
    // a stands in both references, b in one, so that only b counts in the first pair's recall.
    let hypotheses = ["am", "ax"];
    let references: [&[&str]; 2] = [&["ab"], &["ac"]];
    let embedder = Letters::default();
    let idf = Idf::of(&embedder, &["ab", "ac"]).unwrap();
    assert_eq!([idf.weight(97), idf.weight(98), idf.weight(7)], [0.0, 1.5_f64.ln(), 3.0_f64.ln()]);
    let weighted = BertScore::default().idf(true);
    let given = values(&BertScore::default().idf_from(idf), &hypotheses, &references).unwrap();
    assert_eq!(values(&weighted, &hypotheses, &references).unwrap(), given);
    assert!(given[1] < values(&BertScore::default(), &hypotheses, &references).unwrap()[1]);
    let same = values(&weighted, &["ab"], &[&["ab"]]).unwrap_err();
    assert!(
        matches!(same, Error::Example { index: 0, source } if matches!(*source, Error::NoIdfWeight { documents: 1 }))
    );
}

#[test]
fn parts_under_one_table_merge() {
    let embedder = Letters::default();
    let idf = Idf::of(&embedder, &["ab", "cd"]).unwrap();
    let settings = BertScore::default().idf_from(idf);
    let (hypotheses, references) = (["ax", "cy"], ["ab", "cd"]);
    let whole = settings.collect(&embedder, &hypotheses, &references).unwrap();
    let mut parts = settings.collect(&embedder, &hypotheses[..1], &references[..1]).unwrap();
    parts.merge(&settings.collect(&embedder, &hypotheses[1..], &references[1..]).unwrap()).unwrap();
    assert_eq!(parts, whole);
    assert!(parts.merge(&BertScore::default().collect(&embedder, &["a"], &["b"]).unwrap()).is_err());
    let json = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<Statistics<EmbeddedBertScore>>(&json).unwrap(), whole);
    let examples = settings.examples(&embedder, &hypotheses, &references).unwrap();
    assert_eq!(examples.scores_of(&[0, 1]).unwrap(), whole.values().unwrap());
}

#[test]
fn swapped_arguments_exchange_precision_and_recall() {
    let plain = values(&BertScore::default(), &["abx"], &[&["ab"]]).unwrap();
    let swapped = BertScore::default().swapped(true);
    assert_eq!(values(&swapped, &["abx"], &[&["ab"]]).unwrap(), [plain[1], plain[0], plain[2]]);
    let two = values(&swapped, &["abx"], &[&["ab", "c"]]).unwrap_err();
    assert!(
        matches!(two, Error::Example { source, .. } if matches!(*source, Error::SwapNeedsOneReference { .. }))
    );
}

#[test]
fn rescaling_needs_the_baseline_of_the_layer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.tsv");
    std::fs::write(&path, "LAYER,P,R,F\n2,0,0,0\n3,0.5,0.75,0.9\n").unwrap();
    let rescaled = BertScore::default().rescaled(Baseline::read(&path, 3).unwrap());
    let plain = values(&BertScore::default(), &["abx"], &[&["abc"]]).unwrap();
    let expected = [(plain[0] - 0.5) / 0.5, (plain[1] - 0.75) / 0.25, (plain[2] - 0.9) / (1.0 - 0.9)];
    for (value, expected) in values(&rescaled, &["abx"], &[&["abc"]]).unwrap().iter().zip(expected) {
        assert!((value - expected).abs() < 1e-12);
    }
    let other = BertScore::default().rescaled(Baseline::read(&path, 2).unwrap());
    let error = values(&other, &["abx"], &[&["abc"]]).unwrap_err().to_string();
    assert!(error.contains("layer 2") && error.contains('3'), "{error}");
}

#[test]
fn bad_input_is_an_error() {
    let score = |hypotheses: &[&str], references: &[&[&str]]| {
        values(&BertScore::default(), hypotheses, references).unwrap_err()
    };
    assert!(matches!(score(&[], &[]), Error::EmptyCorpus { .. }));
    assert!(matches!(score(&["a"], &[]), Error::LengthMismatch { .. }));
    assert!(matches!(score(&["a", "b"], &[&["a"], &[]]), Error::Example { index: 1, .. }));
    assert!(matches!(score(&["what?"], &[&["a"]]), Error::Embedding { text, .. } if text == "what?"));
}
