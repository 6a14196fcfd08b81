//! NF4: bitsandbytes' numbers, models whose linear layers hold it, its checkpoints, LoRA over it, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use persona_model::{
    Batch, CausalLm, Error, Gpt2, LoadOptions, LoraConfig, Model, Nf4, Nf4Weight, Parameters, Resize,
    TargetBatchBuilder, load_causal_lm, load_causal_lm_with, read_tensors, write_tensors,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::adapters::random;
use crate::{difference, models, parity, tiny, tiny_llama};

/// Files of blocks: those of this repository, and of every folder that the environment names, of its subfolder `nf4`
/// and of the folder `nf4` beside it.
fn block_files() -> BTreeSet<PathBuf> {
    let places = parity::folders().into_iter().flat_map(|folder| {
        let beside = folder.join("../nf4");
        [folder.join("nf4"), beside, folder]
    });
    let entries = places.filter_map(|place| std::fs::read_dir(place).ok()).flatten();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("nf4_quant") && name.ends_with(".json")
    });
    files.map(|path| path.canonicalize().unwrap()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[test]
fn parity_nf4() {
    let files = block_files();
    assert!(!files.is_empty());
    let mut checked: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in files {
        let fixture: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let tolerance = fixture["tolerance"]["abs"].as_f64().unwrap();
        for (at, case) in fixture["cases"].as_array().unwrap().iter().enumerate() {
            let place = format!("{} case {at}", file.display());
            let shape: Vec<i64> =
                case["shape"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
            let near = |ours: &Tensor, key: &str| {
                let expected = Tensor::from_slice(&floats(&case[key]));
                let ours = ours.to_kind(Kind::Float).view(-1);
                assert!(difference(&ours, &expected) <= tolerance, "{place}: {key}");
            };
            let double_quant = case["double_quant"].as_bool().unwrap();
            let weight = Tensor::from_slice(&floats(&case["x"])).view(shape.as_slice());
            let weight = Nf4Weight::quantize(&weight, Nf4 { double_quant }).unwrap();
            let parts: BTreeMap<_, _> = weight.tensors().unwrap().into_iter().collect();
            near(&parts[""], "packed");
            near(&parts[".absmax"], "absmax");
            near(&weight.dequantize(Kind::Float).unwrap(), "dequant");
            assert_eq!(Vec::<f32>::try_from(&parts[".quant_map"]).unwrap(), floats(&fixture["code"]));
            if double_quant {
                near(&parts[".nested_absmax"], "absmax2");
                let state = Vec::<u8>::try_from(&parts[".quant_state.bitsandbytes__nf4"]).unwrap();
                let state: Value = serde_json::from_slice(&state).unwrap();
                let off = state["nested_offset"].as_f64().unwrap() - case["offset"].as_f64().unwrap();
                assert!(off.abs() <= tolerance, "{place}: offset");
                assert_eq!(state["nested_blocksize"], case["blocksize2"]);
                let map = Vec::<f32>::try_from(&parts[".nested_quant_map"]).unwrap();
                assert_eq!(map, floats(&fixture["code2"]));
            }
            *checked.entry(file.parent().unwrap().to_path_buf()).or_default() += 1;
        }
    }
    for (folder, cases) in checked {
        println!("parity nf4: {cases} cases from {}", folder.display());
    }
}

#[test]
fn parity_nf4_model() {
    parity::for_each("nf4_model", |case| {
        let load = |model: &str, options| {
            load_causal_lm_with(&case.folder.join(model), Device::Cpu, options).unwrap().0
        };
        let saved = |model: &dyn CausalLm| {
            let folder = tempfile::tempdir().unwrap();
            model.save(folder.path()).unwrap();
            std::fs::read(folder.path().join("model.safetensors")).unwrap()
        };
        let kind = if case.json["dtype"] == "bfloat16" { Kind::BFloat16 } else { Kind::Float };
        let expected = std::fs::read(case.folder.join("quantized/model.safetensors")).unwrap();
        assert!(saved(&load("quantized", kind.into())) == expected, "{}: read", case.folder.display());
        let double_quant = case.json["double_quant"].as_bool().unwrap();
        let own = load("model", LoadOptions { quantize: Some(Nf4 { double_quant }), ..kind.into() });
        assert!(saved(&own) == expected, "{}: quantised here", case.folder.display());

        let model = load("quantized", Kind::Float.into());
        let ids: Vec<u32> =
            Vec::<i64>::try_from(case.tensor("ids")).unwrap().iter().map(|&id| id as u32).collect();
        let mut rest = ids.as_slice();
        let lens = case.json["lens"].as_array().unwrap().iter();
        let rows: Vec<&[u32]> =
            lens.map(|len| rest.split_off(..len.as_u64().unwrap() as usize).unwrap()).collect();
        let batch = Batch::rows_of(&rows, model.limits(), Device::Cpu).unwrap();
        let _no_grad = tch::no_grad_guard();
        let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
        let off = difference(&logits, case.tensor("logits"));
        assert!(off < 1e-4, "{}: {off}", case.folder.display());
        true
    });
}

const KINDS: [Nf4; 2] = [Nf4 { double_quant: false }, Nf4 { double_quant: true }];

fn quantized(folder: &Path, quantize: Nf4, kind: Kind) -> Box<dyn CausalLm> {
    let options = LoadOptions { quantize: Some(quantize), ..kind.into() };
    let (model, report) = load_causal_lm_with(folder, Device::Cpu, options).unwrap();
    assert!(report.is_exact() && report.quantized.len() == model.parameters().quantized().len());
    model
}

fn logits(model: &dyn CausalLm) -> Tensor {
    let rows: [&[u32]; 3] = [&[1, 2, 3, 4, 5, 6], &[7, 8], &[39, 0, 11]];
    let batch = Batch::rows_of(&rows, model.limits(), Device::Cpu).unwrap();
    let _no_grad = tch::no_grad_guard();
    model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap()
}

/// A model in float whose linear weights are what the quantised ones are read back to.
fn read_back(folder: &Path, parameters: &Parameters) -> Box<dyn CausalLm> {
    let file = folder.join("model.safetensors");
    let (mut tensors, _) = read_tensors(&file).unwrap();
    for (name, weight) in parameters.quantized() {
        let value = weight.dequantize(Kind::Float).unwrap();
        let old = tensors.get_mut(name).unwrap();
        let transposed = name.starts_with("transformer.");
        *old = if transposed { value.tr().contiguous() } else { value };
    }
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.json"), copy.path().join("config.json")).unwrap();
    let tensors: Vec<_> = tensors.into_iter().collect();
    write_tensors(&copy.path().join("model.safetensors"), &tensors, &[]).unwrap();
    load_causal_lm(copy.path(), Device::Cpu, Kind::Float).unwrap().0
}

#[test]
fn logits_are_those_of_a_float_model_with_the_weights_read_back() {
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        for nf4 in KINDS {
            let held = quantized(folder.path(), nf4, Kind::Float);
            let float = read_back(folder.path(), held.parameters());
            assert!(difference(&logits(&held), &logits(&float)) < 1e-5);
            let off = difference(&logits(&held), &logits(&model));
            assert!(off > 1e-3, "quantised weights are others: {off}");
            // Every linear layer of the blocks and nothing else: four in each block of GPT-2, seven in Llama's.
            let count = held.parameters().quantized().len();
            assert!(count == 2 * 4 || count == 2 * 7, "{count}");
            assert_eq!(held.parameters().count(), model.parameters().count());
            let half = quantized(folder.path(), nf4, Kind::BFloat16);
            assert_eq!(half.parameters().kind(), Kind::BFloat16);
            let float = read_back(folder.path(), half.parameters());
            let (half, float) = (logits(&half), logits(&float));
            let (off, largest) = (difference(&half, &float), float.abs().max().double_value(&[]));
            assert!(off < 0.05 * largest, "{off} of {largest}");
        }
    }
}

#[test]
fn a_cache_and_a_copy_give_the_same() {
    let folder = tempfile::tempdir().unwrap();
    tiny().save(folder.path()).unwrap();
    let options = LoadOptions::nf4(Kind::Float);
    let model = Gpt2::load_with(folder.path(), Device::Cpu, options).unwrap().0;
    let copy = model.copy(Kind::Float).unwrap();
    assert_eq!(logits(&model), logits(&copy));
    assert_eq!(model.fingerprint().unwrap(), copy.fingerprint().unwrap());
    let plain = LoadOptions { quantize: Some(KINDS[0]), ..options };
    let other = Gpt2::load_with(folder.path(), Device::Cpu, plain).unwrap().0;
    assert_ne!(model.fingerprint().unwrap(), other.fingerprint().unwrap());
}

#[test]
fn embeddings_are_resized_beside_weights_in_nf4() {
    let folder = tempfile::tempdir().unwrap();
    for model in models() {
        model.save(folder.path()).unwrap();
        let mut model = quantized(folder.path(), Nf4::default(), Kind::Float);
        let before = logits(&*model);
        let vocabulary = before.size()[1];
        model.resize_embeddings(vocabulary as usize + 3, Resize::Mean { seed: 1 }).unwrap();
        let after = logits(&*model);
        assert_eq!(after.size()[1], vocabulary + 3);
        assert_eq!(difference(&after.narrow(1, 0, vocabulary), &before), 0.0);
        assert!(!model.parameters().quantized().is_empty());
    }
}

#[test]
fn weights_take_little_more_than_four_bits() {
    let config =
        persona_model::Gpt2Config { vocab_size: 40, n_embd: 128, n_layer: 1, ..tiny().config().clone() };
    let folder = tempfile::tempdir().unwrap();
    let float = Gpt2::new(config, 1, Device::Cpu, Kind::Float).unwrap();
    float.save(folder.path()).unwrap();
    for (nf4, bits) in KINDS.into_iter().zip([4.5, 4.13]) {
        let model = quantized(folder.path(), nf4, Kind::Float);
        let weights = model.parameters().quantized().values();
        let (bytes, count) =
            weights.fold((0, 0), |(bytes, count), weight| (bytes + weight.bytes(), count + weight.count()));
        assert_eq!(count, 12 * 128 * 128);
        let held = bytes as f64 * 8.0 / count as f64;
        assert!((held - bits).abs() < 0.01, "{held}");
        let saved = float.parameters().bytes() - model.parameters().bytes();
        assert_eq!(saved, 4 * count - bytes, "the float weights are not held as well");
    }
}

#[test]
fn a_quantised_checkpoint_comes_back_byte_for_byte() {
    for model in models() {
        for nf4 in KINDS {
            let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
            model.save(folders[0].path()).unwrap();
            let first = quantized(folders[0].path(), nf4, Kind::Float);
            first.save(folders[1].path()).unwrap();
            let (second, report) = load_causal_lm(folders[1].path(), Device::Cpu, Kind::Float).unwrap();
            assert_eq!(report.quantized.len(), first.parameters().quantized().len());
            assert_eq!(logits(&first), logits(&second));
            assert_eq!(first.fingerprint().unwrap(), second.fingerprint().unwrap());
            second.save(folders[2].path()).unwrap();
            for file in ["model.safetensors", "config.json"] {
                let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(file)).unwrap();
                assert_eq!(read(&folders[1]), read(&folders[2]), "{file}");
            }
            // Asked for as it is held already, it is read as it is.
            let _ = quantized(folders[1].path(), nf4, Kind::Float);
        }
    }
}

