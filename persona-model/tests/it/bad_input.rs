//! Bad files and bad batches: an error that names the place, and nothing changed.

use std::path::Path;

use persona_model::{BatchBuilder, CausalLm, Error, Gpt2, Model, TargetBatchBuilder};
use tch::{Device, Kind, Tensor};

use crate::tiny;

fn saved() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny().save(folder.path()).unwrap();
    folder
}

fn load_error(folder: &Path) -> Error {
    Gpt2::load(folder, Device::Cpu, Kind::Float).unwrap_err()
}

pub(crate) fn edit_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn truncated_and_lying_safetensors() {
    let folder = saved();
    let file = folder.path().join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let mut lies =
        vec![whole[..whole.len() - 100].to_vec(), whole[..4].to_vec(), Vec::new(), whole[..200].to_vec()];
    let mut long_header = whole.clone();
    long_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    lies.push(long_header);
    // A header whose shape claims more than the data holds.
    let text = String::from_utf8_lossy(&whole).into_owned();
    assert!(text.contains("[32,16]"));
    let mut shape = whole.clone();
    let at = text.find("[32,16]").unwrap();
    shape[at..at + 7].copy_from_slice(b"[99,16]");
    lies.push(shape);
    for (case, bytes) in lies.into_iter().enumerate() {
        std::fs::write(&file, bytes).unwrap();
        let error = load_error(folder.path());
        assert!(matches!(error, Error::Safetensors { .. } | Error::Io { .. }), "case {case}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "case {case}: {error}");
    }
}

#[test]
fn a_config_that_contradicts_the_weights_lists_what_does_not_fit() {
    let folder = saved();
    edit_config(folder.path(), "n_layer", 3.into());
    let Error::Load { report, .. } = load_error(folder.path()) else { panic!("not a load error") };
    assert_eq!((report.missing.len(), report.unexpected.len()), (12, 0));
    edit_config(folder.path(), "n_layer", 1.into());
    let Error::Load { report, .. } = load_error(folder.path()) else { panic!("not a load error") };
    assert_eq!((report.missing.len(), report.unexpected.len()), (0, 12));
    edit_config(folder.path(), "n_layer", 2.into());
    edit_config(folder.path(), "vocab_size", 41.into());
    let error = load_error(folder.path()).to_string();
    assert!(error.contains("wte.weight: file [40, 16], model [41, 16]"), "{error}");
    // A claim of 200 GB costs none: shapes are compared before memory is asked for.
    edit_config(folder.path(), "vocab_size", (1 << 24).into());
    edit_config(folder.path(), "n_embd", 3072.into());
    assert!(matches!(load_error(folder.path()), Error::Load { .. }));
}

#[test]
fn impossible_configs_name_the_key() {
    for (key, value) in [
        ("n_head", serde_json::json!(3)),
        ("n_embd", serde_json::json!(0)),
        ("vocab_size", serde_json::json!(1u64 << 40)),
        ("resid_pdrop", serde_json::json!(1.5)),
        ("layer_norm_epsilon", serde_json::json!(-1.0)),
        ("model_type", serde_json::json!("llama")),
    ] {
        let folder = saved();
        edit_config(folder.path(), key, value);
        let error = load_error(folder.path());
        assert!(matches!(&error, Error::Config { key: named, .. } if *named == key), "{key}: {error}");
    }
    let folder = saved();
    edit_config(folder.path(), "n_layer", "two".into());
    assert!(matches!(load_error(folder.path()), Error::Json { .. }));
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert!(load_error(folder.path()).to_string().contains("config.json"));
}

#[test]
fn missing_weights_and_bad_shards() {
    let folder = saved();
    std::fs::rename(folder.path().join("model.safetensors"), folder.path().join("a.safetensors")).unwrap();
    assert!(matches!(load_error(folder.path()), Error::NoWeights { .. }));
    let index = |map: serde_json::Value| {
        std::fs::write(
            folder.path().join("model.safetensors.index.json"),
            serde_json::json!({ "weight_map": map }).to_string(),
        )
        .unwrap();
    };
    index(serde_json::json!({ "wte.weight": "a.safetensors" }));
    assert!(Gpt2::load(folder.path(), Device::Cpu, Kind::Float).is_ok());
    index(serde_json::json!({ "wte.weight": "../a.safetensors" }));
    assert!(load_error(folder.path()).to_string().contains("is a path"));
    index(serde_json::json!({ "wte.weight": "gone.safetensors" }));
    assert!(load_error(folder.path()).to_string().contains("gone.safetensors"));
    std::fs::copy(folder.path().join("a.safetensors"), folder.path().join("b.safetensors")).unwrap();
    index(serde_json::json!({ "wte.weight": "a.safetensors", "wpe.weight": "b.safetensors" }));
    assert!(load_error(folder.path()).to_string().contains("is there twice"));
    assert!(matches!(load_error(Path::new("/no/such/folder")), Error::Io { .. }));
}

#[test]
fn ids_out_of_vocabulary_and_long_prompts() {
    let model = tiny();
    let mut builder = TargetBatchBuilder::default();
    builder.prompt(&[1, 2], &[&[3]]);
    builder.prompt(&[1, 2], &[&[40]]);
    let error = builder.build(model.limits(), Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("token id 40 in row 1"), "{error}");
    let mut builder = TargetBatchBuilder::default();
    builder.prompt(&[1; 30], &[&[3; 4]]);
    let error = builder.build(model.limits(), Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("33 tokens, the model has 32"), "{error}");
    let mut builder = TargetBatchBuilder::default();
    builder.prompt(&[1], &[&[]]);
    assert!(builder.build(model.limits(), Device::Cpu).is_err());
}

#[test]
fn a_batch_for_another_cache_is_refused_and_the_cache_stays_usable() {
    let model = tiny();
    let mut cache = model.cache(1, 8).unwrap();
    let mut run = |row: usize, past: usize| {
        let mut builder = BatchBuilder::default();
        builder.cached(row, past, &[1, 2]);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        model.hidden(&batch, Some(&mut cache), false).map(|_| ())
    };
    assert!(run(1, 0).is_err());
    assert!(run(0, 3).unwrap_err().to_string().contains("cache row 0 holds 0"));
    run(0, 0).unwrap();
    run(0, 2).unwrap();
    let batch = persona_model::Batch::rows_of(&[&[1]], model.limits(), Device::Cpu).unwrap();
    assert!(model.hidden(&batch, Some(&mut cache), false).is_err());
}

#[test]
fn an_unwritable_place_is_named_and_what_was_there_stays() {
    let folder = saved();
    let file = folder.path().join("model.safetensors");
    let before = std::fs::read(&file).unwrap();
    let blocked = folder.path().join("blocked");
    std::fs::write(&blocked, "a file where a folder should be").unwrap();
    let error = tiny().save(&blocked).unwrap_err().to_string();
    assert!(error.contains("blocked"), "{error}");
    let tensor = vec![("x".to_owned(), Tensor::from_slice(&[true]))];
    assert!(persona_model::write_tensors(&file, &tensor, &[]).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
