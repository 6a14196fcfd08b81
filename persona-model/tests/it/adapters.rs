//! Kind `lora`, and what holds of adapters: off, merged, mixed in a batch, trained, saved, refused.

use persona_model::{
    AdapterId, Batch, BatchBuilder, BertClassifier, BertConfig, CausalLm, LoraConfig, Model, Precision,
    TargetBatchBuilder, Targets, load_causal_lm, load_with_adapter,
};
use tch::{Device, Kind, Tensor};

use crate::{difference, models, parity};

pub(crate) fn logits(model: &dyn CausalLm, batch: &Batch) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    model.logits(&model.hidden(batch, None, false).unwrap()).unwrap()
}

#[test]
fn parity_lora() {
    parity::for_each("lora", |case| {
        let folder = |key: &str| case.folder.join(case.json[key].as_str().unwrap());
        let (mut model, _) = load_causal_lm(&folder("model"), Device::Cpu, Kind::Float).unwrap();
        let (id, report) = model.adapters_mut().load(&folder("adapter"), Device::Cpu).unwrap();
        assert!(report.is_exact(), "{report}");
        let rows = case.rows("input_ids", "attention_mask");
        let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let batch = Batch::rows_of(&views, model.limits(), Device::Cpu).unwrap();
        let mask = case.tensor("attention_mask").to_kind(Kind::Bool).view(-1);
        let off = |model: &dyn CausalLm, expected: &str| {
            let expected = case.tensor(expected);
            let expected = expected.view([-1, expected.size()[2]]).index(&[Some(mask.shallow_clone())]);
            difference(&logits(model, &batch), &expected)
        };
        assert!(off(&model, "base_logits") < 1e-4, "off: {}", case.folder.display());
        model.adapters_mut().activate(Some(id)).unwrap();
        assert!(off(&model, "adapter_logits") < 1e-4, "unmerged: {}", case.folder.display());

        // What is exported is imported again.
        let copy = tempfile::tempdir().unwrap();
        model.adapters().get(id).unwrap().save(copy.path()).unwrap();
        let (again, _) = model.adapters_mut().load(copy.path(), Device::Cpu).unwrap();
        model.adapters_mut().activate(Some(again)).unwrap();
        assert!(off(&model, "adapter_logits") < 1e-4, "imported again: {}", case.folder.display());

        model.adapters_mut().activate(None).unwrap();
        model.merge(id).unwrap();
        assert!(off(&model, "adapter_logits") < 1e-4, "merged: {}", case.folder.display());
        model.unmerge(id).unwrap();
        assert!(off(&model, "base_logits") < 1e-4, "unmerged again: {}", case.folder.display());
        true
    });
}

/// An adapter with random matrices.
pub(crate) fn random(model: &mut dyn CausalLm, config: LoraConfig, seed: u64) -> AdapterId {
    let adapters = model.adapters_mut();
    let id = adapters.add(config, seed, Device::Cpu).unwrap();
    let _no_grad = tch::no_grad_guard();
    for (at, leaf) in adapters.get(id).unwrap().parameters().leaves().iter().enumerate() {
        let values = Tensor::arange(leaf.numel() as i64, (Kind::Float, Device::Cpu));
        let mut leaf = leaf.view(-1);
        leaf.copy_(&((values + (at as f64 + seed as f64)).sin() * 0.2));
    }
    id
}

#[test]
fn a_copy_of_an_adapter_goes_its_own_way() {
    for mut model in models() {
        let own = if model.parameters().get("transformer.wte.weight").is_some() { "wte" } else { "lm_head" };
        let config = LoraConfig { modules_to_save: Some(vec![own.to_owned()]), ..LoraConfig::default() };
        let first = random(&mut model, config, 1);
        let batch = Batch::rows_of(&[&[1, 2, 3, 4]], model.limits(), Device::Cpu).unwrap();
        let of = |model: &mut dyn CausalLm, id| {
            model.adapters_mut().activate(Some(id)).unwrap();
            logits(model, &batch)
        };
        let before = of(&mut model, first);
        let copy = model.adapters_mut().copy(first).unwrap();
        assert_eq!(difference(&of(&mut model, copy), &before), 0.0);
        model.adapters_mut().train(Some(copy)).unwrap();
        let _ = tch::no_grad(|| model.trainable_mut().flat_mut().f_add_scalar_(0.1).unwrap());
        assert_eq!(difference(&of(&mut model, first), &before), 0.0);
        assert!(difference(&of(&mut model, copy), &before) > 1e-3);
        // The base alone is copied without them.
        model.adapters_mut().activate(None).unwrap();
        let base = model.boxed_copy(Kind::Float).unwrap();
        assert_eq!(difference(&logits(&base, &batch), &logits(&model, &batch)), 0.0);
        assert_eq!(base.adapters().ids().count(), 0);
        assert_ne!(base.parameters().flat().data_ptr(), model.parameters().flat().data_ptr());
    }
}

