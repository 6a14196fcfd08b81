//! Bad files and bad batches of encoders and classifiers: an error that names the place.

use std::path::Path;

use persona_model::{
    Batch, BatchBuilder, BertType, CausalLm, Classifier, Encoder, Error, Model, Pooling,
    classifier_on_encoder, load_causal_lm, load_classifier, load_encoder,
};
use serde_json::json;
use tch::{Device, Kind};

use crate::bad_input::edit_config;
use crate::encoders::{classifier, encoder};

fn saved(model: &dyn Model) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    folder
}

fn encoder_error(folder: &Path) -> Error {
    load_encoder(folder, Device::Cpu, Kind::Float).err().unwrap()
}

fn classifier_error(folder: &Path) -> Error {
    load_classifier(folder, Device::Cpu, Kind::Float).err().unwrap()
}

#[test]
fn rows_too_long_and_ids_out_of_vocabulary() {
    // 34 positions; RoBERTa's count from 2.
    for (model_type, most) in [(BertType::Bert, 34), (BertType::Roberta, 32)] {
        let model = encoder(model_type);
        let build = |row: &[u32]| Batch::rows_of(&[&[1], row], model.limits(), Device::Cpu);
        let _ = model.hidden(&build(&vec![3; most]).unwrap(), false).unwrap();
        let error = build(&vec![3; most + 1]).unwrap_err().to_string();
        assert!(error.contains(&format!("row 1 has {} tokens", most + 1)), "{error}");
        assert!(build(&[2, 40]).unwrap_err().to_string().contains("token id 40 in row 1"));
        assert_eq!(classifier(model_type).limits(), model.limits());
    }
}

#[test]
fn token_types_that_do_not_fit() {
    let (model, limits) = (encoder(BertType::Bert), encoder(BertType::Bert).limits());
    let batch = || Batch::rows_of(&[&[1, 2], &[3]], limits, Device::Cpu).unwrap();
    let refused = |types: &[&[u32]]| batch().with_token_types(types).unwrap_err().to_string();
    assert!(refused(&[&[0, 0]]).contains("1 lists of token types for 2 rows"));
    assert!(refused(&[&[0, 0], &[0, 1]]).contains("row 1 has 1 tokens and 2 token types"));
    let typed = batch().with_token_types(&[&[0, 1], &[2]]).unwrap();
    let error = model.hidden(&typed, false).unwrap_err().to_string();
    assert!(error.contains("token type 2 in row 1") && error.contains("2 token types"), "{error}");
    for model in crate::models() {
        let error = model.hidden(&batch().with_token_types(&[&[0, 1], &[0]]).unwrap(), None, false);
        assert!(error.unwrap_err().to_string().contains("token types are for encoders"));
    }
}

#[test]
fn rows_that_continue_others_and_layers_that_are_not_there() {
    let model = encoder(BertType::Roberta);
    for cached in [false, true] {
        let mut builder = BatchBuilder::default();
        let first = builder.row(&[1, 2]);
        if cached {
            builder.cached(0, 2, &[3])
        } else {
            builder.continuation(first, &[3])
        };
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let error = model.hidden(&batch, false).unwrap_err().to_string();
        assert!(error.contains("row 1 continues"), "{error}");
        assert!(classifier(BertType::Bert).logits(&batch, false).is_err());
    }
    let batch = Batch::rows_of(&[&[1, 2]], model.limits(), Device::Cpu).unwrap();
    let error = model.layer_output(&batch, 3, false).unwrap_err().to_string();
    assert!(error.contains("layer 3 of an encoder that has 2"), "{error}");
    let other = Batch::rows_of(&[&[1]], model.limits(), Device::Cpu).unwrap();
    assert!(Pooling::Mean.of(&model.hidden(&batch, false).unwrap(), &other).is_err());
}

