//! Weights that stay in their file.

use std::path::Path;

use persona_model::{Batch, CausalLm, LoadOptions, LoraConfig, Model, load_causal_lm, load_causal_lm_with};
use tch::{Device, Kind, Tensor};

use crate::{difference, models};

fn load(folder: &Path, kind: Kind) -> Box<dyn CausalLm> {
    load_causal_lm_with(folder, Device::Cpu, LoadOptions::mapped(kind)).unwrap().0
}

fn logits(model: &dyn CausalLm) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let batch = Batch::rows_of(&[&[1, 2, 3], &[4, 5]], model.limits(), Device::Cpu).unwrap();
    model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap()
}

#[test]
fn mapped_weights_are_the_copied_ones() {
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let mapped = load(folder.path(), Kind::Float);
        assert!(mapped.parameters().is_mapped());
        assert!(!model.parameters().is_mapped());
        assert_eq!(difference(&logits(&*mapped), &logits(&*model)), 0.0);
        assert_eq!(mapped.parameters().fingerprint().unwrap(), model.parameters().fingerprint().unwrap());

        let copy = mapped.parameters().copy(Kind::Float).unwrap();
        assert!(!copy.is_mapped());
        assert_eq!(difference(copy.flat(), model.parameters().flat()), 0.0);
        let (mut other, _) = load_causal_lm(folder.path(), Device::Cpu, Kind::Float).unwrap();
        let _ = tch::no_grad(|| other.parameters_mut().flat_mut().f_zero_().unwrap());
        other.parameters_mut().copy_from(mapped.parameters()).unwrap();
        assert_eq!(difference(other.parameters().flat(), model.parameters().flat()), 0.0);

        let again = tempfile::tempdir().unwrap();
        mapped.save(again.path()).unwrap();
        let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
        assert_eq!(bytes(folder.path()), bytes(again.path()));
    }
}

#[test]
fn what_is_written_stays_in_the_process_and_the_file_may_be_replaced() {
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let file = folder.path().join("model.safetensors");
        let before = std::fs::read(&file).unwrap();
        let expected = logits(&*model);
        let (mapped, mut written) = (load(folder.path(), Kind::Float), load(folder.path(), Kind::Float));
        for leaf in written.parameters_mut().leaves() {
            let _ = tch::no_grad(|| leaf.shallow_clone().f_fill_(0.5).unwrap());
        }
        assert!(difference(&logits(&*written), &expected) > 0.0);
        assert_eq!(std::fs::read(&file).unwrap(), before);

        // A leaf outlives its model, and both outlive the file's name.
        std::fs::write(folder.path().join("other"), vec![7; before.len()]).unwrap();
        std::fs::rename(folder.path().join("other"), &file).unwrap();
        assert_eq!(difference(&logits(&*mapped), &expected), 0.0);
        let (leaf, same) = (mapped.parameters().leaves()[0].shallow_clone(), &model.parameters().leaves()[0]);
        drop(mapped);
        assert_eq!(difference(&leaf, same), 0.0);
    }
}

#[test]
fn weights_are_copied_where_the_file_holds_them_otherwise() {
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let cast = load(folder.path(), Kind::BFloat16);
        assert!(!cast.parameters().is_mapped());
        let plain = load_causal_lm(folder.path(), Device::Cpu, Kind::BFloat16).unwrap().0;
        assert_eq!(difference(&logits(&*cast), &logits(&*plain)), 0.0);
    }
}

#[test]
fn adapters_over_mapped_weights_have_gradients() {
    for model in models() {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let mut mapped = load(folder.path(), Kind::Float);
        let adapter = mapped.adapters_mut().add(LoraConfig::default(), 1, Device::Cpu).unwrap();
        mapped.adapters_mut().get(adapter).unwrap().parameters().set_trainable(true).unwrap();
        let batch = Batch::rows_of(&[&[1, 2, 3]], mapped.limits(), Device::Cpu).unwrap();
        let batch = batch.with_adapters(vec![Some(adapter)]).unwrap();
        let loss = mapped.hidden(&batch, None, true).unwrap().square().sum(Kind::Float);
        loss.backward();
        let touched = |leaf: &Tensor| {
            leaf.grad().defined() && leaf.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0
        };
        assert!(mapped.adapters().get(adapter).unwrap().parameters().leaves().iter().any(touched));
        assert!(mapped.parameters().leaves().iter().all(|leaf| !leaf.grad().defined()));
    }
}
