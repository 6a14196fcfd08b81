//! What TRL answers where no parity case asks: `tests/golden/generate.py` has made the values.

use std::sync::LazyLock;

use persona_align::{PairLogProbs, ReferenceFreeLoss, TokenLogProbs, UnpairedLogProbs, UnpairedLoss};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::dpo::{close, loss_of, metrics_agree, named, pair_log_probs};

static GOLDEN: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../golden/trl.json")).unwrap());

/// A nested list of numbers.
fn tensor(value: &Value, kind: Kind) -> Tensor {
    let mut shape = Vec::new();
    let mut inner = value;
    while let Some(list) = inner.as_array() {
        shape.push(list.len() as i64);
        inner = &list[0];
    }
    fn flatten(value: &Value, into: &mut Vec<f64>) {
        match value.as_array() {
            Some(list) => list.iter().for_each(|value| flatten(value, into)),
            None => into.push(value.as_f64().unwrap()),
        }
    }
    let mut values = Vec::new();
    flatten(value, &mut values);
    Tensor::from_slice(&values).view(shape.as_slice()).to_kind(kind)
}

fn logits(value: &Value) -> Tensor {
    tensor(value, Kind::Float).set_requires_grad(true)
}

fn gradient_agrees(loss: &Tensor, logits: &Tensor, expected: &Value, what: &str) {
    let gradient = &Tensor::run_backward(&[loss], &[logits], false, false)[0];
    close(gradient.norm().double_value(&[]), &expected["grad_norm"], &format!("{what} gradient"));
}

#[test]
fn losses_against_a_reference() {
    let golden = &GOLDEN["dpo"];
    let (ids, mask) = (tensor(&golden["ids"], Kind::Int64), tensor(&golden["completion_mask"], Kind::Float));
    let reference = pair_log_probs(&tensor(&golden["reference"], Kind::Float), &ids, &mask, false);
    for (name, expected) in golden["answers"].as_object().unwrap() {
        let policy = logits(&golden["policy"]);
        let scores = pair_log_probs(&policy, &ids, &mask, true);
        let loss = loss_of(&expected["options"]);
        let output = loss.evaluate(&scores, &reference).unwrap();
        close(output.loss.double_value(&[]), &expected["loss"], name);
        if name != "conservative" {
            metrics_agree(&named(&output.metrics().unwrap()), &expected["metrics"], loss.beta(), name);
        }
        gradient_agrees(&output.loss, &policy, expected, name);
    }
}

#[test]
fn losses_without_a_reference() {
    let golden = &GOLDEN["reference_free"];
    let (ids, mask) = (tensor(&golden["ids"], Kind::Int64), tensor(&golden["completion_mask"], Kind::Float));
    let attention = tensor(&golden["attention_mask"], Kind::Float);
    for (name, expected) in golden["answers"].as_object().unwrap() {
        let options = &expected["options"];
        let number = |key: &str| options[key].as_f64().unwrap();
        let beta = number("beta");
        let loss = match options["loss_type"].as_str() {
            Some("simpo") => ReferenceFreeLoss::simpo(beta, number("simpo_gamma")),
            Some("sigmoid") => ReferenceFreeLoss::cpo(beta),
            Some("hinge") => ReferenceFreeLoss::cpo_hinge(beta),
            Some("ipo") => ReferenceFreeLoss::cpo_ipo(beta),
            None => ReferenceFreeLoss::orpo(beta),
            other => panic!("{other:?}"),
        };
        let policy = logits(&golden["policy"]);
        let scores = pair_log_probs(&policy, &ids, &mask, false);
        let output = if options["loss_type"].is_null() {
            // TRL's ORPO has the likelihood of prompt and chosen response.
            let half = |tensor: &Tensor| tensor.narrow(0, 0, tensor.size()[0] / 2);
            let nll = TokenLogProbs::from_causal_lm(&half(&policy), &half(&ids), &half(&attention));
            loss.evaluate_with_nll(&scores, &nll.unwrap())
        } else {
            let smoothing = number("label_smoothing");
            loss.with_sft(number("cpo_alpha")).with_label_smoothing(smoothing).evaluate(&scores)
        };
        let output = output.unwrap();
        close(output.loss.double_value(&[]), &expected["loss"], name);
        metrics_agree(&named(&output.metrics().unwrap()), &expected["metrics"], beta, name);
        gradient_agrees(&output.loss, &policy, expected, name);
    }
}

#[test]
fn losses_of_single_responses() {
    for golden in GOLDEN["kto"].as_array().unwrap() {
        let (ids, mask) =
            (tensor(&golden["ids"], Kind::Int64), tensor(&golden["completion_mask"], Kind::Float));
        let sums = |name: &str| tensor(&golden[name], Kind::Float);
        let desirable: Vec<bool> =
            golden["label"].as_array().unwrap().iter().map(|label| label.as_bool().unwrap()).collect();
        for (name, expected) in golden["answers"].as_object().unwrap() {
            let options = &expected["options"];
            let number = |key: &str| options[key].as_f64().unwrap();
            let loss = match options["loss_type"].as_str().unwrap() {
                "kto" => UnpairedLoss::kto(number("beta")),
                "apo_zero_unpaired" => UnpairedLoss::apo_zero(number("beta")),
                other => panic!("{other}"),
            };
            let loss = loss.with_weights(number("desirable_weight"), number("undesirable_weight"));
            let policy = logits(&golden["policy"]);
            let tokens = TokenLogProbs::from_causal_lm(&policy, &ids, &mask).unwrap();
            let with = |of: Tensor, mismatched: &str| {
                UnpairedLogProbs::from_sums(of).unwrap().with_mismatched(sums(mismatched)).unwrap()
            };
            let output = loss
                .evaluate(
                    &with(tokens.sums().unwrap(), "mismatched"),
                    &with(sums("reference"), "mismatched_reference"),
                    &desirable,
                )
                .unwrap();
            close(output.loss.double_value(&[]), &expected["loss"], name);
            let metrics = output.metrics().unwrap();
            for (name, value) in metrics.named() {
                close(value, &expected["metrics"][name], name);
            }
            assert_eq!(metrics.get("kl").is_some(), loss.needs_kl());
            gradient_agrees(&output.loss, &policy, expected, name);
        }
    }
}

#[test]
fn sums_and_lengths_are_enough_for_most() {
    let golden = &GOLDEN["dpo"];
    let (ids, mask) = (tensor(&golden["ids"], Kind::Int64), tensor(&golden["completion_mask"], Kind::Float));
    let tokens =
        |name: &str| pair_log_probs(&tensor(&golden[name], Kind::Float), &ids, &mask, name == "policy");
    let (policy, reference) = (tokens("policy"), tokens("reference"));
    let lengths = mask.sum_dim_intlist([1].as_slice(), false, Kind::Float).chunk(2, 0);
    let sums = |of: &PairLogProbs| PairLogProbs::from_sums(of.chosen().copy(), of.rejected().copy()).unwrap();
    let bare = sums(&policy).with_lengths(&lengths[0], &lengths[1]).unwrap();
    for (name, expected) in golden["answers"].as_object().unwrap() {
        let loss = loss_of(&expected["options"]);
        let found = loss.evaluate(&bare, &sums(&reference));
        if loss.ld_alpha().is_some() || loss.has_wpo_weighting() {
            let message = found.unwrap_err().to_string();
            assert!(message.contains("from_tokens") || message.contains("with_statistics"), "{message}");
        } else {
            close(found.unwrap().loss.double_value(&[]), &expected["loss"], name);
        }
    }
}