#[test]
fn an_adapters_folder_is_loaded_with_the_base_that_it_names() {
    for mut model in models() {
        let folder = tempfile::tempdir().unwrap();
        let (base, adapter) = (folder.path().join("base"), folder.path().join("adapter"));
        model.save(&base).unwrap();
        let id = random(&mut model, LoraConfig::default().of_base(&base), 1);
        model.adapters_mut().activate(Some(id)).unwrap();
        model.adapters().save(id, &adapter).unwrap();
        let batch = Batch::rows_of(&[&[1, 2, 3, 4]], model.limits(), Device::Cpu).unwrap();
        let load = |folder: &std::path::Path| load_with_adapter(folder, Device::Cpu, Kind::Float.into());
        let (loaded, report) = load(&adapter).unwrap();
        assert_eq!(difference(&logits(&loaded, &batch), &logits(&model, &batch)), 0.0);
        let trained = model.adapters().get(id).unwrap().parameters().leaves().len();
        assert_eq!(report.loaded, model.parameters().leaves().len() + trained);
        model.adapters_mut().activate(None).unwrap();
        assert_eq!(difference(&logits(&load(&base).unwrap().0, &batch), &logits(&model, &batch)), 0.0);

        // Beside the adapter, a configuration alone is no model; a whole model is the adapter's base.
        std::fs::copy(base.join("config.json"), adapter.join("config.json")).unwrap();
        model.adapters_mut().activate(Some(id)).unwrap();
        let expected = logits(&model, &batch);
        assert_eq!(difference(&logits(&load(&adapter).unwrap().0, &batch), &expected), 0.0);
        std::fs::rename(&base, folder.path().join("away")).unwrap();
        std::fs::copy(folder.path().join("away/model.safetensors"), adapter.join("model.safetensors"))
            .unwrap();
        assert_eq!(difference(&logits(&load(&adapter).unwrap().0, &batch), &expected), 0.0);
        std::fs::remove_file(adapter.join("model.safetensors")).unwrap();

        let error = load(&adapter).map(drop).unwrap_err().to_string();
        assert!(error.contains("`base_model_name_or_path`") && error.contains("no folder here"), "{error}");
        let id = random(&mut model, LoraConfig::default(), 1);
        model.adapters().save(id, &adapter).unwrap();
        let error = load(&adapter).map(drop).unwrap_err().to_string();
        assert!(error.contains("`base_model_name_or_path`") && error.contains("names no base"), "{error}");
    }
}

#[test]
fn target_names_on_no_layer_are_refused() {
    for mut model in models() {
        let held = model.adapters().linear_layers().next().unwrap().rsplit('.').next().unwrap().to_owned();
        let mut add =
            |names: &[&str]| model.adapters_mut().add(LoraConfig::on(names, 2, 4.0), 1, Device::Cpu);
        add(&[&held]).unwrap();
        let error = add(&[&held, "misspelt"]).unwrap_err().to_string();
        assert!(error.contains("`target_modules`: `misspelt` is on no linear layer"), "{error}");
        assert!(error.contains(&held), "{error}");
    }
}

