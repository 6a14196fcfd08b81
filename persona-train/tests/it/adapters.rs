//! What the loop changes where an adapter is trained: the adapter, and nothing else.

use persona_model::{
    AdapterId, Adapters, CausalLm, Gpt2, LoraConfig, Model, PromptStart, Resize, SoftPromptConfig,
};
use persona_train::{NextToken, Objective, Trainer, evaluate};
use tch::{Device, Tensor};

use crate::{config, examples, tiny, weights};

/// Trains a fresh adapter beside a fixed base in a folder, and returns the model.
fn trained(folder: &std::path::Path, add: &dyn Fn(&mut Adapters) -> AdapterId) -> Gpt2 {
    let mut model = tiny(0.1);
    model.resize_embeddings(32, Resize::Mean { seed: 1 }).unwrap();
    let id = add(model.adapters_mut());
    model.adapters_mut().train(Some(id)).unwrap();
    let base = weights(&model);
    let start: Vec<Tensor> = model.trainable().leaves().iter().map(Tensor::copy).collect();
    let data = examples(64);
    let objective = NextToken::new(model);
    let before = evaluate(&objective, &data, 16).unwrap()[0].1;
    let mut trainer = Trainer::new(objective, config(40)).unwrap().in_folder(folder);
    let outcome = trainer.fit(&data, &data).unwrap();
    assert!(outcome.evaluation[0].1 < 0.98 * before, "{before} to {:?}", outcome.evaluation);
    let model = trainer.into_objective().into_model();
    assert_eq!(weights(&model), base, "the base stays");
    for ((spec, leaf), start) in model.trainable().specs().iter().zip(model.trainable().leaves()).zip(&start)
    {
        assert!(leaf != start, "{} is trained", spec.name);
    }
    model
}

/// A second call on the folder of a finished run loads what it ended with.
fn continued(add: &dyn Fn(&mut Adapters) -> AdapterId) -> Gpt2 {
    let folder = tempfile::tempdir().unwrap();
    let model = trained(folder.path(), add);
    let mut again = tiny(0.1);
    again.resize_embeddings(32, Resize::Mean { seed: 1 }).unwrap();
    let id = add(again.adapters_mut());
    again.adapters_mut().train(Some(id)).unwrap();
    let mut trainer = Trainer::new(NextToken::new(again), config(40)).unwrap().in_folder(folder.path());
    trainer.fit(&examples(64), &examples(64)).unwrap();
    let again = trainer.into_objective();
    assert_eq!(model.trainable().flat(), again.model().trainable().flat());
    model
}

#[test]
fn a_soft_prompt_learns_beside_a_frozen_base() {
    let model = continued(&|adapters| {
        let start = PromptStart::Tokens(&[3, 4, 5]);
        adapters.add_soft_prompt(SoftPromptConfig::of(6), start, Device::Cpu).unwrap()
    });
    assert_eq!(model.trainable().count(), 6 * 16);
    assert_eq!(model.limits().positions, 24 - 6);
}

#[test]
fn a_lora_learns_with_the_modules_that_it_saves() {
    for (modules, ensure_weight_tying, names) in [
        (vec!["wte"], true, vec!["transformer.wte.weight"]),
        (vec!["wte", "lm_head"], false, vec!["transformer.wte.weight", "lm_head.weight"]),
    ] {
        let model = continued(&|adapters| {
            let modules_to_save = Some(modules.iter().map(|&name| name.to_owned()).collect());
            let config = LoraConfig {
                modules_to_save,
                ensure_weight_tying,
                lora_dropout: 0.1,
                ..LoraConfig::on(&["c_attn"], 2, 4.0)
            };
            adapters.add(config, 5, Device::Cpu).unwrap()
        });
        let trained = model.trainable().specs().iter().map(|spec| spec.name.as_str());
        assert_eq!(trained.filter(|name| !name.contains("lora_")).collect::<Vec<_>>(), names);
        assert_eq!(model.trainable().get(names[0]).unwrap().size(), [32, 16]);
    }
}
