//! Kind `dpo`: loss, gradient norm and metrics of TRL, by the shared-prefix batch and by padded tensors alike.

use persona_align::{
    Divergence, LossType, PairLogProbs, PreferenceLoss, PreferenceMetrics, ReferencedPair, TokenLogProbs,
    TokenStatistics, reference_log_probs,
};
use persona_data::EncodedPair;
use persona_model::{Batch, CausalLm, Model, load_causal_lm};
use persona_train::{Objective, gradient_norm};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::parity::{self, Case};

#[test]
fn parity_dpo() {
    parity::for_each("dpo", |case| {
        let load = |name: &str| load_causal_lm(&case.folder.join(name), Device::Cpu, Kind::Float).unwrap().0;
        let reference = load("reference");
        let pairs = reference_log_probs(&reference, pairs(case), 4, None).unwrap();
        let mut policy = load("policy");
        policy.parameters().set_trainable(true).unwrap();
        let (of_policy, of_reference) = (scores(case, &policy), scores(case, &reference));
        for (variant, options) in case.json["variants"].as_object().unwrap() {
            let loss = loss_of(options);
            check_tensors(case, variant, &loss, &of_policy, &of_reference);
            policy = check(case, variant, loss, policy, &pairs);
        }
        true
    });
}

/// The loss of TRL's options. One that is not known here is no test passed over.
pub(crate) fn loss_of(options: &Value) -> PreferenceLoss {
    let known = [
        "loss_type",
        "loss_weights",
        "beta",
        "label_smoothing",
        "ld_alpha",
        "use_weighting",
        "f_divergence_type",
        "f_alpha_divergence_coef",
    ];
    for key in options.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "unknown option {key}");
    }
    let smoothing = options["label_smoothing"].as_f64().unwrap_or(0.0);
    let terms: Vec<(f64, LossType)> = options["loss_type"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let name = name.as_str().unwrap();
            let loss = LossType::from_name(name, smoothing).unwrap_or_else(|| panic!("no loss `{name}`"));
            assert_eq!(loss.name(), name);
            (options["loss_weights"][at].as_f64().unwrap_or(1.0), loss)
        })
        .collect();
    let mut loss = PreferenceLoss::mixture(options["beta"].as_f64().unwrap_or(0.1), &terms);
    if let Some(alpha) = options["ld_alpha"].as_f64() {
        loss = loss.with_ld_alpha(alpha);
    }
    if options["use_weighting"].as_bool().unwrap_or(false) {
        loss = loss.with_wpo_weighting();
    }
    loss.with_divergence(match options["f_divergence_type"].as_str().unwrap_or("reverse_kl") {
        "reverse_kl" => Divergence::ReverseKl,
        "forward_kl" => Divergence::ForwardKl,
        "js_divergence" => Divergence::JensenShannon,
        "alpha_divergence" => Divergence::Alpha(options["f_alpha_divergence_coef"].as_f64().unwrap()),
        other => panic!("no divergence `{other}`"),
    })
}

/// Through the objective, as the loop trains.
fn check(
    case: &Case,
    variant: &str,
    loss: PreferenceLoss,
    policy: Box<dyn CausalLm>,
    pairs: &[ReferencedPair],
) -> Box<dyn CausalLm> {
    let expected = &case.json["expected"][variant];
    let beta = loss.beta();
    let objective = loss.on(policy).with_statistics();
    let items: Vec<&ReferencedPair> = pairs.iter().collect();
    objective.begin(&items, items.len()).unwrap();
    let contribution = objective.evaluate(&items, true).unwrap();
    let mean = contribution.numerator / objective.count(&items);
    close(mean.double_value(&[]), &expected["loss"], variant);
    let means: Vec<_> = contribution.means.iter().map(|(name, mean)| (name.as_str(), mean.value())).collect();
    metrics_agree(&means, &expected["metrics"], beta, variant);
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
    objective.into_model()
}

