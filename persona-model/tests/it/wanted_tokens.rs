//! Hidden states of some tokens, of which the last layer computes no others.

use persona_model::{
    AdapterId, Batch, BatchBuilder, CausalLm, LoraConfig, Model, PromptStart, SoftPromptConfig,
};
use tch::{Device, Kind, Tensor};

use crate::{difference, models};

const ROWS: [&[u32]; 3] = [&[1, 2, 3, 4], &[5, 6], &[7, 8, 9]];
const PLACES: [i64; 4] = [8, 3, 5, 3];

fn check(model: &dyn CausalLm, adapters: Option<Vec<Option<AdapterId>>>) {
    let mut batch = Batch::rows_of(&ROWS, model.limits(), Device::Cpu).unwrap();
    if let Some(adapters) = adapters {
        batch = batch.with_adapters(adapters).unwrap();
    }
    // As for a part of a prompt, after which nothing is asked.
    let none = Tensor::from_slice(&[0_i64; 0]);
    assert_eq!(model.hidden_at(&batch, Some(&none), None, false).unwrap().size()[0], 0);
    let at = Tensor::from_slice(&PLACES);
    let expected = model.hidden(&batch, None, true).unwrap().index_select(0, &at);
    let wanted = model.hidden_at(&batch, Some(&at), None, true).unwrap();
    assert!(difference(&wanted, &expected) < 1e-5);
    model.trainable().set_trainable(true).unwrap();
    let gradients = |hidden: &dyn Fn() -> Tensor| {
        model
            .gradients(&hidden().sigmoid().sum(Kind::Float))
            .unwrap()
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    let expected = gradients(&|| model.hidden(&batch, None, true).unwrap().index_select(0, &at));
    let gradients = gradients(&|| model.hidden_at(&batch, Some(&at), None, true).unwrap());
    assert!(!expected.is_empty());
    assert_eq!(gradients.len(), expected.len());
    for (one, other) in gradients.iter().zip(&expected) {
        assert!(difference(one, other) < 1e-4);
    }
    model.trainable().set_trainable(false).unwrap();
}

#[test]
fn wanted_tokens_and_their_gradients_are_those_of_all() {
    for mut model in models() {
        check(&*model, None);
        model.set_gradient_checkpointing(true).unwrap();
        check(&*model, None);
        model.set_gradient_checkpointing(false).unwrap();
        let mut ids = Vec::new();
        for seed in [1, 2] {
            let config = LoraConfig { r: 2, ..LoraConfig::default() };
            let id = model.adapters_mut().add(config, seed, Device::Cpu).unwrap();
            let leaves = model.adapters().get(id).unwrap().parameters().leaves();
            tch::no_grad(|| {
                leaves.iter().for_each(|leaf| drop(leaf.shallow_clone().f_add_scalar_(0.1).unwrap()))
            });
            ids.push(id);
        }
        model.adapters_mut().activate(Some(ids[0])).unwrap();
        check(&*model, None);
        check(&*model, Some(vec![Some(ids[0]), None, Some(ids[1])]));
        let start = PromptStart::Tokens(&[3, 4]);
        let prompt =
            model.adapters_mut().add_soft_prompt(SoftPromptConfig::of(2), start, Device::Cpu).unwrap();
        model.adapters_mut().activate(Some(prompt)).unwrap();
        check(&*model, None);
        check(&*model, Some(vec![Some(prompt), None, Some(prompt)]));
    }
}

#[test]
fn a_cache_holds_all_tokens_whichever_are_wanted() {
    let batch = |model: &dyn CausalLm, past, ids: &[u32]| {
        let mut builder = BatchBuilder::default();
        builder.cached(0, past, ids);
        builder.build(model.limits(), Device::Cpu).unwrap()
    };
    for model in models() {
        let _no_grad = tch::no_grad_guard();
        let next = |at: Option<&Tensor>| {
            let mut cache = model.cache(1, 8).unwrap();
            drop(model.hidden_at(&batch(&*model, 0, &[1, 2, 3, 4]), at, Some(&mut cache), false).unwrap());
            model.hidden(&batch(&*model, 4, &[5]), Some(&mut cache), false).unwrap()
        };
        assert!(difference(&next(Some(&Tensor::from_slice(&[3_i64]))), &next(None)) < 1e-6);
    }
}