#[test]
fn lora_trains_over_it_and_the_base_stays() {
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let mut model = quantized(folder.path(), Nf4::default(), Kind::Float);
        let before = model.parameters().fingerprint().unwrap();
        let config = LoraConfig { r: 4, ..LoraConfig::default() };
        let id = model.adapters_mut().add(config, 1, Device::Cpu).unwrap();
        model.adapters_mut().train(Some(id)).unwrap();
        model.trainable().set_trainable(true).unwrap();
        let mut builder = TargetBatchBuilder::default();
        builder.prompt(&[1, 2, 3], &[&[4, 5, 6, 7]]);
        builder.prompt(&[8, 9], &[&[10, 11]]);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let mut losses = Vec::new();
        for _ in 0..30 {
            let loss = -batch.log_probs(&model, true).unwrap().mean(Kind::Float);
            losses.push(loss.double_value(&[]));
            let gradients = Tensor::run_backward(&[loss], model.trainable().leaves(), false, false);
            let _no_grad = tch::no_grad_guard();
            for (leaf, gradient) in model.trainable().leaves().iter().zip(gradients) {
                let _ = leaf.shallow_clone().g_sub_(&(gradient * 0.1));
            }
        }
        assert!(losses[29] < 0.5 * losses[0], "{losses:?}");
        assert_eq!(model.parameters().fingerprint().unwrap(), before);

        for result in [model.merge(id), model.unmerge(id)] {
            let error = result.unwrap_err();
            assert!(
                matches!(&error, Error::Quantized { tensor, .. } if tensor.ends_with(".weight")),
                "{error}"
            );
        }
        assert_eq!(model.parameters().fingerprint().unwrap(), before);
        if model.parameters().get("lm_head.weight").is_some() {
            let own =
                LoraConfig { modules_to_save: Some(vec!["lm_head".to_owned()]), ..LoraConfig::default() };
            let own = random(&mut model, own, 1);
            assert!(matches!(model.merge(own), Err(Error::Quantized { .. })));
            assert_eq!(model.parameters().fingerprint().unwrap(), before, "the head is not replaced either");
        }
        model.adapters_mut().train(None).unwrap();
        let error = model.trainable().set_trainable(true).unwrap_err().to_string();
        assert!(error.contains("train an adapter"), "{error}");
        let copied = model.parameters_mut().copy_from(&tiny().parameters().copy(Kind::Float).unwrap());
        assert!(matches!(copied, Err(Error::Quantized { .. })));
    }
}

