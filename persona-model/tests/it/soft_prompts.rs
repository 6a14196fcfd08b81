//! Kind `prompt_tuning`, and what holds of soft prompts: they are tokens before the text that nobody counts.

use std::path::Path;

use persona_model::{
    AdapterId, Batch, BatchBuilder, CausalLm, Error, LoraConfig, PromptStart, SoftPromptConfig,
    TargetBatchBuilder, load_causal_lm, read_tensors, write_tensors,
};
use tch::{Device, Kind, Tensor};

use crate::adapters::{logits, random};
use crate::{difference, models, parity};

#[test]
fn parity_prompt_tuning() {
    parity::for_each("prompt_tuning", |case| {
        let folder = |key: &str| case.folder.join(case.json[key].as_str().unwrap());
        let (mut model, _) = load_causal_lm(&folder("model"), Device::Cpu, Kind::Float).unwrap();
        let positions = model.limits().positions;
        let (id, report) = model.adapters_mut().load(&folder("adapter"), Device::Cpu).unwrap();
        assert!(report.is_exact() && report.loaded == 1, "{report}");
        model.adapters_mut().activate(Some(id)).unwrap();
        let virtual_tokens = case.json["virtual_tokens"].as_u64().unwrap() as usize;
        assert_eq!(model.limits().positions, positions - virtual_tokens);
        let rows = case.rows("input_ids", "attention_mask");
        let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let batch = Batch::rows_of(&views, model.limits(), Device::Cpu).unwrap();
        let mask = case.tensor("attention_mask").to_kind(Kind::Bool).view(-1);
        let expected = case.tensor("logits");
        let expected = expected.view([-1, expected.size()[2]]).index(&[Some(mask)]);
        assert!(difference(&logits(&model, &batch), &expected) < 1e-4, "{}", case.folder.display());

        // What is exported is imported again, and is what PEFT wrote.
        let copy = tempfile::tempdir().unwrap();
        model.adapters().get(id).unwrap().save(copy.path()).unwrap();
        let read = |folder: &Path| read_tensors(&folder.join("adapter_model.safetensors")).unwrap().0;
        assert_eq!(read(copy.path()), read(&folder("adapter")));
        let config = |folder: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        assert_eq!(config(copy.path()), config(&folder("adapter")));
        model.adapters_mut().remove(id).unwrap();
        assert_eq!(model.limits().positions, positions);
        true
    });
}

fn prompt(model: &mut dyn CausalLm, tokens: &[u32]) -> AdapterId {
    let config = SoftPromptConfig::of(tokens.len());
    model.adapters_mut().add_soft_prompt(config, PromptStart::Tokens(tokens), Device::Cpu).unwrap()
}

/// The logits of a row alone, after tokens that are cut off.
fn after(model: &dyn CausalLm, prefix: &[u32], row: &[u32]) -> Tensor {
    let whole = [prefix, row].concat();
    let batch = Batch::rows_of(&[&whole], model.limits(), Device::Cpu).unwrap();
    logits(model, &batch).slice(0, prefix.len() as i64, None, 1)
}

