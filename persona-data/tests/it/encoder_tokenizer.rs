//! Tokenizers of encoders: from vocab.txt and tokenizer.json, pairs, what is too long.

use std::path::Path;

use persona_data::{EncodedText, EncoderTokenizer, Error};

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ni\nhave\na\ndog\n##s\n.\ncafe\nCafé\n狗\n";

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn tokenizer(config: &str) -> EncoderTokenizer {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "vocab.txt", VOCAB);
    write(folder.path(), "tokenizer_config.json", config);
    EncoderTokenizer::from_folder(folder.path()).unwrap()
}

#[test]
fn a_vocabulary_is_a_word_piece_tokenizer() {
    let uncased = tokenizer("{}");
    let ids = |tokenizer: &EncoderTokenizer, text: &str| tokenizer.encode(text).unwrap().ids;
    assert_eq!(ids(&uncased, " I  have a\tdogs. "), [2, 5, 6, 7, 8, 9, 10, 3]);
    assert_eq!(ids(&uncased, "Café狗x"), [2, 11, 13, 1, 3]);
    assert_eq!(ids(&uncased, ""), [2, 3]);
    assert_eq!(ids(&uncased, "a [SEP] a"), [2, 7, 3, 7, 3], "as text, too");
    let cased = tokenizer("{\"do_lower_case\": false, \"model_max_length\": 1e30}");
    assert_eq!(ids(&cased, "Café I"), [2, 12, 1, 3]);
    assert!(cased.is_boundary(2) && cased.is_boundary(3) && !cased.is_boundary(1));
    assert!(cased.check_vocabulary(14).is_ok());
    assert!(matches!(cased.check_vocabulary(13), Err(Error::VocabularyMismatch { largest: 13, rows: 13 })));
    assert!(!cased.marks_spaces());
}

#[test]
fn pairs_are_one_row_and_the_longer_text_is_cut() {
    let tokenizer = tokenizer("{\"model_max_length\": 9}");
    let row = tokenizer.encode_pair(("a dog", "i have")).unwrap();
    let expected =
        EncodedText { ids: vec![2, 7, 8, 3, 5, 6, 3], token_types: vec![0, 0, 0, 0, 1, 1, 1], cut: false };
    assert_eq!(row, expected);
    let long = tokenizer.encode_pair(("a dog", "i have a dog . i have a dog .")).unwrap();
    assert_eq!((long.ids, long.cut), (vec![2, 7, 8, 3, 5, 6, 7, 8, 3], true));
    let alone = tokenizer.encode("i have a dog . i have a dog .").unwrap();
    assert_eq!((alone.ids, alone.cut), (vec![2, 5, 6, 7, 8, 10, 5, 6, 3], true));
    assert!(!tokenizer.encode("i have a dog . i have").unwrap().cut);
    let both = ["a", "i have a dog . i have a dog ."];
    assert_eq!(tokenizer.encode_all(&both).unwrap(), both.map(|text| tokenizer.encode(text).unwrap()));
    assert!(matches!(tokenizer.with_max_tokens(7), Err(Error::EncodeOptions { .. })));
}

#[test]
fn folders_without_a_tokenizer_of_an_encoder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let load = || EncoderTokenizer::from_folder(folder.path());
    assert!(matches!(load(), Err(Error::Open { path, .. }) if path.ends_with("tokenizer.json")));
    write(folder.path(), "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
    assert!(matches!(load(), Err(Error::UnknownToken { role: "mask", .. })));
    write(folder.path(), "tokenizer_config.json", "{");
    assert!(matches!(load(), Err(Error::SideFile { .. })));
    write(folder.path(), "tokenizer_config.json", "{}");
    crate::encode::TOKENIZER.save(folder.path()).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(error.contains("no special token around a text"), "{error}");
}
