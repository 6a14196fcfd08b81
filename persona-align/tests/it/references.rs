//! References of every kind, losses that couple a step, and learning without a reference or without pairs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use persona_align::{
    Error, LabelledReply, LiveReference, LossType, PreferenceLoss, Reference, ReferenceFreeLoss,
    ReferencedPair, UnpairedLoss, reference_log_probs, reference_log_probs_of, unpaired_reference_log_probs,
};
use persona_model::{AdapterId, Gpt2, LoraConfig, Model, Precision};
use persona_train::{Objective, Observer, StepRecord, TrainConfig, Trainer, evaluate};
use tch::{Device, Kind, Tensor};

use crate::training::{pairs, tiny, value};

fn config(steps: u64, micro_batch_size: usize) -> TrainConfig {
    TrainConfig {
        steps,
        batch_size: 6,
        micro_batch_size,
        learning_rate: 5e-3,
        warmup_steps: 1,
        ..TrainConfig::default()
    }
}

/// A LoRA whose B is not zero, so that it changes something.
fn add_lora(model: &mut Gpt2, seed: u64) -> AdapterId {
    let id = model.adapters_mut().add(LoraConfig::on(&["c_attn"], 2, 4.0), seed, Device::Cpu).unwrap();
    let _no_grad = tch::no_grad_guard();
    for leaf in model.adapters().get(id).unwrap().parameters().leaves() {
        let grid = Tensor::linspace(-0.4, 0.5, leaf.numel() as i64, (Kind::Float, Device::Cpu));
        leaf.shallow_clone().copy_(&grid.view(leaf.size().as_slice()));
    }
    id
}

#[test]
fn stage_1_s_adapter_is_the_reference_of_stage_2_and_the_base_is_another() {
    let mut model = tiny();
    let stage1 = add_lora(&mut model, 1);
    model.adapters_mut().activate(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("reference.safetensors");
    let of = |reference: Reference, model: &mut Gpt2, cache: Option<&Path>| {
        reference.with(model, |reference| reference_log_probs(reference, pairs(), 4, cache))
    };
    let stage1_log_probs = of(Reference::Adapter(stage1), &mut model, Some(&cache)).unwrap();
    assert_eq!(model.adapters().active(), None, "the model is left as it was");
    let base_log_probs = of(Reference::Base, &mut model, None).unwrap();
    assert_ne!(stage1_log_probs, base_log_probs);
    assert!(
        matches!(of(Reference::Base, &mut model, Some(&cache)), Err(Error::Reference { .. })),
        "the cache remembers the adapter"
    );

    model.adapters_mut().train(Some(stage1)).unwrap();
    let active = of(Reference::Base, &mut model, None).unwrap();
    assert_eq!((active, model.adapters().active()), (base_log_probs.clone(), Some(stage1)));
    let objective = PreferenceLoss::sigmoid(0.5).on(model);
    let first = |pairs: &[ReferencedPair]| value(&evaluate(&objective, pairs, 4).unwrap(), "loss");
    assert!((first(&stage1_log_probs) - std::f64::consts::LN_2).abs() < 1e-6);
    assert!((first(&base_log_probs) - std::f64::consts::LN_2).abs() > 1e-2, "the wrong reference shows");

    let mut trainer = Trainer::new(objective, config(12, 6)).unwrap();
    let outcome = trainer.fit(&stage1_log_probs, &stage1_log_probs).unwrap();
    assert!(value(&outcome.evaluation, "eval_loss") < 0.6);
    let mut gone = trainer.into_objective().into_model();
    gone.adapters_mut().remove(stage1).unwrap();
    assert!(matches!(of(Reference::Adapter(stage1), &mut gone, None), Err(Error::Model(_))));
}

#[test]
fn kept_log_probs_are_refused_with_what_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("reference.safetensors");
    let of = |model: &Gpt2, count: usize, tokenizer: &str| {
        let pairs = pairs().into_iter().take(count).collect();
        reference_log_probs_of(model, pairs, 4, &cache, tokenizer).map_err(|error| error.to_string())
    };
    let first = of(&tiny(), 6, "tokenizer-a").unwrap();
    assert_eq!(of(&tiny(), 6, "tokenizer-a").unwrap(), first);
    let bytes = std::fs::read(&cache).unwrap();
    let error = of(&tiny(), 6, "tokenizer-b").unwrap_err();
    assert!(error.contains("tokenizer was tokenizer-a and is now tokenizer-b"), "{error}");
    assert!(!error.contains("the model") && !error.contains("the data"), "{error}");
    let error = of(&tiny(), 5, "tokenizer-a").unwrap_err();
    assert!(error.contains("the data was 6 items") && error.contains("is now 5 items"), "{error}");
    let mut other = tiny();
    let _ = other.parameters_mut().flat_mut().narrow(0, 0, 300).fill_(0.1);
    let error = of(&other, 6, "tokenizer-a").unwrap_err();
    assert!(error.contains("the model was") && error.contains("remove the file"), "{error}");
    assert_eq!(std::fs::read(&cache).unwrap(), bytes, "left as it is");
    // A cache that was kept without a word of the tokenizer.
    std::fs::remove_file(&cache).unwrap();
    reference_log_probs(&tiny(), pairs(), 4, Some(&cache)).unwrap();
    let error = of(&tiny(), pairs().len(), "tokenizer-a").unwrap_err();
    assert!(error.contains("does not say its tokenizer"), "{error}");
}

