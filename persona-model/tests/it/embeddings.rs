//! Kind `modules_to_save`, and what holds of embeddings with more rows and of adapters with embeddings of their own.

use std::collections::BTreeMap;
use std::path::Path;

use persona_model::{
    AdapterId, Batch, CausalLm, Error, Gpt2, Gpt2Config, Llama, LlamaConfig, LoraConfig, Model, PromptStart,
    Resize, SoftPromptConfig, TargetBatchBuilder, load_causal_lm, read_tensors,
};
use tch::{Device, Kind, Tensor};

use crate::adapters::{logits, random};
use crate::{difference, models, parity, tiny, tiny_llama};

const MEAN: Resize = Resize::Mean { seed: 3 };

fn tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    read_tensors(&folder.join("adapter_model.safetensors")).unwrap().0
}

#[test]
fn parity_modules_to_save() {
    parity::for_each("modules_to_save", |case| {
        let name = case.folder.display().to_string();
        let folder = |key: &str| case.folder.join(case.json[key].as_str().unwrap());
        let (mut model, _) = load_causal_lm(&folder("model"), Device::Cpu, Kind::Float).unwrap();
        let resized = case.json["vocabulary"].as_u64().map(|vocabulary| vocabulary as usize);
        if let Some(vocabulary) = resized {
            let error = model.adapters_mut().load(&folder("adapter"), Device::Cpu).unwrap_err();
            let expected = format!(
                "has {vocabulary} rows, the model's vocabulary {}; resize",
                model.limits().vocabulary
            );
            assert!(error.to_string().contains(&expected), "{error}");
            model.resize_embeddings(vocabulary, MEAN).unwrap();
        }
        let (id, report) = model.adapters_mut().load(&folder("adapter"), Device::Cpu).unwrap();
        assert!(report.is_exact() && report.cast.is_empty(), "{report}");
        let rows = case.rows("input_ids", "attention_mask");
        let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let batch = Batch::rows_of(&views, model.limits(), Device::Cpu).unwrap();
        let mask = case.tensor("attention_mask").to_kind(Kind::Bool).view(-1);
        let off = |model: &dyn CausalLm, expected: &str| {
            let expected = case.tensor(expected);
            let expected = expected.view([-1, expected.size()[2]]).index(&[Some(mask.shallow_clone())]);
            difference(&logits(model, &batch), &expected)
        };
        // New rows are near the mean of the old ones, whose small norm the first layer scales up.
        let near = if resized.is_some() { 1e-2 } else { 1e-4 };
        let distance = off(&model, "base_logits");
        assert!(distance < near, "off: {name}: {distance}");
        model.adapters_mut().activate(Some(id)).unwrap();
        assert!(off(&model, "adapter_logits") < 1e-4, "on: {name}");

        // What is exported is what PEFT wrote, but for the copies that it writes of a resized base's saved modules.
        let copy = tempfile::tempdir().unwrap();
        model.adapters().get(id).unwrap().save(copy.path()).unwrap();
        let mut written = tensors(&folder("adapter"));
        written.retain(|name, _| !name.contains(".modules_to_save.") && !name.contains(".original_module."));
        assert_eq!(tensors(copy.path()), written, "{name}");
        let (again, _) = model.adapters_mut().load(copy.path(), Device::Cpu).unwrap();
        model.adapters_mut().activate(Some(again)).unwrap();
        assert!(off(&model, "adapter_logits") < 1e-4, "imported again: {name}");

        // Own modules merge where the base can hold them.
        model.adapters_mut().activate(None).unwrap();
        let config = std::fs::read(folder("model").join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let tied = config["tie_word_embeddings"].as_bool().unwrap_or(true);
        let own = |name: &str| written.get(&format!("base_model.model.{name}.weight"));
        let embedding = own("transformer.wte").or(own("model.embed_tokens"));
        let one = embedding.is_some() && embedding == own("lm_head");
        if tied && !one {
            let error = model.merge(id).unwrap_err().to_string();
            assert!(error.contains("modules_to_save"), "{error}");
            assert!(off(&model, "base_logits") < near, "not merged: {name}");
        } else {
            model.merge(id).unwrap();
            assert!(off(&model, "adapter_logits") < 1e-4, "merged: {name}");
        }
        assert!(model.unmerge(id).unwrap_err().to_string().contains("modules_to_save"));
        true
    });
}

fn tied_llama() -> Llama {
    let config = LlamaConfig { tie_word_embeddings: true, ..tiny_llama().config().clone() };
    Llama::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

fn untied_gpt2() -> Gpt2 {
    let config = Gpt2Config { tie_word_embeddings: false, ..tiny().config().clone() };
    Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

fn all_models() -> [Box<dyn CausalLm>; 4] {
    let [gpt2, llama] = models();
    [gpt2, llama, Box::new(untied_gpt2()), Box::new(tied_llama())]
}

/// Both embedding and head, in either architecture's names.
fn saving(model: &dyn CausalLm, modules: &[&str], ensure_weight_tying: bool) -> LoraConfig {
    let embedding =
        if model.parameters().get("transformer.wte.weight").is_some() { "wte" } else { "embed_tokens" };
    let modules = modules.iter().map(|&name| if name == "words" { embedding } else { name }.to_owned());
    LoraConfig {
        r: 2,
        modules_to_save: Some(modules.collect()),
        ensure_weight_tying,
        ..LoraConfig::default()
    }
}

fn one_row(model: &dyn CausalLm, ids: &[u32]) -> Tensor {
    logits(model, &Batch::rows_of(&[ids], model.limits(), Device::Cpu).unwrap())
}

#[test]
fn resized_models_keep_what_they_knew() {
    for mut model in all_models() {
        let before = one_row(&model, &[1, 2, 39]);
        model.resize_embeddings(40, MEAN).unwrap();
        model.resize_embeddings(43, MEAN).unwrap();
        assert_eq!(model.limits().vocabulary, 43);
        let after = one_row(&model, &[1, 2, 39]);
        assert!(difference(&before, &after.narrow(1, 0, 40)) < 1e-6);
        // A new token is as likely as an average one.
        let mean = before.mean_dim(1, true, Kind::Float);
        assert!((after.narrow(1, 40, 3) - mean).abs().max().double_value(&[]) < 1e-3);
        let new = one_row(&model, &[1, 42]);

        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let (loaded, report) = load_causal_lm(folder.path(), Device::Cpu, Kind::Float).unwrap();
        assert!(report.is_exact() && loaded.limits().vocabulary == 43);
        assert_eq!(difference(&one_row(&loaded, &[1, 42]), &new), 0.0);

        let error = model.resize_embeddings(40, MEAN).unwrap_err().to_string();
        assert!(error.contains("`vocab_size`") && error.contains("Resize::Shrink"), "{error}");
        assert!(model.resize_embeddings(44, Resize::Shrink).is_err());
        assert!(model.resize_embeddings(0, Resize::Shrink).unwrap_err().to_string().contains("vocab_size"));
        assert!(model.resize_embeddings(1 << 25, MEAN).unwrap_err().to_string().contains("vocab_size"));
        assert_eq!(difference(&one_row(&model, &[1, 42]), &new), 0.0);
        model.resize_embeddings(40, Resize::Shrink).unwrap();
        assert!(difference(&before, &one_row(&model, &[1, 2, 39])) < 1e-6);
        let refused = Batch::rows_of(&[&[40]], model.limits(), Device::Cpu).unwrap_err();
        assert!(matches!(refused, Error::Vocabulary { vocabulary: 40, .. }));
    }
    let config = Gpt2Config { eos_token_id: Some(39), bos_token_id: None, ..tiny().config().clone() };
    let mut model = Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap();
    let error = model.resize_embeddings(39, Resize::Shrink).unwrap_err().to_string();
    assert!(error.contains("`eos_token_id` is 39"), "{error}");
    assert_eq!(model.limits().vocabulary, 40);
}

#[test]
fn adapters_stay_when_the_base_is_resized() {
    for mut model in all_models() {
        let lora = random(&mut model, LoraConfig { r: 2, ..LoraConfig::default() }, 1);
        let own = saving(&model, &["words", "lm_head"], false);
        let own = random(&mut model, own, 2);
        let config = SoftPromptConfig::of(3);
        let prompt =
            model.adapters_mut().add_soft_prompt(config, PromptStart::Random { seed: 4 }, Device::Cpu);
        let all = [None, Some(lora), Some(own), Some(prompt.unwrap())];
        let run = |model: &mut Box<dyn CausalLm>| -> Vec<Tensor> {
            let mut of = |id| {
                model.adapters_mut().activate(id).unwrap();
                one_row(model, &[1, 2, 3])
            };
            all.iter().map(|&id| of(id)).collect()
        };
        let before = run(&mut model);
        model.adapters_mut().train(Some(lora)).unwrap();
        model.resize_embeddings(45, Resize::Normal { seed: 5 }).unwrap();
        assert_eq!(model.adapters().active(), Some(lora));
        assert_eq!(model.trainable().count(), model.adapters().get(lora).unwrap().parameters().count());
        let after = run(&mut model);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.size()[1], 45);
            assert!(difference(before, &after.narrow(1, 0, 40)) < 1e-6);
        }
        model.adapters_mut().activate(Some(own)).unwrap();
        assert_eq!(one_row(&model, &[44]).size(), [1, 45]);

        // PEFT's folder of an adapter beside a resized base holds embeddings and head, whatever it saves itself.
        for (id, same) in [(lora, true), (own, false)] {
            let folder = tempfile::tempdir().unwrap();
            model.adapters().save(id, folder.path()).unwrap();
            let written = tensors(folder.path());
            let embeddings: Vec<_> = written.iter().filter(|(name, _)| !name.contains("lora_")).collect();
            assert_eq!(embeddings.len(), 2);
            assert!(embeddings.iter().all(|(_, tensor)| tensor.size() == [45, 16]));
            let shared = embeddings[0].1 == embeddings[1].1;
            assert_eq!(shared, same && model.parameters().get("lm_head.weight").is_none());
            model.adapters_mut().activate(Some(id)).unwrap();
            let with = one_row(&model, &[1, 44]);
            let (again, _) = model.adapters_mut().load(folder.path(), Device::Cpu).unwrap();
            model.adapters_mut().activate(Some(again)).unwrap();
            assert_eq!(difference(&with, &one_row(&model, &[1, 44])), 0.0);
            model.resize_embeddings(46, MEAN).unwrap();
            let error = model.adapters_mut().load(folder.path(), Device::Cpu).unwrap_err();
            assert!(matches!(&error, Error::EmbeddingRows { file: 45, model: 46, .. }), "{error}");
            assert!(difference(&with, &one_row(&model, &[1, 44]).narrow(1, 0, 45)) < 1e-6);
            model.resize_embeddings(45, Resize::Shrink).unwrap();
        }
    }
}

/// Names of the trained tensors that got a gradient from one pass.
fn with_gradient(model: &mut Box<dyn CausalLm>, id: AdapterId) -> Vec<String> {
    model.adapters_mut().train(Some(id)).unwrap();
    model.trainable().set_trainable(true).unwrap();
    let mut builder = TargetBatchBuilder::default();
    builder.prompt(&[1, 2, 3], &[&[4, 5], &[6]]);
    let batch = builder.build(model.limits(), Device::Cpu).unwrap();
    batch.log_probs(model, true).unwrap().sum(Kind::Float).backward();
    assert!(model.parameters().leaves().iter().all(|leaf| !leaf.grad().defined()));
    let named = model.trainable().specs().iter().zip(model.trainable().leaves());
    let moved = named.filter(|(_, leaf)| leaf.grad().defined() && leaf.grad().norm().double_value(&[]) > 0.0);
    moved.map(|(spec, _)| spec.name.clone()).filter(|name| !name.contains("lora_")).collect()
}

#[test]
fn saved_modules_start_as_the_base_and_are_trained_apart_from_it() {
    for (mut model, tied) in all_models().into_iter().zip([true, false, false, true]) {
        let words = model.parameters().specs()[0].name.clone();
        for (modules, ensure, trained) in [
            (&["words"][..], false, vec![words.as_str()]),
            (&["lm_head"], false, vec!["lm_head.weight"]),
            (&["words", "lm_head"], false, vec![words.as_str(), "lm_head.weight"]),
            (&["lm_head"], true, vec![if tied { words.as_str() } else { "lm_head.weight" }]),
        ] {
            let config = saving(&model, modules, ensure);
            let id = model.adapters_mut().add(config, 7, Device::Cpu).unwrap();
            let base = one_row(&model, &[1, 2, 3]);
            assert_eq!(with_gradient(&mut model, id), trained, "{modules:?} {ensure}");
            assert!(difference(&base, &one_row(&model, &[1, 2, 3])) < 1e-6);
            let _no_grad = tch::no_grad_guard();
            let _ = model.trainable().get(trained[0]).unwrap().shallow_clone().f_neg_().unwrap();
            assert!(difference(&base, &one_row(&model, &[1, 2, 3])) > 1e-2);
            let folder = tempfile::tempdir().unwrap();
            model.adapters().save(id, folder.path()).unwrap();
            let written = tensors(folder.path());
            let embeddings = written.keys().filter(|name| !name.contains("lora_")).count();
            assert_eq!(embeddings, if ensure && tied { 2 } else { trained.len() });
            let with = one_row(&model, &[1, 2, 3]);
            let (again, report) = model.adapters_mut().load(folder.path(), Device::Cpu).unwrap();
            assert_eq!(report.ignored.len(), usize::from(ensure && tied));
            model.adapters_mut().activate(Some(again)).unwrap();
            assert!(difference(&with, &one_row(&model, &[1, 2, 3])) < 1e-6);
            model.adapters_mut().train(None).unwrap();
            assert!(difference(&base, &one_row(&model, &[1, 2, 3])) < 1e-6);
        }
    }
}

#[test]
fn own_modules_are_a_whole_batch_s_and_only_embeddings_and_head() {
    for mut model in models() {
        let lora = random(&mut model, LoraConfig::default(), 1);
        let config = saving(&model, &["lm_head"], false);
        let own = random(&mut model, config, 2);
        let hidden = |model: &dyn CausalLm, chosen: [Option<AdapterId>; 2]| {
            let batch = Batch::rows_of(&[&[1, 2], &[3]], model.limits(), Device::Cpu).unwrap();
            let batch = batch.with_adapters(chosen.to_vec()).unwrap();
            model.hidden(&batch, None, false).map(|_| ()).map_err(|error| error.to_string())
        };
        let error = hidden(&model, [Some(lora), Some(own)]).unwrap_err();
        assert!(error.contains("row 1") && error.contains("modules_to_save"), "{error}");
        assert!(hidden(&model, [Some(own), Some(own)]).is_err(), "not the active one");
        hidden(&model, [Some(lora), None]).unwrap();
        model.adapters_mut().activate(Some(own)).unwrap();
        hidden(&model, [Some(own), Some(own)]).unwrap();
        assert!(hidden(&model, [Some(lora), Some(lora)]).is_err(), "another head is active");
        assert!(hidden(&model, [Some(own), None]).is_err());

        let config = saving(&model, &["wpe"], false);
        let error = model.adapters_mut().add(config, 0, Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("`wpe`") && error.contains("lm_head"), "{error}");
        // A folder that names a module and lacks its tensor, and the other way round.
        let folder = tempfile::tempdir().unwrap();
        model.adapters().save(lora, folder.path()).unwrap();
        let path = folder.path().join("adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('{', "{\"modules_to_save\": [\"lm_head\"],", 1)).unwrap();
        let error = model.adapters_mut().load(folder.path(), Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("missing (lm_head.weight)"), "{error}");
    }
}

#[test]
fn weights_in_bfloat16_take_adapters_and_new_rows_too() {
    let kind = Kind::BFloat16;
    let gpt2 = Gpt2::new(tiny().config().clone(), 3, Device::Cpu, kind).unwrap();
    let llama = Llama::new(tied_llama().config().clone(), 3, Device::Cpu, kind).unwrap();
    let models: [Box<dyn CausalLm>; 2] = [Box::new(gpt2), Box::new(llama)];
    for mut model in models {
        model.resize_embeddings(43, MEAN).unwrap();
        assert_eq!(model.parameters().kind(), kind);
        let plain = one_row(&model, &[42, 7, 1, 2]).narrow(0, 2, 2);
        let start = PromptStart::Tokens(&[42, 7]);
        let adapters = model.adapters_mut();
        let prompt = adapters.add_soft_prompt(SoftPromptConfig::of(2), start, Device::Cpu).unwrap();
        adapters.activate(Some(prompt)).unwrap();
        assert!(difference(&plain, &one_row(&model, &[1, 2])) < 1e-6);
        let config = saving(&model, &["words"], true);
        let own = model.adapters_mut().add(config, 1, Device::Cpu).unwrap();
        model.adapters_mut().activate(Some(own)).unwrap();
        // Its head is held in float32, for which libtorch multiplies rounded inputs; a head in bfloat16 takes them whole.
        assert!(difference(&plain, &one_row(&model, &[42, 7, 1, 2]).narrow(0, 2, 2)) < 0.02);
    }
}