/// A saved checkpoint with double quantisation, and one of its weights.
fn stored() -> (tempfile::TempDir, &'static str) {
    let folder = tempfile::tempdir().unwrap();
    tiny_llama().save(folder.path()).unwrap();
    quantized(folder.path(), Nf4::default(), Kind::Float).save(folder.path()).unwrap();
    (folder, "model.layers.1.mlp.up_proj.weight")
}

fn refused(folder: &Path) -> String {
    load_causal_lm(folder, Device::Cpu, Kind::Float).map(drop).unwrap_err().to_string()
}

#[test]
fn parts_that_lie_are_refused_by_name() {
    type Edit = fn(&mut BTreeMap<String, Tensor>, &str);
    fn state(tensors: &mut BTreeMap<String, Tensor>, name: &str, key: &str, value: Value) {
        let part = tensors.get_mut(&format!("{name}.quant_state.bitsandbytes__nf4")).unwrap();
        let mut state: Value = serde_json::from_slice(&Vec::<u8>::try_from(&*part).unwrap()).unwrap();
        state[key] = value;
        *part = Tensor::from_slice(state.to_string().as_bytes());
    }
    fn cut(tensors: &mut BTreeMap<String, Tensor>, name: String) {
        let part = tensors.get_mut(&name).unwrap();
        *part = part.narrow(0, 0, part.size()[0] - 1).contiguous();
    }
    let edits: [(&str, Edit); 18] = [
        (".absmax is missing", |tensors, name| drop(tensors.remove(&format!("{name}.absmax")))),
        (".quant_map is missing", |tensors, name| drop(tensors.remove(&format!("{name}.quant_map")))),
        (".nested_absmax is missing", |tensors, name| drop(tensors.remove(&format!("{name}.nested_absmax")))),
        ("nf4 is missing", |tensors, name| {
            drop(tensors.remove(&format!("{name}.quant_state.bitsandbytes__nf4")));
        }),
        ("fp4", |tensors, name| {
            let state = tensors.remove(&format!("{name}.quant_state.bitsandbytes__nf4")).unwrap();
            tensors.insert(format!("{name}.quant_state.bitsandbytes__fp4"), state);
        }),
        ("quant_type is `fp4`", |tensors, name| state(tensors, name, "quant_type", json!("fp4"))),
        ("blocksize is 63", |tensors, name| state(tensors, name, "blocksize", json!(63))),
        (".absmax: file", |tensors, name| state(tensors, name, "blocksize", json!(128))),
        ("[16, 24]", |tensors, name| state(tensors, name, "shape", json!([16, 24]))),
        ("dtype `int8`", |tensors, name| state(tensors, name, "dtype", json!("int8"))),
        ("unknown field `more`", |tensors, name| state(tensors, name, "more", json!(1))),
        ("nested_offset", |tensors, name| state(tensors, name, "nested_offset", Value::Null)),
        ("the packed weight: file U8 [191, 1]", |tensors, name| cut(tensors, name.to_owned())),
        (".absmax: file U8 [5]", |tensors, name| cut(tensors, format!("{name}.absmax"))),
        (".nested_quant_map: file F32 [255]", |tensors, name| {
            cut(tensors, format!("{name}.nested_quant_map"));
        }),
        ("no ascending map", |tensors, name| {
            let _ = tensors.get_mut(&format!("{name}.nested_quant_map")).unwrap().neg_();
        }),
        ("other levels", |tensors, name| {
            let _ = tensors.get_mut(&format!("{name}.quant_map")).unwrap().neg_();
        }),
        ("no magnitude", |tensors, name| {
            let _ = tensors.get_mut(&format!("{name}.nested_absmax")).unwrap().fill_(f64::NAN);
        }),
    ];
    for (message, edit) in edits {
        let (folder, name) = stored();
        let file = folder.path().join("model.safetensors");
        let (mut tensors, _) = read_tensors(&file).unwrap();
        edit(&mut tensors, name);
        write_tensors(&file, &tensors.into_iter().collect::<Vec<_>>(), &[]).unwrap();
        let error = refused(folder.path());
        assert!(error.contains(message) && error.contains(name), "{message}: {error}");
    }
    // A part that nobody knows.
    let (folder, name) = stored();
    let file = folder.path().join("model.safetensors");
    let mut tensors: Vec<_> = read_tensors(&file).unwrap().0.into_iter().collect();
    tensors.push((format!("{name}.SCB"), Tensor::from_slice(&[1.0f32])));
    write_tensors(&file, &tensors, &[]).unwrap();
    assert!(refused(folder.path()).contains("1 unexpected"));
}