/// Through `[B, T]` log-probabilities and masks, as research code uses the losses.
fn check_tensors(
    case: &Case,
    variant: &str,
    loss: &PreferenceLoss,
    policy: &PairLogProbs,
    reference: &PairLogProbs,
) {
    let output = loss.evaluate(policy, reference).unwrap();
    let expected = &case.json["expected"][variant];
    close(output.loss.double_value(&[]), &expected["loss"], variant);
    metrics_agree(&named(&output.metrics().unwrap()), &expected["metrics"], loss.beta(), variant);
}

/// Scores with padding, and rubbish where it is.
fn scores(case: &Case, model: &dyn CausalLm) -> PairLogProbs {
    let _no_grad = tch::no_grad_guard();
    let rows = case.rows("input_ids", "attention_mask");
    let ids = case.tensor("input_ids");
    let (count, width) = ids.size2().unwrap();
    let mask = case.tensor("completion_mask") * case.tensor("attention_mask");
    let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let batch = Batch::rows_of(&views, model.limits(), Device::Cpu).unwrap();
    let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
    let vocabulary = logits.size()[1];
    let padded = Tensor::full([count, width, vocabulary], f64::NAN, (Kind::Float, Device::Cpu));
    let mut start = 0;
    for (at, row) in rows.iter().enumerate() {
        let len = row.len() as i64;
        padded.get(at as i64).narrow(0, 0, len).copy_(&logits.narrow(0, start, len));
        start += len;
    }
    pair_log_probs(&padded, ids, &mask, true)
}

/// Chosen rows first, then rejected.
pub(crate) fn pair_log_probs(logits: &Tensor, ids: &Tensor, mask: &Tensor, statistics: bool) -> PairLogProbs {
    let (count, width) = ids.size2().unwrap();
    let half = |from: i64| {
        let part = |tensor: &Tensor| tensor.narrow(0, from, count / 2);
        let tokens = TokenLogProbs::from_causal_lm(&part(logits), &part(ids), &part(mask)).unwrap();
        if !statistics {
            return tokens;
        }
        let of = TokenStatistics::from_logits(
            &part(logits).narrow(1, 0, width - 1),
            &part(ids).narrow(1, 1, width - 1),
        );
        tokens.with_statistics(of.unwrap()).unwrap()
    };
    PairLogProbs::from_tokens(&half(0), &half(count / 2)).unwrap()
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

pub(crate) fn named(metrics: &PreferenceMetrics) -> Vec<(&'static str, f64)> {
    metrics.named().collect()
}

/// Every metric of either side is on the other side too. Rewards are differences of log-probabilities that cancel: beside
/// the tolerance of all values they may be off by two roundings of these float32 numbers.
pub(crate) fn metrics_agree(found: &[(&str, f64)], expected: &Value, beta: f64, what: &str) {
    let expected = expected.as_object().unwrap();
    let of = |name: &str| expected.get(name).map_or(0.0, |value| value.as_f64().unwrap().abs());
    let rounding = beta * of("logps/chosen").max(of("logps/rejected")) * f64::from(f32::EPSILON);
    for (name, value) in found {
        let expected = expected.get(*name).unwrap_or_else(|| panic!("{what}: {name} is not TRL's"));
        let slack = if name.starts_with("rewards/") { 2.0 * rounding } else { 0.0 };
        close_within(*value, expected, slack, &format!("{what} {name}"));
    }
    for name in expected.keys() {
        assert!(found.iter().any(|(found, _)| found == name), "{what}: {name} is missing");
    }
}

pub(crate) fn close(found: f64, expected: &Value, what: &str) {
    close_within(found, expected, 0.0, what);
}

fn close_within(found: f64, expected: &Value, slack: f64, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("no expected value for {what}"));
    let off = (found - expected).abs();
    assert!(off <= 1e-4 * expected.abs().max(1e-3) + slack, "{what}: {found}, expected {expected}");
}