#[test]
fn the_task_is_filled_in_for_causal_models_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("adapter_config.json");
    let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&file).unwrap()).unwrap();
    for mut model in models() {
        let id = model.adapters_mut().add(LoraConfig::default(), 1, Device::Cpu).unwrap();
        model.adapters().save(id, folder.path()).unwrap();
        assert_eq!(read()["task_type"], "CAUSAL_LM");
        // As PEFT writes a LoRA of no task.
        let mut config = read();
        config["task_type"] = serde_json::Value::Null;
        std::fs::write(&file, config.to_string()).unwrap();
        let (id, _) = model.adapters_mut().load(folder.path(), Device::Cpu).unwrap();
        model.adapters().save(id, folder.path()).unwrap();
        assert_eq!(read().get("task_type"), Some(&serde_json::Value::Null));
    }
    let config = BertConfig {
        vocab_size: 40,
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 24,
        max_position_embeddings: 16,
        ..BertConfig::default()
    };
    let mut model = BertClassifier::new(config, 1, Device::Cpu, Kind::Float).unwrap();
    let id = model.adapters_mut().add(LoraConfig::default(), 1, Device::Cpu).unwrap();
    model.adapters().save(id, folder.path()).unwrap();
    assert_eq!(read().get("task_type"), None);
}

#[test]
fn a_borrowed_model_is_the_model() {
    for mut model in models() {
        let layers: Vec<String> = model.adapters().linear_layers().map(str::to_owned).collect();
        assert!(
            layers.iter().any(|name| name.ends_with(".c_attn") || name.ends_with(".q_proj")),
            "{layers:?}"
        );
        let batch = Batch::rows_of(&[&[1, 2, 3, 4]], model.limits(), Device::Cpu).unwrap();
        let expected = logits(&model, &batch);
        /// What takes a model by value takes a borrowed one.
        fn take(mut model: impl CausalLm, batch: &Batch) -> (usize, Tensor) {
            let logits = logits(&model, batch);
            model.set_precision(Precision::Bf16);
            (model.blocks(), logits)
        }
        let (blocks, found) = take(&mut model, &batch);
        assert_eq!((blocks, difference(&found, &expected)), (2, 0.0));
        assert_eq!(model.precision(), Precision::Bf16);
    }
}

fn mixed(model: &mut dyn CausalLm) -> [AdapterId; 3] {
    let all = LoraConfig { r: 3, lora_alpha: 5.0, ..LoraConfig::default() };
    let part = Targets::Pattern(r".*\.(c_attn|q_proj|down_proj)".into());
    let part = LoraConfig { r: 2, target_modules: part, use_rslora: true, ..LoraConfig::default() };
    [random(model, all.clone(), 1), random(model, part, 2), random(model, all, 3)]
}

#[test]
fn rows_of_one_batch_are_computed_with_their_own_adapters() {
    for mut model in models() {
        let ids = mixed(&mut model);
        let own = [Some(ids[0]), None, Some(ids[1]), Some(ids[2]), Some(ids[0])];
        // Short rows take one product for all adapters, long ones a product each.
        for len in [2, 25] {
            let rows: Vec<Vec<u32>> =
                (0..5).map(|row| (0..len + row).map(|at| (7 * row + 3 * at) % 40).collect()).collect();
            let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let batch = Batch::rows_of(&views, model.limits(), Device::Cpu).unwrap();
            let together = logits(&model, &batch.with_adapters(own.to_vec()).unwrap());
            let lens: Vec<i64> = rows.iter().map(|row| row.len() as i64).collect();
            for ((row, own), together) in rows.iter().zip(own).zip(together.split_with_sizes(lens, 0)) {
                model.adapters_mut().activate(own).unwrap();
                let alone = Batch::rows_of(&[row], model.limits(), Device::Cpu).unwrap();
                let off = difference(&logits(&model, &alone), &together);
                assert!(off < 3e-5, "{own:?}, {len} tokens: {off}");
            }
        }
        // Decoding: a token a row on a cache that was filled under the same adapters.
        let prompts: [&[u32]; 3] = [&[1, 2, 3], &[4, 5], &[6]];
        let own = vec![Some(ids[2]), Some(ids[1]), None];
        let mut cache = model.cache(3, 8).unwrap();
        let step = |past: [usize; 3], tokens: [&[u32]; 3]| {
            let mut builder = BatchBuilder::default();
            for row in 0..3 {
                builder.cached(row, past[row], tokens[row]);
            }
            builder.build(model.limits(), Device::Cpu).unwrap().with_adapters(own.clone()).unwrap()
        };
        let _no_grad = tch::no_grad_guard();
        let _ = model.hidden(&step([0; 3], prompts), Some(&mut cache), false).unwrap();
        let next = step([3, 2, 1], [&[9], &[8], &[7]]);
        let cached = model.logits(&model.hidden(&next, Some(&mut cache), false).unwrap()).unwrap();
        for (row, own) in own.iter().enumerate() {
            model.adapters_mut().activate(*own).unwrap();
            let whole = [prompts[row], &[9 - row as u32]].concat();
            let whole = logits(&model, &Batch::rows_of(&[&whole], model.limits(), Device::Cpu).unwrap());
            assert!(difference(&cached.get(row as i64), &whole.get(-1)) < 1e-5, "row {row}");
        }
    }
}

