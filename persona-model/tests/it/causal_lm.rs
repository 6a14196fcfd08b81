//! Kind `causal_lm`: logits, sequence log-probabilities and mean NLL of transformers.

use persona_model::{Batch, CausalLm, Gpt2, Llama, LlamaConfig, Model, TargetBatchBuilder, load_causal_lm};
use tch::{Device, Kind, Tensor};

use crate::{difference, parity};

#[test]
fn parity_causal_lm() {
    parity::for_each("causal_lm", |case| {
        let folder = case.folder.join("model");
        let (mut model, report) = load_causal_lm(&folder, Device::Cpu, Kind::Float).unwrap();
        assert!(report.is_exact(), "{report}");
        if case.model_type("model") == "llama" && case.json["dtype"] == "bfloat16" {
            // The reference was cast to bfloat16 whole, and its numbers come from what that left of the frequencies.
            let mut llama = Llama::load(&folder, Device::Cpu, Kind::Float).unwrap().0;
            llama.round_rope_frequencies(Kind::BFloat16);
            model = Box::new(llama);
        }
        let _no_grad = tch::no_grad_guard();
        for side in ["left", "right"] {
            let rows = case.rows(&format!("{side}.input_ids"), &format!("{side}.attention_mask"));
            let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let batch = Batch::rows_of(&views, model.limits(), Device::Cpu).unwrap();
            let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
            let mask = case.tensor(&format!("{side}.attention_mask")).to_kind(Kind::Bool).view(-1);
            let expected = case.tensor(&format!("{side}.logits"));
            let expected = expected.view([-1, expected.size()[2]]).index(&[Some(mask)]);
            assert!(difference(&logits, &expected) < 1e-4, "{} {side}", case.folder.display());

            // The labels mark a suffix of each row: the targets. Where a row has none, its sum is 0.
            let labels = Vec::<Vec<i64>>::try_from(case.tensor(&format!("{side}.labels"))).unwrap();
            let mut builder = TargetBatchBuilder::default();
            let mut scored = Vec::new();
            for (at, (row, labels)) in rows.iter().zip(&labels).enumerate() {
                let targets = labels.iter().filter(|&&label| label != -100).count().min(row.len() - 1);
                if targets > 0 {
                    let (prompt, target) = row.split_at(row.len() - targets);
                    builder.prompt(prompt, &[target]);
                    scored.push(at);
                }
            }
            let targets = builder.build(model.limits(), Device::Cpu).unwrap();
            let log_probs = targets.log_probs(&model, false).unwrap();
            let mut sums = vec![0.0f64; rows.len()];
            for (at, sum) in
                scored.iter().zip(Vec::<f64>::try_from(targets.sums(&log_probs).unwrap()).unwrap())
            {
                sums[*at] = sum;
            }
            // A short row padded on the left may have its first token labelled, which the reference predicts from the
            // padding before it. No model computes that here: the term is the reference's own.
            let width = labels[0].len();
            let mut predicted = log_probs.numel();
            for (at, row) in rows.iter().enumerate() {
                let start = if side == "left" { width - row.len() } else { 0 };
                if start > 0 && labels[at][start] != -100 {
                    let logits = case.tensor(&format!("{side}.logits")).get(at as i64).get(start as i64 - 1);
                    sums[at] += logits.log_softmax(-1, Kind::Double).double_value(&[i64::from(row[0])]);
                    predicted += 1;
                }
            }
            let expected = case.tensor(&format!("{side}.sequence_logps"));
            assert!(difference(&Tensor::from_slice(&sums).to_kind(Kind::Float), expected) < 1e-4);
            let nll = Tensor::from(-(sums.iter().sum::<f64>() / predicted as f64) as f32);
            assert!(difference(&nll, case.tensor(&format!("{side}.mean_token_nll"))) < 1e-4);
        }
        true
    });
}

#[test]
fn what_is_saved_is_loaded_again() {
    let model = crate::tiny();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let (again, report) = Gpt2::load(folder.path(), Device::Cpu, Kind::Float).unwrap();
    assert!(report.is_exact() && report.cast.is_empty());
    assert_eq!(difference(model.parameters().flat(), again.parameters().flat()), 0.0);
    assert_eq!(again.config().n_embd, model.config().n_embd);

    let (half, report) = Gpt2::load(folder.path(), Device::Cpu, Kind::BFloat16).unwrap();
    assert_eq!(half.parameters().kind(), Kind::BFloat16, "the chosen kind is held");
    assert_eq!(report.cast.len(), model.parameters().specs().len());

    // Half precision is held, and computed with in float32.
    let (half, _) = Gpt2::load(folder.path(), Device::Cpu, Kind::Half).unwrap();
    assert_eq!(half.parameters().kind(), Kind::Half);
    let logits = |model: &Gpt2| {
        let batch = Batch::rows_of(&[&[1, 2, 3]], model.limits(), Device::Cpu).unwrap();
        model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap()
    };
    assert!(difference(&logits(&model), &logits(&half)) < 1e-2);
    half.save(folder.path()).unwrap();
    let (again, report) = Gpt2::load(folder.path(), Device::Cpu, Kind::Half).unwrap();
    assert!(report.cast.is_empty());
    assert_eq!(again.fingerprint().unwrap(), half.fingerprint().unwrap());
}

#[test]
fn a_tied_models_head_is_passed_over_where_it_is_the_embeddings() {
    let config = LlamaConfig { tie_word_embeddings: true, ..crate::tiny_llama().config().clone() };
    let llama = Llama::new(config, 3, Device::Cpu, Kind::Float).unwrap();
    let models: [Box<dyn CausalLm>; 2] = [Box::new(crate::tiny()), Box::new(llama)];
    for model in models {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let file = folder.path().join("model.safetensors");
        let mut tensors: Vec<_> = persona_model::read_tensors(&file).unwrap().0.into_iter().collect();
        let words = &model.parameters().leaves()[0];
        let mut load = |head: Tensor| {
            tensors.retain(|(name, _)| name != "lm_head.weight");
            tensors.push(("lm_head.weight".to_owned(), head));
            persona_model::write_tensors(&file, &tensors, &[]).unwrap();
            load_causal_lm(folder.path(), Device::Cpu, Kind::Float)
        };
        assert_eq!(load(words.copy()).unwrap().1.ignored, ["lm_head.weight"]);
        let error = load(words * 2.0).map(drop).unwrap_err().to_string();
        assert!(error.contains("lm_head.weight: differs from"), "{error}");
    }
}

#[test]
fn names_without_the_prefix_and_old_buffers_load() {
    let model = crate::tiny();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let file = folder.path().join("model.safetensors");
    let mut tensors: Vec<(String, Tensor)> = persona_model::read_tensors(&file)
        .unwrap()
        .0
        .into_iter()
        .map(|(name, tensor)| (name.trim_start_matches("transformer.").to_owned(), tensor))
        .collect();
    tensors.push(("h.0.attn.bias".into(), Tensor::ones([1, 1, 4, 4], (Kind::Float, Device::Cpu))));
    persona_model::write_tensors(&file, &tensors, &[]).unwrap();
    let (again, report) = Gpt2::load(folder.path(), Device::Cpu, Kind::Float).unwrap();
    assert_eq!(report.ignored, ["h.0.attn.bias"]);
    assert_eq!(difference(model.parameters().flat(), again.parameters().flat()), 0.0);
}