#[test]
fn a_prompt_of_token_embeddings_is_those_tokens_before_the_text() {
    for mut model in models() {
        let (a, b): (&[u32], &[u32]) = (&[30, 31, 32], &[7, 7]);
        let (id_a, id_b) = (prompt(&mut model, a), prompt(&mut model, b));
        let lora = random(&mut model, LoraConfig { r: 3, ..LoraConfig::default() }, 1);
        let rows: [&[u32]; 5] = [&[1, 2, 3, 4], &[5], &[6, 7, 8], &[9, 10, 11, 12, 13], &[14, 15]];
        let (before, own): (Vec<&[u32]>, Vec<_>) =
            [(a, Some(id_a)), (&[][..], None), (b, Some(id_b)), (&[][..], Some(lora)), (a, Some(id_a))]
                .into_iter()
                .unzip();
        let alone = |model: &mut Box<dyn CausalLm>, at: usize, row: &[u32]| {
            let own = own[at].filter(|id| *id == lora);
            model.adapters_mut().activate(own).unwrap();
            let alone = after(model, before[at], row);
            model.adapters_mut().activate(None).unwrap();
            alone
        };
        let expected: Vec<Tensor> = (0..5).map(|at| alone(&mut model, at, rows[at])).collect();

        // Each row with its own adapter.
        let batch = Batch::rows_of(&rows, model.limits(), Device::Cpu).unwrap();
        let together = logits(&model, &batch.with_adapters(own.clone()).unwrap());
        assert!(difference(&together, &Tensor::cat(&expected, 0)) < 1e-5);

        // One for all, the active one.
        model.adapters_mut().activate(Some(id_a)).unwrap();
        let batch = Batch::rows_of(&rows, model.limits(), Device::Cpu).unwrap();
        let together = logits(&model, &batch).split_with_sizes([4, 1, 3, 5, 2], 0);
        assert!(difference(&together[0], &expected[0]) < 1e-5);
        assert!(difference(&together[4], &expected[4]) < 1e-5);
        model.adapters_mut().activate(None).unwrap();

        // Rows that share a prefix share what stands before it.
        let mut builder = BatchBuilder::default();
        let shared = builder.row(&rows[0][..2]);
        builder.continuation(shared, &rows[0][2..]);
        let other = builder.row(&rows[2][..1]);
        builder.continuation(other, &rows[2][1..]);
        builder.continuation(shared, &[20, 21]);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let chosen = vec![own[0], own[0], own[2], own[2], own[0]];
        let shared = logits(&model, &batch.with_adapters(chosen).unwrap()).split_with_sizes([4, 3, 2], 0);
        assert!(difference(&shared[0], &expected[0]) < 1e-5);
        assert!(difference(&shared[1], &expected[2]) < 1e-5);
        let third = alone(&mut model, 0, &[1, 2, 20, 21]);
        assert!(difference(&shared[2], &third.narrow(0, 2, 2)) < 1e-5);

        // A cache holds the virtual tokens with the row that starts it, and counts the text.
        let mut cache = model.cache(5, 4).unwrap();
        let _no_grad = tch::no_grad_guard();
        let run = |cache: &mut _, rows: &[(usize, usize, &[u32])]| {
            let mut builder = BatchBuilder::default();
            for &(at, past, ids) in rows {
                builder.cached(at, past, ids);
            }
            let batch = builder.build(model.limits(), Device::Cpu).unwrap();
            let chosen = rows.iter().map(|(at, ..)| own[*at]).collect();
            let hidden = model.hidden(&batch.with_adapters(chosen).unwrap(), Some(cache), false).unwrap();
            model.logits(&hidden).unwrap()
        };
        let all: Vec<_> = (0..5).map(|at| (at, 0, &rows[at][..1])).collect();
        let first = run(&mut cache, &all);
        assert_eq!(cache.lengths(), [1; 5]);
        for (at, expected) in expected.iter().enumerate() {
            assert!(difference(&first.get(at as i64), &expected.get(0)) < 1e-5, "row {at}");
        }
        // One token each, then the rest at once.
        let second =
            run(&mut cache, &[(0, 1, &rows[0][1..2]), (2, 1, &rows[2][1..2]), (4, 1, &rows[4][1..2])]);
        for (place, at) in [0, 2, 4].into_iter().enumerate() {
            assert!(difference(&second.get(place as i64), &expected[at].get(1)) < 1e-5, "row {at}");
        }
        let rest = run(&mut cache, &[(2, 2, &rows[2][2..]), (3, 1, &rows[3][1..])]);
        assert!(difference(&rest.get(0), &expected[2].get(2)) < 1e-5);
        assert!(difference(&rest.get(-1), &expected[3].get(-1)) < 1e-5);
        assert_eq!(cache.lengths(), [2, 1, 3, 5, 2]);
        cache.keep(&[4, 0]).unwrap();
        let mut builder = BatchBuilder::default();
        builder.cached(1, 2, &rows[0][2..]);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let kept = model.hidden(&batch, Some(&mut cache), false).unwrap();
        let kept = model.logits(&kept).unwrap();
        assert!(difference(&kept, &expected[0].narrow(0, 2, 2)) < 1e-5);
    }
}

#[test]
fn virtual_tokens_take_up_positions() {
    for mut model in models() {
        let id = prompt(&mut model, &[1, 2, 3]);
        let rows: [&[u32]; 2] = [&[4; 29], &[4; 30]];
        let base = |model: &dyn CausalLm| Batch::rows_of(&rows, model.limits(), Device::Cpu);
        let batch = base(&model).unwrap().with_adapters(vec![Some(id), None]).unwrap();
        assert_eq!(model.hidden(&batch, None, false).unwrap().size(), [59, 16]);
        let batch = base(&model).unwrap().with_adapters(vec![Some(id), Some(id)]).unwrap();
        let error = model.hidden(&batch, None, false).unwrap_err();
        assert!(matches!(error, Error::TooLong { row: 1, length: 33, positions: 32 }), "{error}");
        model.adapters_mut().activate(Some(id)).unwrap();
        assert!(matches!(base(&model).unwrap_err(), Error::TooLong { row: 1, positions: 29, .. }));

        // The last position can be reached by steps too.
        let mut cache = model.cache(1, 1).unwrap();
        let step = |past: usize, ids: &[u32]| {
            let mut builder = BatchBuilder::default();
            builder.cached(0, past, ids);
            builder.build(model.limits(), Device::Cpu)
        };
        let _ = model.hidden(&step(0, &[4; 28]).unwrap(), Some(&mut cache), false).unwrap();
        let _ = model.hidden(&step(28, &[4]).unwrap(), Some(&mut cache), false).unwrap();
        assert!(step(29, &[4]).is_err());
    }
}

