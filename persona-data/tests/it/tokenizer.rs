//! Tokenizers: training, files, special tokens, what matches a model.

use persona_data::{BpeOptions, Error, SpecialTokens, TextTokenizer, train_byte_level_bpe};
use serde_json::json;

use crate::encode::TOKENIZER;

#[test]
fn training_is_deterministic_whatever_the_order() {
    let texts = || (0..300).map(|at| format!("person1: word{} and word{} meet", at % 17, at % 23));
    let options = BpeOptions { vocab_size: 400, min_frequency: 2 };
    let first = train_byte_level_bpe(texts(), &options).unwrap();
    let second = train_byte_level_bpe(texts().rev(), &options).unwrap();
    assert_eq!(first.fingerprint(), second.fingerprint());
    let ids = ["<pad>", "<s>", "</s>"].map(|token| first.token_id(token));
    assert_eq!(ids, [Some(0), Some(1), Some(2)]);
    assert_eq!((first.pad_id(), first.bos_id(), first.eos_id()), (0, Some(1), 2));
    assert!(first.vocab_size() > 259 && first.vocab_size() <= 400);

    let small = train_byte_level_bpe(texts(), &BpeOptions { vocab_size: 258, min_frequency: 2 }).unwrap_err();
    assert!(small.to_string().contains("259"), "{small}");
    let large =
        train_byte_level_bpe(texts(), &BpeOptions { vocab_size: usize::MAX, min_frequency: u64::MAX });
    assert!(large.unwrap_err().to_string().contains("above 4194304"));
    let empty = train_byte_level_bpe([" ".to_owned()].into_iter(), &options).unwrap_err();
    assert!(empty.to_string().contains("no text"), "{empty}");
}

#[test]
fn a_tokenizer_survives_saving_and_loading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/model");
    TOKENIZER.save(&path).unwrap();
    let loaded = TextTokenizer::from_folder(&path, &SpecialTokens::default()).unwrap();
    assert_eq!(loaded.fingerprint(), TOKENIZER.fingerprint());
    assert_eq!((loaded.eos_id(), loaded.bos_id(), loaded.pad_id()), (2, Some(1), 0));
    assert_eq!(loaded.vocab_size(), TOKENIZER.vocab_size());
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2, "no half-written file is left");
    std::fs::write(folder.path().join("file"), "x").unwrap();
    assert!(matches!(TOKENIZER.save(folder.path().join("file/below")), Err(Error::Write { .. })));
}

#[test]
fn special_tokens_come_from_the_files_beside_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    TOKENIZER.save(path).unwrap();
    let write =
        |name: &str, value: serde_json::Value| std::fs::write(path.join(name), value.to_string()).unwrap();
    let load = |tokens: &SpecialTokens| TextTokenizer::from_folder(path, tokens);
    let none = SpecialTokens::default();

    std::fs::remove_file(path.join("tokenizer_config.json")).unwrap();
    let message = load(&none).unwrap_err().to_string();
    assert!(message.contains("config.json") && message.contains("SpecialTokens"), "{message}");
    let file = TextTokenizer::from_file(path.join("tokenizer.json"), &none).unwrap_err();
    assert!(matches!(file, Error::NoEos { .. }), "{file}");

    write("config.json", json!({"eos_token_id": 0}));
    assert_eq!(load(&none).unwrap().eos_id(), 0);
    write("generation_config.json", json!({"eos_token_id": [1, 2], "pad_token_id": null}));
    assert_eq!(load(&none).unwrap().eos_id(), 1);
    write("special_tokens_map.json", json!({"eos_token": {"content": "</s>", "lstrip": false}}));
    assert_eq!((load(&none).unwrap().eos_id(), load(&none).unwrap().pad_id()), (2, 2));
    write("tokenizer_config.json", json!({"eos_token": "<s>", "pad_token": {"content": "<pad>"}}));
    assert_eq!((load(&none).unwrap().eos_id(), load(&none).unwrap().pad_id()), (1, 0));
    let given = SpecialTokens { eos: Some("</s>".into()), ..SpecialTokens::default() };
    assert_eq!(load(&given).unwrap().eos_id(), 2);

    let unknown = SpecialTokens { eos: Some("<end>".into()), ..SpecialTokens::default() };
    assert!(load(&unknown).unwrap_err().to_string().contains("<end>"));
    std::fs::remove_file(path.join("tokenizer_config.json")).unwrap();
    std::fs::remove_file(path.join("special_tokens_map.json")).unwrap();
    write("generation_config.json", json!({"eos_token_id": 99_999}));
    assert!(load(&none).unwrap_err().to_string().contains("99999"));
    std::fs::write(path.join("config.json"), "{").unwrap();
    assert!(matches!(load(&given), Err(Error::SideFile { .. })));
    std::fs::write(path.join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(load(&given), Err(Error::Tokenizer { .. })));
    assert!(matches!(TextTokenizer::from_folder(path.join("none"), &none), Err(Error::Open { .. })));
}

#[test]
fn padding_and_truncation_of_the_file_are_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    TOKENIZER.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<pad>"});
    std::fs::write(&path, file.to_string()).unwrap();
    let loaded = TextTokenizer::from_folder(folder.path(), &SpecialTokens::default()).unwrap();
    let text = "the lazy dog and the quick brown fox";
    assert_eq!(loaded.encode(text).unwrap(), TOKENIZER.encode(text).unwrap());
}

#[test]
fn ids_and_vocabularies_that_do_not_match() {
    let size = TOKENIZER.vocab_size();
    TOKENIZER.check_vocabulary(size).unwrap();
    TOKENIZER.check_vocabulary(size + 47).unwrap();
    let message = TOKENIZER.check_vocabulary(size - 1).unwrap_err().to_string();
    assert!(message.contains(&format!("{}", size - 1)) && message.contains("does not match"), "{message}");
    assert!(matches!(TOKENIZER.decode(&[0, size as u32], true), Err(Error::IdOutOfRange { .. })));

    TOKENIZER.check_model(size, Some(1), Some(2)).unwrap();
    TOKENIZER.check_model(size, None, None).unwrap();
    let small = TOKENIZER.check_model(0, None, None);
    assert!(matches!(small, Err(Error::VocabularyMismatch { rows: 0, .. })));
    for (bos, eos, role, token) in [
        (Some(50_256), Some(2), "bos", "\"<s>\" with id 1"),
        (Some(1), Some(50_256), "eos", "\"</s>\" with id 2"),
    ] {
        let message = TOKENIZER.check_model(60_000, bos, eos).unwrap_err().to_string();
        assert!(message.contains(token) && message.contains(&format!("{role}_token_id 50256")), "{message}");
    }
    assert_eq!(TOKENIZER.decode(&[0, 2], true).unwrap(), "");
    assert_eq!(TOKENIZER.decode(&[0, 2], false).unwrap(), "<pad></s>");
}