#[test]
fn gradients_reach_the_adapter_and_leave_the_base_alone() {
    for mut model in models() {
        let id = model.adapters_mut().add(LoraConfig::default(), 5, Device::Cpu).unwrap();
        let mut builder = TargetBatchBuilder::default();
        builder.prompt(&[1, 2, 3], &[&[4, 5], &[6]]);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let base = batch.log_probs(&model, false).unwrap();
        model.adapters_mut().train(Some(id)).unwrap();
        assert!(model.trainable().count() < model.parameters().count());
        model.trainable().set_trainable(true).unwrap();
        let log_probs = batch.log_probs(&model, true).unwrap();
        let changed = difference(&base, &log_probs.detach());
        assert!(changed < 2e-6, "a fresh adapter changes nothing but last digits: {changed}");
        log_probs.sum(Kind::Float).backward();
        // B starts at zero, so that A has no gradient yet and B has.
        let of = |matrix: &str| {
            let named = model.trainable().specs().iter().zip(model.trainable().leaves());
            let norms = named.filter(|(spec, _)| spec.name.contains(matrix));
            norms.map(|(_, leaf)| leaf.grad().norm().double_value(&[])).fold(0.0, f64::max)
        };
        assert!(of("lora_A") == 0.0 && of("lora_B") > 0.0);
        assert!(model.parameters().leaves().iter().all(|leaf| !leaf.grad().defined()));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_the_model_stays_usable() {
    let [mut gpt2, mut llama] = models();
    let id = mixed(&mut llama)[0];
    let folder = tempfile::tempdir().unwrap();
    llama.adapters().get(id).unwrap().save(folder.path()).unwrap();
    let held = gpt2.adapters().ids().count();
    let refused = |model: &mut dyn CausalLm| {
        model.adapters_mut().load(folder.path(), Device::Cpu).unwrap_err().to_string()
    };
    // Another base: the same targets are there under other names.
    let message = refused(&mut gpt2);
    assert!(message.contains("missing") && message.contains("unexpected"), "{message}");

    let config = folder.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"all-linear\"", "[\"q_proj\"]")).unwrap();
    assert!(refused(&mut llama).contains("unexpected"));
    std::fs::write(&config, text.replace("\"all-linear\"", "[\"nothing\"]")).unwrap();
    let message = refused(&mut llama);
    assert!(message.contains("nothing") && message.contains("q_proj"), "{message}");
    std::fs::write(&config, text.replace("\"r\": 3", "\"r\": 4")).unwrap();
    assert!(refused(&mut llama).contains("of another shape"));
    std::fs::write(&config, text.replace("\"use_rslora\"", "\"use_dora\": true, \"use_rslora\"")).unwrap();
    assert!(refused(&mut llama).contains("use_dora"));
    std::fs::write(&config, &text).unwrap();
    let file = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 8]).unwrap();
    assert!(refused(&mut llama).contains("adapter_model.safetensors"));
    std::fs::remove_file(&file).unwrap();
    assert!(refused(&mut llama).contains("adapter_model.safetensors"));
    assert_eq!((gpt2.adapters().ids().count(), llama.adapters().ids().count()), (held, 3));

    let batch = || Batch::rows_of(&[&[1, 2], &[3]], llama.limits(), Device::Cpu).unwrap();
    assert!(batch().with_adapters(vec![None]).unwrap_err().to_string().contains("1 adapters for 2 rows"));
    let batch = batch().with_adapters(vec![Some(id), None]).unwrap();
    assert_eq!(logits(&llama, &batch).size(), [3, 40]);
    llama.adapters_mut().remove(id).unwrap();
    assert!(llama.hidden(&batch, None, false).unwrap_err().to_string().contains("not held"));
    assert!(llama.adapters_mut().activate(Some(id)).is_err());
}