#[test]
fn impossible_configs_name_the_key() {
    for (key, value) in [
        ("num_attention_heads", json!(3)),
        ("hidden_size", json!(0)),
        ("vocab_size", json!(1u64 << 40)),
        ("type_vocab_size", json!(0)),
        ("num_hidden_layers", json!(1 << 20)),
        ("hidden_dropout_prob", json!(1.5)),
        ("classifier_dropout", json!(-0.1)),
        ("layer_norm_eps", json!(0.0)),
        ("initializer_range", json!(-1.0)),
        ("position_embedding_type", json!("relative_key")),
    ] {
        for model_type in [BertType::Bert, BertType::Roberta] {
            let folder = saved(&encoder(model_type));
            edit_config(folder.path(), key, value.clone());
            let error = encoder_error(folder.path());
            assert!(matches!(&error, Error::Config { key: named, .. } if *named == key), "{key}: {error}");
        }
    }
    let folder = saved(&encoder(BertType::Roberta));
    edit_config(folder.path(), "is_decoder", true.into());
    assert!(encoder_error(folder.path()).to_string().contains("is_decoder"));
    edit_config(folder.path(), "is_decoder", false.into());
    edit_config(folder.path(), "pad_token_id", 33.into());
    assert!(encoder_error(folder.path()).to_string().contains("positions count from pad_token_id + 1 = 34"));
    edit_config(folder.path(), "id2label", json!(["a", "b"]));
    let error = encoder_error(folder.path());
    assert!(matches!(error, Error::Json { .. }) && error.to_string().contains("config.json"), "{error}");
}

#[test]
fn another_architecture_is_refused_both_ways() {
    let folder = saved(&crate::tiny());
    for error in [encoder_error(folder.path()), classifier_error(folder.path())] {
        let error = error.to_string();
        assert!(
            error.contains("model_type") && error.contains("gpt2") && error.contains("roberta"),
            "{error}"
        );
    }
    let folder = saved(&encoder(BertType::Bert));
    let error = load_causal_lm(folder.path(), Device::Cpu, Kind::Float).err().unwrap().to_string();
    assert!(error.contains("is `bert`"), "{error}");
    edit_config(folder.path(), "model_type", json!(null));
    assert!(encoder_error(folder.path()).to_string().contains("is missing"));
    // RoBERTa's weights under BERT's name have another prefix.
    let folder = saved(&classifier(BertType::Roberta));
    edit_config(folder.path(), "model_type", json!("bert"));
    let Error::Load { report, .. } = encoder_error(folder.path()) else { panic!("not a load error") };
    assert!(report.unexpected.iter().all(|name| name.starts_with("roberta.")) && !report.missing.is_empty());
}

#[test]
fn a_config_that_contradicts_the_weights_lists_what_does_not_fit() {
    let folder = saved(&encoder(BertType::Bert));
    edit_config(folder.path(), "num_hidden_layers", 3.into());
    let Error::Load { report, .. } = encoder_error(folder.path()) else { panic!("not a load error") };
    assert_eq!((report.missing.len(), report.unexpected.len()), (16, 0));
    edit_config(folder.path(), "num_hidden_layers", 2.into());
    edit_config(folder.path(), "type_vocab_size", 1.into());
    let error = encoder_error(folder.path()).to_string();
    assert!(error.contains("token_type_embeddings.weight: file [2, 16], model [1, 16]"), "{error}");
    // A fresh head does not excuse what else is missing.
    let error = classifier_on_encoder(folder.path(), &["a", "b"], 0, Device::Cpu, Kind::Float).err().unwrap();
    assert!(matches!(error, Error::Load { .. }), "{error}");
}

#[test]
fn labels_that_contradict_each_other_or_the_head() {
    for (model_type, head) in [(BertType::Bert, "classifier"), (BertType::Roberta, "classifier.out_proj")] {
        let folder = saved(&classifier(model_type));
        edit_config(folder.path(), "label2id", json!({"contradiction": 2, "neutral": 1, "entailment": 0}));
        let error = classifier_error(folder.path());
        assert!(matches!(error, Error::Config { key: "label2id", .. }), "{error}");
        edit_config(folder.path(), "label2id", json!(null));
        edit_config(folder.path(), "id2label", json!({"0": "no", "1": "yes"}));
        let error = classifier_error(folder.path()).to_string();
        assert!(error.contains(&format!("{head}.bias: file [3], model [2]")), "{error}");
        edit_config(folder.path(), "id2label", json!({"0": "no", "2": "yes"}));
        assert!(matches!(classifier_error(folder.path()), Error::Config { key: "id2label", .. }));
        for labels in [&["a", "a"][..], &[]] {
            let error = classifier_on_encoder(folder.path(), labels, 0, Device::Cpu, Kind::Float).err();
            assert!(matches!(error.unwrap(), Error::Config { key: "id2label", .. }));
        }
    }
}