#[test]
fn starts_are_drawn_from_their_seeds_or_taken_from_the_vocabulary() {
    for mut model in models() {
        let mut start = |start: PromptStart<'_>| {
            let adapters = model.adapters_mut();
            let id = adapters.add_soft_prompt(SoftPromptConfig::of(5), start, Device::Cpu).unwrap();
            adapters.get(id).unwrap().parameters().leaves()[0].copy()
        };
        let random = start(PromptStart::Random { seed: 1 });
        assert_eq!(random, start(PromptStart::Random { seed: 1 }));
        assert_ne!(random, start(PromptStart::Random { seed: 2 }));
        let sampled = start(PromptStart::Vocabulary { seed: 1 });
        assert_ne!(sampled, start(PromptStart::Vocabulary { seed: 2 }));
        let repeated = start(PromptStart::Tokens(&[3, 4]));
        let cut = start(PromptStart::Tokens(&[3, 4, 3, 4, 3, 9]));
        assert_eq!(repeated, cut);
        let words = &model.parameters().leaves()[0];
        for row in 0..5 {
            let distance = (words - sampled.get(row)).abs().sum_dim_intlist(1, false, Kind::Float);
            assert_eq!(distance.min().double_value(&[]), 0.0);
            assert_eq!(repeated.get(row), words.get(3 + row % 2));
        }
    }
}

#[test]
fn gradients_reach_the_prompt_and_leave_the_base_alone() {
    for mut model in models() {
        let id = prompt(&mut model, &[7, 8]);
        model.adapters_mut().train(Some(id)).unwrap();
        assert_eq!(model.trainable().count(), 2 * 16);
        model.trainable().set_trainable(true).unwrap();
        let mut builder = TargetBatchBuilder::default();
        builder.prompt(&[1, 2, 3], &[&[4, 5], &[6]]);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let log_probs = batch.log_probs(&model, true).unwrap();
        log_probs.sum(Kind::Float).backward();
        let gradient = model.trainable().leaves()[0].grad();
        assert!((0..2).all(|row| gradient.get(row).norm().double_value(&[]) > 0.0));
        assert!(model.parameters().leaves().iter().all(|leaf| !leaf.grad().defined()));
        let error = model.merge(id).unwrap_err().to_string();
        assert!(error.contains("cannot be merged"), "{error}");
    }
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let [mut gpt2, mut llama] = models();
    let id = prompt(&mut gpt2, &[7, 8, 9]);
    let folder = tempfile::tempdir().unwrap();
    gpt2.adapters().save(id, folder.path()).unwrap();
    let config = folder.path().join("adapter_config.json");
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    // Nothing in a soft prompt is of one architecture: only sizes tell bases apart.
    llama.adapters_mut().load(folder.path(), Device::Cpu).unwrap();
    let mut refused = |key: &str, value: serde_json::Value, words: &str| {
        let mut changed = text.clone();
        changed[key] = value;
        std::fs::write(&config, changed.to_string()).unwrap();
        let error = gpt2.adapters_mut().load(folder.path(), Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(words), "{key}: {error}");
    };
    refused("token_dim", 24.into(), "`token_dim`: is 24, the model has 16");
    refused("num_layers", 3.into(), "`num_layers`: is 3, the model has 2");
    refused("num_virtual_tokens", 4.into(), "prompt_embeddings: file [3, 16], model [4, 16]");
    refused("num_virtual_tokens", 32.into(), "no room for text in the model's 32 positions");
    refused("num_virtual_tokens", 0.into(), "num_virtual_tokens");
    refused("num_virtual_tokens", serde_json::Value::Null, "adapter_config.json");
    refused("num_transformer_submodules", 2.into(), "num_transformer_submodules");
    refused("task_type", "SEQ_2_SEQ_LM".into(), "task_type");
    refused("encoder_hidden_size", 16.into(), "encoder_hidden_size");
    refused("prompt_tuning_init", "OTHER".into(), "OTHER");
    refused("modules_to_save", serde_json::json!(["lm_head"]), "modules_to_save");
    refused("peft_type", "PREFIX_TUNING".into(), "PREFIX_TUNING");
    std::fs::write(&config, text.to_string()).unwrap();

    let file = folder.path().join("adapter_model.safetensors");
    let mut tensors: Vec<_> = read_tensors(&file).unwrap().0.into_iter().collect();
    tensors.push(("extra".to_owned(), Tensor::ones([1], (Kind::Float, Device::Cpu))));
    let mut load = |tensors: &[(String, Tensor)]| {
        write_tensors(&file, tensors, &[]).unwrap();
        gpt2.adapters_mut().load(folder.path(), Device::Cpu).unwrap_err().to_string()
    };
    assert!(load(&tensors).contains("unexpected (extra)"));
    assert!(load(&tensors[1..]).contains("missing (prompt_embeddings)"));
    assert_eq!(gpt2.adapters().ids().count(), 1);

    let mut add = |config: SoftPromptConfig, start: PromptStart<'_>| {
        gpt2.adapters_mut().add_soft_prompt(config, start, Device::Cpu).unwrap_err()
    };
    assert!(matches!(
        add(SoftPromptConfig::of(2), PromptStart::Tokens(&[1, 40])),
        Error::Vocabulary { id: 40, .. }
    ));
    assert!(add(SoftPromptConfig::of(2), PromptStart::Tokens(&[])).to_string().contains("token ids"));
    assert!(add(SoftPromptConfig::of(32), PromptStart::Random { seed: 0 }).to_string().contains("no room"));
}
