//! Kind `dpo`: loss, gradient norm and metrics of TRL, by the shared-prefix batch and by padded tensors alike.

use persona_align::{PairLogProbs, PreferenceLoss, ReferencedPair, TokenLogProbs, reference_log_probs};
use persona_data::EncodedPair;
use persona_model::{Batch, CausalLm, Model, load_causal_lm};
use persona_train::{Objective, gradient_norm};
use tch::{Device, Kind, Tensor};

use crate::parity::{self, Case};

#[test]
fn parity_dpo() {
    parity::for_each("dpo", |case| {
        let load = |name: &str| load_causal_lm(&case.folder.join(name), Device::Cpu, Kind::Float).unwrap().0;
        let reference = load("reference");
        let pairs = reference_log_probs(&reference, pairs(case), 4, None).unwrap();
        for (variant, options) in case.json["variants"].as_object().unwrap() {
            let plain = options.as_object().unwrap().keys().all(|key| key == "loss_type" || key == "beta");
            if !plain || options["loss_type"] != serde_json::json!(["sigmoid"]) {
                println!("passed over: {variant} of {} (only sigmoid yet)", case.folder.display());
                continue;
            }
            let loss = PreferenceLoss::sigmoid(options["beta"].as_f64().unwrap_or(0.1));
            check(case, variant, loss, load("policy"), &pairs);
            check_tensors(case, variant, loss, &load("policy"), &reference);
        }
        true
    });
}

/// Through the objective, as the loop trains.
fn check(
    case: &Case,
    variant: &str,
    loss: PreferenceLoss,
    policy: Box<dyn CausalLm>,
    pairs: &[ReferencedPair],
) {
    let expected = &case.json["expected"][variant];
    policy.parameters().set_trainable(true).unwrap();
    let objective = loss.on(policy);
    let items: Vec<&ReferencedPair> = pairs.iter().collect();
    let contribution = objective.evaluate(&items, true).unwrap();
    let mean = contribution.numerator / objective.count(&items);
    close(mean.double_value(&[]), &expected["loss"], variant);
    for (name, value) in contribution.means {
        close(value.value(), &expected["metrics"][name.as_str()], &format!("{variant} {name}"));
    }
    let parameters = objective.model().parameters();
    let gradients: Vec<Option<Tensor>> =
        Tensor::run_backward(&[mean], parameters.leaves(), false, false).into_iter().map(Some).collect();
    close(gradient_norm(&gradients).unwrap(), &expected["grad_norm"], &format!("{variant} gradient norm"));
    if variant == "sigmoid" {
        let name = case.json["gradient_of"].as_str().unwrap();
        let at = parameters.specs().iter().position(|spec| spec.name == name).unwrap();
        let expected = case.tensor("sigmoid_gradient");
        let off = (gradients[at].as_ref().unwrap() - expected).abs().max().double_value(&[]);
        let size = expected.abs().max().double_value(&[]);
        assert!(off <= 1e-4 * size, "gradient of {name}: {off} of {size}");
    }
}

/// Through `[B, T]` log-probabilities and masks, as research code uses the losses.
fn check_tensors(
    case: &Case,
    variant: &str,
    loss: PreferenceLoss,
    policy: &dyn CausalLm,
    reference: &dyn CausalLm,
) {
    let _no_grad = tch::no_grad_guard();
    let rows = case.rows("input_ids", "attention_mask");
    let ids = case.tensor("input_ids");
    let (count, width) = ids.size2().unwrap();
    let mask = (case.tensor("completion_mask") * case.tensor("attention_mask")).narrow(1, 1, width - 1);
    let scores = |model: &dyn CausalLm| {
        let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let batch = Batch::rows_of(&views, model.limits(), Device::Cpu).unwrap();
        let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
        // Rows of one line back into a padded tensor, with rubbish where there is padding.
        let vocabulary = logits.size()[1];
        let padded = Tensor::full([count, width, vocabulary], f64::NAN, (Kind::Float, Device::Cpu));
        let mut start = 0;
        for (at, row) in rows.iter().enumerate() {
            let len = row.len() as i64;
            padded.get(at as i64).narrow(0, 0, len).copy_(&logits.narrow(0, start, len));
            start += len;
        }
        let half = |from: i64| {
            let logits = padded.narrow(0, from, count / 2).narrow(1, 0, width - 1);
            let ids = ids.narrow(0, from, count / 2).narrow(1, 1, width - 1);
            TokenLogProbs::from_logits(&logits, &ids, mask.narrow(0, from, count / 2)).unwrap()
        };
        PairLogProbs::from_tokens(&half(0), &half(count / 2)).unwrap()
    };
    let output = loss.evaluate(&scores(policy), &scores(reference)).unwrap();
    close(output.loss.double_value(&[]), &case.json["expected"][variant]["loss"], variant);
}

/// Chosen rows first, then rejected; the prompt is what the completion mask leaves.
fn pairs(case: &Case) -> Vec<EncodedPair> {
    let rows = case.rows("input_ids", "attention_mask");
    let completions = case.rows("input_ids", "completion_mask");
    let half = rows.len() / 2;
    (0..half)
        .map(|at| {
            let prompt = |at: usize| rows[at][..rows[at].len() - completions[at].len()].to_vec();
            assert_eq!(prompt(at), prompt(at + half));
            EncodedPair {
                id: at.to_string(),
                prompt: prompt(at),
                chosen: completions[at].clone(),
                rejected: completions[at + half].clone(),
            }
        })
        .collect()
}

fn close(found: f64, expected: &serde_json::Value, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("no expected value for {what}"));
    let off = (found - expected).abs();
    assert!(off <= 1e-4 * expected.abs().max(1e-3), "{what}: {found}, expected {expected}");
}
