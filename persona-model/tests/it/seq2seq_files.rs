//! Files of encoder-decoders, and bad input: an error that names the place.

use persona_model::{
    Batch, BatchBuilder, CausalLm, EncoderDecoder, Error, Memory, Model, Seq2SeqBatchBuilder, T5, T5Config,
};
use tch::{Device, Kind, Tensor};

use crate::difference;
use crate::seq2seq::{SOURCES, models, rows, scored};

/// A folder with a saved model, and its tensors.
fn saved(model: &T5) -> (tempfile::TempDir, Vec<(String, Tensor)>) {
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let tensors = persona_model::read_tensors(&folder.path().join("model.safetensors")).unwrap().0;
    (folder, tensors.into_iter().collect())
}

fn load(folder: &tempfile::TempDir) -> persona_model::Result<(T5, persona_model::LoadReport)> {
    T5::load(folder.path(), Device::Cpu, Kind::Float)
}

fn edit_config(folder: &tempfile::TempDir, keys: &[(&str, serde_json::Value)]) {
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    keys.iter().for_each(|(key, value)| config[*key] = value.clone());
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn what_is_saved_is_loaded_again() {
    for model in models() {
        let (folder, _) = saved(&model);
        let (again, report) = load(&folder).unwrap();
        assert!(report.is_exact() && report.cast.is_empty());
        assert_eq!(difference(model.parameters().flat(), again.parameters().flat()), 0.0);
        let scores = |model: &T5| scored(model, true).log_probs(model, false).unwrap();
        assert_eq!(difference(&scores(&model), &scores(&again)), 0.0);
    }
}

#[test]
fn copies_of_the_embeddings_are_passed_over_where_they_are_copies() {
    let [model, _] = models();
    let (folder, mut tensors) = saved(&model);
    let file = folder.path().join("model.safetensors");
    let shared = model.parameters().get("shared.weight").unwrap();
    let unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    tensors.push((unused.into(), Tensor::zeros([8, 2], (Kind::Float, Device::Cpu))));
    for name in ["lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
        tensors.push((name.into(), shared.shallow_clone()));
        persona_model::write_tensors(&file, &tensors, &[]).unwrap();
        let (_, report) = load(&folder).unwrap();
        assert!(report.ignored.iter().any(|ignored| ignored == name), "{report}");
        tensors.last_mut().unwrap().1 = shared * 2.0;
        persona_model::write_tensors(&file, &tensors, &[]).unwrap();
        let error = load(&folder).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}: differs from shared.weight")), "{error}");
        tensors.last_mut().unwrap().1 = shared.shallow_clone();
    }
}

#[test]
fn heads_are_tied_and_outputs_scaled_as_file_and_config_say() {
    let [tied, own] = models();
    // As transformers 5 writes 1.1: tied by the config, not scaled. With a head in the file, the head counts.
    let (folder, _) = saved(&own);
    let keys = [("tie_word_embeddings", true.into()), ("scale_decoder_outputs", false.into())];
    edit_config(&folder, &keys);
    let (again, _) = load(&folder).unwrap();
    assert_eq!(difference(own.parameters().flat(), again.parameters().flat()), 0.0);
    let hidden = Tensor::ones([1, 16], (Kind::Float, Device::Cpu));
    assert_eq!(difference(&own.logits(&hidden).unwrap(), &again.logits(&hidden).unwrap()), 0.0);
    // Without one, the embeddings are the head.
    let (folder, _) = saved(&tied);
    edit_config(&folder, &keys);
    let (again, _) = load(&folder).unwrap();
    let unscaled = tied.logits(&(&hidden * 4.0)).unwrap();
    assert!(difference(&unscaled, &again.logits(&hidden).unwrap()) < 1e-5, "the root of 16 features");
    // A head of its own that is not there, and one that contradicts a tied, scaled model.
    edit_config(&folder, &[("tie_word_embeddings", false.into())]);
    assert!(load(&folder).unwrap_err().to_string().contains("missing (lm_head.weight)"));
    let (folder, _) = saved(&own);
    edit_config(&folder, &[("tie_word_embeddings", true.into()), ("scale_decoder_outputs", true.into())]);
    assert!(load(&folder).unwrap_err().to_string().contains("lm_head.weight: differs"));
}

#[test]
fn impossible_configs_name_the_key() {
    for (key, value) in [
        ("model_type", serde_json::json!("mt5")),
        ("d_kv", 0.into()),
        ("num_layers", 0.into()),
        ("vocab_size", (1u64 << 40).into()),
        ("dropout_rate", 1.5.into()),
        ("layer_norm_epsilon", 0.0.into()),
        ("feed_forward_proj", "gated-maxout".into()),
        ("is_gated_act", true.into()),
        ("dense_act_fn", "gelu".into()),
        ("relative_attention_num_buckets", 2.into()),
        ("relative_attention_max_distance", 4.into()),
        ("decoder_start_token_id", 40.into()),
        ("eos_token_id", 99.into()),
    ] {
        let (folder, _) = saved(&models()[0]);
        edit_config(&folder, &[(key, value)]);
        let error = load(&folder).unwrap_err();
        assert!(matches!(&error, Error::Config { key: named, .. } if *named == key), "{key}: {error}");
    }
    let (folder, _) = saved(&models()[0]);
    let none = serde_json::Value::Null;
    edit_config(&folder, &[("decoder_start_token_id", none.clone()), ("pad_token_id", none)]);
    assert!(load(&folder).unwrap_err().to_string().contains("decoder_start_token_id"));
}