#[test]
fn a_live_reference_gives_what_cached_log_probs_give() {
    let reference = || {
        let mut model = tiny();
        let _ = model.parameters_mut().flat_mut().narrow(0, 0, 300).fill_(0.1);
        model
    };
    let cached = reference_log_probs(&reference(), pairs(), 5, None).unwrap();
    for loss in [
        PreferenceLoss::sigmoid(0.3),
        PreferenceLoss::new(LossType::Ipo, 0.3).with_ld_alpha(0.25),
        PreferenceLoss::mpo(0.2).with_ld_alpha(0.0),
    ] {
        let live = loss.clone().against(tiny(), LiveReference::frozen(reference()).unwrap()).unwrap();
        let live = evaluate(&live, &pairs(), 5).unwrap();
        for ((name, live), (_, cached)) in
            live.iter().zip(evaluate(&loss.clone().on(tiny()), &cached, 5).unwrap())
        {
            assert!((live - cached).abs() < 1e-5, "{loss} {name}: {live} and {cached}");
        }
    }
    let mut other = reference();
    other.set_precision(Precision::Bf16);
    let objective =
        PreferenceLoss::sigmoid(0.3).against(tiny(), LiveReference::frozen(other).unwrap()).unwrap();
    let error = evaluate(&objective, &pairs(), 5).unwrap_err().to_string();
    assert!(error.contains("set_precision"), "{error}");
}

#[test]
fn a_moving_reference_follows_the_policy() {
    let reference = |alpha, every| LiveReference::moving(tiny(), alpha, every);
    let objective = PreferenceLoss::sigmoid(0.5).against(tiny(), reference(0.25, 3).unwrap()).unwrap();
    let mut trainer = Trainer::new(objective, config(3, 6)).unwrap();
    trainer.fit(&pairs(), &[]).unwrap();
    let objective = trainer.into_objective();
    let expected = tiny().parameters().flat() * 0.75 + objective.model().parameters().flat() * 0.25;
    let off = (objective.state().unwrap().flat() - expected).abs().max().double_value(&[]);
    assert!(off < 1e-6, "{off}");

    for (alpha, every) in [(0.0, 3), (1.1, 3), (f64::NAN, 3), (0.5, 0)] {
        assert!(matches!(reference(alpha, every), Err(Error::Option { .. })), "{alpha} {every}");
    }
    let mut lora = tiny();
    let id = add_lora(&mut lora, 1);
    lora.adapters_mut().train(Some(id)).unwrap();
    let error = PreferenceLoss::sigmoid(0.5).against(lora, reference(0.5, 1).unwrap()).unwrap_err();
    assert!(error.to_string().contains("the policy trains an adapter"), "{error}");
}

