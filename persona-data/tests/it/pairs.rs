//! Pairs of texts for encoders, against what transformers gives (`fixtures/pairs.py`).

use persona_data::{EncoderTokenizer, Error, NliItem, NliLabel, WordPieceOptions, train_wordpiece};
use serde::Deserialize;

use crate::fixture;

#[derive(Deserialize)]
struct Case {
    tokenizer: String,
    max_length: usize,
    first: String,
    second: String,
    ids: Vec<u32>,
    types: Vec<u32>,
    cut: bool,
}

#[test]
fn pairs_are_laid_out_and_cut_as_by_transformers() {
    let text = std::fs::read_to_string(fixture("pairs/expected.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert!(cases.iter().filter(|case| case.cut).count() > 10);
    for case in &cases {
        let folder = fixture("pairs").join(&case.tokenizer);
        let tokenizer =
            EncoderTokenizer::from_folder(folder).unwrap().with_max_tokens(case.max_length).unwrap();
        let pair = tokenizer.encode_pair((&case.first, &case.second)).unwrap();
        let place = format!("{} {} {:?} {:?}", case.tokenizer, case.max_length, case.first, case.second);
        assert_eq!((&pair.ids, &pair.token_types, pair.cut), (&case.ids, &case.types, case.cut), "{place}");
    }
}

fn item(id: &str, premise: &str, hypothesis: &str) -> NliItem {
    let (premise, hypothesis) = (premise.to_owned(), hypothesis.to_owned());
    NliItem { id: id.to_owned(), premise, hypothesis, label: NliLabel::Entailment }
}

fn bert(max_tokens: usize) -> EncoderTokenizer {
    EncoderTokenizer::from_folder(fixture("pairs/bert")).unwrap().with_max_tokens(max_tokens).unwrap()
}

#[test]
fn cuts_are_counted_and_labels_follow_the_models_classes() {
    let items =
        [item("a", "two dogs", "a cat"), item("b", "I have two dogs and a cat.", "no dogs and no cat")];
    let classes = [NliLabel::Neutral, NliLabel::Entailment, NliLabel::Contradiction];
    let (encoded, report) = bert(9).encode_items(&items, &classes).unwrap();
    assert!(encoded.iter().all(|text| text.label == 1 && text.text.ids.len() <= 9));
    assert_eq!((report.pairs, report.cut, report.lengths.max), (2, 1, 9));
    assert!(report.to_string().ends_with("1 cut"), "{report}");
    let single = bert(9).encode("I have two dogs and a cat. My job").unwrap();
    assert_eq!((single.ids.len(), single.ids[0], single.ids[8], single.cut), (9, 2, 3, true));
}

#[test]
fn empty_texts_are_refused() {
    let error =
        bert(9).encode_items(&[item("a", "x", "y"), item("b", "x", " \n")], &NliLabel::ALL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pair \"b\": the hypothesis is empty; remove the pair, there is nothing to read"
    );
    assert!(matches!(EncoderTokenizer::from_folder(fixture("pairs")), Err(Error::Open { .. })));
}

#[test]
fn a_wordpiece_tokenizer_is_trained_saved_and_loaded() {
    let texts = || (0..300).map(|at| format!("Word{} and word{} meet", at % 17, at % 23));
    let options = WordPieceOptions { vocab_size: 60, min_frequency: 2 };
    let first = train_wordpiece(texts(), &options, 24).unwrap();
    let second = train_wordpiece(texts().rev(), &options, 24).unwrap();
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert!(first.vocab_size() > 20 && first.vocab_size() <= 60, "{}", first.vocab_size());
    let pair = first.encode_pair(("WORD1 meet", "word2 and")).unwrap();
    assert_eq!((pair.ids[0], *pair.ids.last().unwrap(), pair.token_types[0]), (2, 3, 0));
    assert_eq!(pair.token_types.last(), Some(&1));

    let folder = tempfile::tempdir().unwrap();
    first.save(folder.path()).unwrap();
    let loaded = EncoderTokenizer::from_folder(folder.path()).unwrap();
    assert_eq!((loaded.fingerprint(), loaded.max_tokens()), (first.fingerprint(), 24));
    assert_eq!(loaded.encode_pair(("WORD1 meet", "word2 and")).unwrap(), pair);
    let side = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
    assert!(side.contains("\"pad_token\": \"[PAD]\""), "{side}");

    for (options, want) in [
        (WordPieceOptions { vocab_size: 5, ..options.clone() }, "vocab_size is 5"),
        (WordPieceOptions { vocab_size: usize::MAX, ..options.clone() }, "4194304"),
    ] {
        let error = train_wordpiece(texts(), &options, 24).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let empty = train_wordpiece([" ".to_owned()].into_iter(), &options, 24).unwrap_err().to_string();
    assert!(empty.contains("no text"), "{empty}");
}