#[test]
fn a_config_that_contradicts_the_weights_lists_what_does_not_fit() {
    for (key, value, part) in [
        ("num_decoder_layers", serde_json::json!(4), "missing (decoder.block.3."),
        ("num_layers", 1.into(), "unexpected (encoder.block.1."),
        ("vocab_size", 41.into(), "shared.weight: file [40, 16], model [41, 16]"),
        ("d_kv", 4.into(), "of another shape"),
        ("feed_forward_proj", "gated-gelu".into(), "DenseReluDense.wi_0.weight"),
    ] {
        let (folder, _) = saved(&models()[0]);
        edit_config(&folder, &[(key, value)]);
        let error = load(&folder).unwrap_err();
        assert!(matches!(&error, Error::Load { .. }) && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn bad_sources_and_targets_are_named() {
    let [model, _] = models();
    let build = |source: &[u32], targets: &[&[u32]]| {
        let mut builder = Seq2SeqBatchBuilder::default();
        builder.source(&[1], &[&[2]]);
        builder.source(source, targets);
        builder.build(&model).unwrap_err().to_string()
    };
    assert!(build(&[], &[&[1]]).contains("source 1"));
    assert!(build(&[1], &[]).contains("source 1") && build(&[1], &[&[1], &[]]).contains("source 1"));
    assert!(build(&[1, 40], &[&[1]]).contains("token id 40 in row 1"));
    assert!(build(&[1], &[&[1, 40]]).contains("token id 40 in row 1"));
    let long = vec![1; T5Config::POSITIONS + 1];
    assert!(build(&long, &[&[1]]).contains("row 1 has 16385 tokens, the model has 16384 positions"));
    assert!(build(&[1], &[&long]).contains("row 1 has 16385 tokens"));

    let source = rows(&model, &SOURCES);
    let encoded = model.encode(&source, false).unwrap();
    let decode = |target: &Batch| {
        model.decode(target, Memory::Encoded(&encoded), false).map(drop).map_err(|error| error.to_string())
    };
    let two = || rows(&model, &[&[0], &[0, 1]]);
    assert!(decode(&two()).unwrap_err().contains("2 target rows for 3 source rows"));
    assert!(decode(&two().with_sources(vec![2, 3]).unwrap()).unwrap_err().contains("reads source row 3"));
    assert!(two().with_sources(vec![0]).unwrap_err().to_string().contains("1 sources for 2 rows"));
    decode(&two().with_sources(vec![2, 2]).unwrap()).unwrap();
    assert!(model.cache(&encoded, &[0, 3], 4).unwrap_err().to_string().contains("reads source row 3"));

    let mut builder = BatchBuilder::default();
    let first = builder.row(&[1, 2]);
    builder.continuation(first, &[3]);
    let continued = builder.build(model.limits(), Device::Cpu).unwrap();
    assert!(model.encode(&continued, false).unwrap_err().to_string().contains("row 1 continues another"));

    let typed = || rows(&model, &[&[0]]).with_token_types(&[&[0]]).unwrap();
    assert!(model.encode(&typed(), false).unwrap_err().to_string().contains("token types"));
    let typed = typed().with_sources(vec![0]).unwrap();
    assert!(decode(&typed).unwrap_err().contains("token types"));
    let sourced = || rows(&model, &[&[0]]).with_sources(vec![0]).unwrap();
    assert!(model.encode(&sourced(), false).unwrap_err().to_string().contains("sources are for the targets"));
    let error = crate::tiny().hidden(&sourced(), None, false).unwrap_err().to_string();
    assert!(error.contains("sources are for the targets"), "{error}");

    let mut cache = model.cache(&encoded, &[0, 1], 4).unwrap();
    let mut step = |row: usize, past: usize, sources: Option<Vec<usize>>| {
        let mut builder = BatchBuilder::default();
        builder.cached(row, past, &[0]);
        let mut batch = builder.build(model.limits(), Device::Cpu).unwrap();
        if let Some(sources) = sources {
            batch = batch.with_sources(sources).unwrap();
        }
        model.decode(&batch, Memory::Cache(&mut cache), false).map(drop).map_err(|error| error.to_string())
    };
    assert!(step(2, 0, None).unwrap_err().contains("cache row 2 of 2"));
    assert!(step(0, 1, None).unwrap_err().contains("cache row 0 holds 0"));
    assert!(step(0, 0, Some(vec![1])).unwrap_err().contains("has its own"));
    step(0, 0, None).unwrap();
    step(0, 1, None).unwrap();
    assert!(cache.keep(&[5]).is_err());
    cache.keep(&[1]).unwrap();
    assert_eq!(cache.lengths(), [0]);
    let cached = {
        let mut builder = BatchBuilder::default();
        builder.cached(0, 0, &[0]);
        builder.build(model.limits(), Device::Cpu).unwrap().with_sources(vec![0]).unwrap()
    };
    assert!(decode(&cached).unwrap_err().contains("no cache was given"));
}