/// Stops a run after some step.
struct StopAfter(u64, Arc<AtomicBool>);

impl Observer for StopAfter {
    fn step(&mut self, record: &StepRecord) {
        if record.step >= self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_run_with_a_moving_reference_continues_to_the_same_bytes() {
    let run = |folder: &Path, stop: u64, alpha: f64| {
        let flag = Arc::new(AtomicBool::new(false));
        let mut watcher = StopAfter(stop, flag.clone());
        let reference = LiveReference::moving(tiny(), alpha, 2).unwrap();
        let objective = PreferenceLoss::sigmoid(0.5).against(tiny(), reference).unwrap();
        let mut trainer = Trainer::new(objective, config(9, 4))
            .unwrap()
            .in_folder(folder)
            .interrupted_by(flag)
            .observed_by(&mut watcher);
        trainer.fit(&pairs(), &[]).map(|_| ())
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(whole.path(), u64::MAX, 0.5).unwrap();
    for stop in [3, 6, u64::MAX] {
        run(parts.path(), stop, 0.5).unwrap();
    }
    for file in ["weights.safetensors", "optimizer.safetensors", "objective.safetensors"] {
        let read =
            |folder: &Path| std::fs::read(folder.join("checkpoints/step-00000009").join(file)).unwrap();
        assert_eq!(read(whole.path()), read(parts.path()), "{file}");
    }
    let error = run(parts.path(), u64::MAX, 0.6).unwrap_err().to_string();
    assert!(error.contains("alpha=0.5") && error.contains("alpha=0.6"), "{error}");
}

/// Loss and gradient of a step that is computed in micro-batches of this size, as the loop does.
fn step<O: Objective<Model = Gpt2>>(objective: O, data: &[O::Item], micro: usize) -> (f64, Tensor) {
    let items: Vec<&O::Item> = data.iter().collect();
    let parameters = objective.model().parameters();
    parameters.set_trainable(true).unwrap();
    objective.begin(&items, micro).unwrap();
    let mut sum = (0.0, Tensor::from(0.0f32));
    for part in items.chunks(micro) {
        let share = objective.evaluate(part, true).unwrap().numerator / objective.count(&items);
        let gradients = Tensor::run_backward(&[&share], parameters.leaves(), false, false);
        let flat: Vec<Tensor> = gradients.iter().map(|gradient| gradient.flatten(0, -1)).collect();
        sum = (sum.0 + share.double_value(&[]), sum.1 + Tensor::cat(&flat, 0));
    }
    sum
}

fn replies() -> Vec<LabelledReply> {
    pairs().into_iter().flat_map(LabelledReply::of_pair).collect()
}

#[test]
fn a_step_in_parts_is_a_step_in_one() {
    let near = |(loss, gradient): (f64, Tensor), (other, parts): (f64, Tensor)| {
        assert!((loss - other).abs() < 1e-5, "{loss} and {other}");
        let off = (&gradient - parts).abs().max().double_value(&[]);
        assert!(off < 1e-5 * gradient.abs().max().double_value(&[]), "{off}");
    };
    let referenced = reference_log_probs(&tiny(), pairs(), 5, None).unwrap();
    // Replies of several lengths: the mean over tokens is not the mean of the parts' means.
    let mixture = || PreferenceLoss::sigmoid(0.5).with_sft(1.0).on(tiny());
    near(step(mixture(), &referenced, 99), step(mixture(), &referenced, 1));
    let cpo = || ReferenceFreeLoss::cpo(0.5).on(tiny());
    near(step(cpo(), &pairs(), 99), step(cpo(), &pairs(), 1));
    let replies = unpaired_reference_log_probs(&tiny(), replies(), 5, None).unwrap();
    let kto = || UnpairedLoss::kto(0.5).with_weights(1.0, 1.5).on(tiny());
    near(step(kto(), &replies, 99), step(kto(), &replies, 1));
}

#[test]
fn losses_that_couple_a_step_refuse_to_be_cut_up() {
    let referenced = reference_log_probs(&tiny(), pairs(), 5, None).unwrap();
    for loss in [LossType::Aot(0.0), LossType::AotUnpaired(0.1)] {
        let objective = || PreferenceLoss::mixture(0.5, &[(0.5, LossType::Sigmoid), (0.5, loss)]).on(tiny());
        let error = Trainer::new(objective(), config(2, 4)).unwrap_err().to_string();
        assert!(error.contains("micro_batch_size") && error.contains(loss.name()), "{error}");
        Trainer::new(objective(), config(2, 6)).unwrap().fit(&referenced, &referenced).unwrap();
    }
}

#[test]
fn pairs_teach_without_a_reference() {
    for loss in [
        ReferenceFreeLoss::simpo(2.0, 0.5),
        ReferenceFreeLoss::cpo(0.5),
        ReferenceFreeLoss::cpo_hinge(0.5),
        ReferenceFreeLoss::cpo_ipo(0.5),
        ReferenceFreeLoss::orpo(1.0),
    ] {
        let objective = loss.on(tiny()).with_statistics();
        let before = evaluate(&objective, &pairs(), 5).unwrap();
        let mut trainer = Trainer::new(objective, config(25, 4)).unwrap();
        let after = trainer.fit(&pairs(), &pairs()).unwrap().evaluation;
        assert!(value(&after, "eval_loss") < 0.9 * value(&before, "loss"), "{loss}: {before:?} to {after:?}");
        assert!(value(&after, "eval_rewards/margins") > value(&before, "rewards/margins"), "{loss}");
        assert!(value(&before, "entropy") > 0.0);
    }
}

#[test]
fn single_replies_teach_and_the_kl_is_of_the_whole_step() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("reference.safetensors");
    let compute = |replies| unpaired_reference_log_probs(&tiny(), replies, 5, Some(&cache));
    let data = compute(replies()).unwrap();
    assert_eq!(data, compute(replies()).unwrap());
    let mut flipped = replies();
    flipped[0].desirable = false;
    assert!(matches!(compute(flipped), Err(Error::Reference { .. })));
    let one_prompt = LabelledReply::of_pair(pairs().remove(0)).to_vec();
    assert!(matches!(unpaired_reference_log_probs(&tiny(), one_prompt, 5, None), Err(Error::Combination(_))));

    for loss in [UnpairedLoss::kto(0.5), UnpairedLoss::apo_zero(0.5)] {
        let before = evaluate(&loss.on(tiny()), &data, 5).unwrap();
        assert!((value(&before, "loss") - 0.5).abs() < 1e-6, "{before:?}");
        let mut trainer = Trainer::new(loss.on(tiny()), config(25, 4)).unwrap();
        let after = trainer.fit(&data, &data).unwrap().evaluation;
        assert!(value(&after, "eval_loss") < 0.4, "{loss}: {after:?}");
        let margin = value(&after, "eval_rewards/chosen") - value(&after, "eval_rewards/rejected");
        assert!((value(&after, "eval_rewards/margins") - margin).abs() < 1e-9 && margin > 0.5);
        // The same model in parts of another size measures the same, the estimate too.
        let objective = trainer.into_objective();
        let parts = evaluate(&objective, &data, 3).unwrap();
        for (name, value) in evaluate(&objective, &data, 24).unwrap() {
            let part = parts.iter().find(|(found, _)| *found == name).unwrap().1;
            assert!((value - part).abs() < 1e-4 * value.abs().max(1.0), "{name}: {value} and {part}");
        }
        assert_eq!(parts.iter().any(|(name, _)| name == "kl"), loss.needs_kl());
    }
}

#[test]
fn mismatched_replies_are_cut_to_the_room_after_a_prompt() {
    // Each fits the model's 24 positions, but the second reply does not after the first two prompts.
    let reply = |id: &str, prompt: usize, reply: usize| LabelledReply {
        id: id.to_owned(),
        prompt: vec![prompt as u32; prompt],
        reply: vec![5; reply],
        desirable: reply > 2,
    };
    let replies = || vec![reply("a", 20, 2), reply("b", 24, 1), reply("c", 3, 15)];
    let data = unpaired_reference_log_probs(&tiny(), replies(), 3, None).unwrap();
    let lengths: Vec<usize> = data.iter().map(|item| item.mismatched.len()).collect();
    assert_eq!(lengths, [5, 1, 1]);
    evaluate(&UnpairedLoss::kto(0.5).on(tiny()), &data, 2).unwrap();

    let mut long = replies();
    long[1].reply = vec![5; 2];
    let error = unpaired_reference_log_probs(&tiny(), long, 1, None).unwrap_err().to_string();
    assert!(error.contains("in rows b:") && error.contains("24 positions"), "{error}");
}

/// Loss and weights after some steps; whether the backward pass of libtorch alone would reach the first block.
fn trained<O: Objective<Model = Gpt2>>(
    objective: O,
    data: &[O::Item],
    gradient_checkpointing: bool,
) -> (f64, Tensor, bool) {
    let mut config = TrainConfig { gradient_checkpointing, ..config(4, 3) };
    // Gradients that are rounding noise beside the others stay so.
    config.optimizer.epsilon = 1e-3;
    let mut trainer = Trainer::new(objective, config).unwrap();
    let loss = value(&trainer.fit(data, data).unwrap().evaluation, "eval_loss");
    let objective = trainer.into_objective();
    let parameters = objective.model().parameters();
    parameters.set_trainable(true).unwrap();
    let items: Vec<&O::Item> = data.iter().collect();
    objective.begin(&items, items.len()).unwrap();
    let sum = objective.evaluate(&items, true).unwrap().numerator;
    let at = parameters.specs().iter().position(|spec| spec.name == "transformer.h.0.mlp.c_fc.weight");
    let gradient =
        Tensor::run_backward(&[&sum], &parameters.leaves()[at.unwrap()..=at.unwrap()], false, false);
    parameters.set_trainable(false).unwrap();
    (loss, parameters.flat().copy(), gradient[0].defined())
}

#[test]
fn gradient_checkpointing_is_used_and_changes_no_step() {
    fn check<O: Objective<Model = Gpt2>>(objective: impl Fn() -> O, data: &[O::Item]) {
        let (loss, weights, plain) = trained(objective(), data, false);
        let (other, same, reached) = trained(objective(), data, true);
        assert!(plain && !reached, "{}: blocks are kept", objective().describe());
        assert!((loss - other).abs() < 1e-5, "{loss} and {other}");
        let off = (weights - same).abs().max().double_value(&[]);
        assert!(off < 1e-5, "{off}");
    }
    let referenced = reference_log_probs(&tiny(), pairs(), 5, None).unwrap();
    check(|| PreferenceLoss::sigmoid(0.5).on(tiny()), &referenced);
    let live = || LiveReference::frozen(tiny()).unwrap();
    check(|| PreferenceLoss::sigmoid(0.5).against(tiny(), live()).unwrap(), &pairs());
    check(|| ReferenceFreeLoss::simpo(2.0, 0.5).on(tiny()), &pairs());
    let replies = unpaired_reference_log_probs(&tiny(), replies(), 5, None).unwrap();
    check(|| UnpairedLoss::kto(0.5).on(tiny()), &replies);
}