fn edit_config(folder: &Path, edit: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn configs_that_say_something_else_are_refused() {
    for (key, value, message) in [
        ("bnb_4bit_quant_type", json!("fp4"), "fp4"),
        ("load_in_8bit", json!(true), "int8"),
        ("quant_method", json!("awq"), "awq"),
        ("bnb_4bit_use_double_quant", json!(false), "double quantisation"),
    ] {
        let (folder, _) = stored();
        edit_config(folder.path(), |config| config["quantization_config"][key] = value.clone());
        let error = refused(folder.path());
        assert!(error.contains(message), "{key}: {error}");
    }
    let (folder, _) = stored();
    let options = LoadOptions { quantize: Some(KINDS[0]), ..Kind::Float.into() };
    let error = load_causal_lm_with(folder.path(), Device::Cpu, options).map(drop).unwrap_err().to_string();
    assert!(error.contains("bnb_4bit_use_double_quant"), "{error}");
    edit_config(folder.path(), |config| drop(config.as_object_mut().unwrap().remove("quantization_config")));
    let error = refused(folder.path());
    assert!(error.contains("of another shape"), "without the key the bytes are no weights: {error}");
}

#[test]
fn modules_left_out_stay_in_float() {
    let (folder, name) = stored();
    let file = folder.path().join("model.safetensors");
    let (tensors, _) = read_tensors(&file).unwrap();
    let mut tensors: Vec<_> = tensors.into_iter().filter(|(held, _)| !held.starts_with(name)).collect();
    let float = tiny_llama().parameters().get(name).unwrap().shallow_clone();
    tensors.push((name.to_owned(), float));
    write_tensors(&file, &tensors, &[]).unwrap();
    let (model, report) = load_causal_lm(folder.path(), Device::Cpu, Kind::Float).unwrap();
    assert_eq!(report.quantized.len(), 2 * 7 - 1);
    assert!(model.parameters().get(name).is_some());
    assert_eq!(logits(&model).size(), [11, 40]);
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_llama();
    let name = "model.layers.0.self_attn.o_proj.weight";
    let _ = model.parameters().get(name).unwrap().get(3).fill_(f64::NAN);
    model.save(folder.path()).unwrap();
    let options = LoadOptions::nf4(Kind::Float);
    let error = load_causal_lm_with(folder.path(), Device::Cpu, options).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Quantized { tensor, .. } if tensor == name), "{error}");
}
