//! What every loss must do: a worked example, far margins, ranges of options, and what does not go together.

use persona_align::{
    Divergence, Error, LossType, PairLogProbs, PreferenceLoss, ReferenceFreeLoss, TokenLogProbs,
    UnpairedLogProbs, UnpairedLoss, losses,
};
use tch::Tensor;

const ALL: [LossType; 16] = [
    LossType::Sigmoid,
    LossType::Conservative(0.1),
    LossType::Hinge,
    LossType::Ipo,
    LossType::ExoPair(1e-3),
    LossType::NcaPair,
    LossType::Robust(0.1),
    LossType::BcoPair(0.0),
    LossType::SppoHard,
    LossType::Aot(0.1),
    LossType::AotUnpaired(0.1),
    LossType::ApoZero,
    LossType::ApoDown,
    LossType::DiscoPop(0.05),
    LossType::Sft,
    LossType::SigmoidNorm,
];

fn sums(chosen: &[f32], rejected: &[f32]) -> PairLogProbs {
    let lengths = |of: &[f32], len: f32| Tensor::from_slice(&vec![len; of.len()]);
    PairLogProbs::from_sums(Tensor::from_slice(chosen), Tensor::from_slice(rejected))
        .unwrap()
        .with_lengths(&lengths(chosen, 10.0), &lengths(rejected, 12.0))
        .unwrap()
}

#[test]
fn a_worked_example() {
    // A_c = 1, A_r = -0.5, margin 1.5, 10 and 12 tokens; each value by hand from the formula.
    let (policy, reference) = (sums(&[-12.0], &[-15.0]), sums(&[-13.0], &[-14.5]));
    let expected = [
        0.620_957, 0.635_957, 0.85, 23.603_403, 2.505_517, 1.350_825, 0.602_207, 1.312_856, 36.25, 0.635_957,
        0.635_957, 0.962_523, 0.987_549, 0.849_338, 1.2, 0.686_089,
    ];
    for (loss, expected) in ALL.into_iter().zip(expected) {
        let output = PreferenceLoss::new(loss, 0.1).evaluate(&policy, &reference).unwrap();
        approx::assert_relative_eq!(output.loss.double_value(&[]), expected, epsilon = 2e-6);
        let metrics = output.metrics().unwrap();
        approx::assert_relative_eq!(metrics.get("rewards/chosen").unwrap(), 0.1, epsilon = 1e-6);
        approx::assert_relative_eq!(metrics.get("rewards/rejected").unwrap(), -0.05, epsilon = 1e-6);
        approx::assert_relative_eq!(metrics.get("rewards/margins").unwrap(), 0.15, epsilon = 1e-6);
        assert_eq!(metrics.get("rewards/accuracies"), Some(1.0));
        assert_eq!(metrics.get("logps/chosen"), Some(-12.0));
    }
    // BCO with the mean of both rewards, 0.025, as its shift: twice -ls(0.075).
    let bco = PreferenceLoss::new(LossType::BcoPair(0.025), 0.1);
    let found = bco.evaluate(&policy, &reference).unwrap().loss.double_value(&[]);
    approx::assert_relative_eq!(found, 1.312_700, epsilon = 2e-6);
    for (divergence, expected) in [
        (Divergence::ForwardKl, 0.631_154),
        (Divergence::JensenShannon, 0.660_652),
        (Divergence::Alpha(0.5), 0.627_691),
        (Divergence::Alpha(1.0), 0.620_957),
    ] {
        let loss = PreferenceLoss::sigmoid(0.1).with_divergence(divergence);
        let found = loss.evaluate(&policy, &reference).unwrap().loss.double_value(&[]);
        approx::assert_relative_eq!(found, expected, epsilon = 2e-6);
    }
}

#[test]
fn a_policy_that_is_its_reference_has_loss_ln_2_and_no_margin() {
    let scores = || sums(&[-3.0], &[-40.0]);
    let output = PreferenceLoss::sigmoid(0.5).evaluate(&scores(), &scores()).unwrap();
    assert_eq!(output.loss.double_value(&[]) as f32, std::f32::consts::LN_2);
    let accuracies = output.metrics().unwrap().get("rewards/accuracies");
    assert_eq!(accuracies, Some(0.0), "a tie is not an accuracy");
}

#[test]
fn far_margins_stay_finite_with_finite_gradients() {
    for loss in ALL {
        for far in [-1e4, 1e4] {
            let chosen = Tensor::from_slice(&[far as f32]).set_requires_grad(true);
            let one = Tensor::from_slice(&[10.0f32]);
            let policy = PairLogProbs::from_sums(chosen.shallow_clone(), Tensor::from_slice(&[0.0f32]));
            let policy = policy.unwrap().with_lengths(&one, &one).unwrap();
            let output = PreferenceLoss::new(loss, 1.0).evaluate(&policy, &sums(&[0.0], &[0.0])).unwrap();
            assert!(output.loss.double_value(&[]).is_finite(), "{loss} {far}");
            output.loss.backward();
            assert!(chosen.grad().double_value(&[0]).is_finite(), "{loss} {far}");
        }
    }
    // ORPO where the model is certain, and where it has no hope.
    for means in [0.0f32, -1e4] {
        let means = Tensor::from_slice(&[means]).set_requires_grad(true);
        let loss =
            losses::orpo(&losses::log_odds(&means, &Tensor::from_slice(&[-1.0f32])).unwrap(), 1.0).unwrap();
        loss.backward();
        assert!(loss.double_value(&[0]).is_finite() && means.grad().double_value(&[0]).is_finite());
    }
}

#[test]
fn the_gradient_is_minus_beta_times_the_doubt() {
    let chosen = Tensor::from_slice(&[-12.0f32]).set_requires_grad(true);
    let policy = PairLogProbs::from_sums(chosen.shallow_clone(), Tensor::from_slice(&[-15.0f32])).unwrap();
    PreferenceLoss::sigmoid(0.1).evaluate(&policy, &sums(&[-13.0], &[-14.5])).unwrap().loss.backward();
    let expected = -0.1 / (1.0 + (0.15f64).exp());
    approx::assert_relative_eq!(chosen.grad().double_value(&[0]), expected, epsilon = 1e-6);
}

#[test]
fn a_loss_without_length_does_not_ask_for_lengths_and_one_with_says_so() {
    let bare = |value: f32| {
        let of = || Tensor::from_slice(&[value]);
        PairLogProbs::from_sums(of(), of()).unwrap()
    };
    for loss in ALL {
        let found = PreferenceLoss::new(loss, 0.1).evaluate(&bare(-1.0), &bare(-2.0));
        match loss {
            LossType::Ipo | LossType::SigmoidNorm | LossType::Sft => {
                let message = found.unwrap_err().to_string();
                assert!(message.contains(loss.name()) && message.contains("with_lengths"), "{message}");
            }
            _ => drop(found.unwrap()),
        }
    }
    assert!(matches!(ReferenceFreeLoss::simpo(2.0, 1.0).evaluate(&bare(-1.0)), Err(Error::Missing { .. })));
    assert!(ReferenceFreeLoss::cpo(0.1).evaluate(&bare(-1.0)).is_err());
    ReferenceFreeLoss::cpo(0.1).with_sft(0.0).evaluate(&bare(-1.0)).unwrap();
}

#[test]
fn options_out_of_range_are_named() {
    let scores = || sums(&[-1.0, -2.0], &[-3.0, -4.0]);
    let refused = |loss: PreferenceLoss, name: &str| {
        let error = loss.evaluate(&scores(), &scores()).unwrap_err();
        assert!(matches!(error, Error::Option { name: found, .. } if found == name), "{loss}: {error}");
        assert!(loss.check().is_err());
    };
    for loss in ALL {
        for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            refused(PreferenceLoss::new(loss, beta), "beta");
        }
    }
    for smoothing in [-0.1, 0.5, 1.0, f64::NAN] {
        for loss in [
            LossType::Conservative(smoothing),
            LossType::ExoPair(smoothing),
            LossType::Robust(smoothing),
            LossType::Aot(smoothing),
            LossType::AotUnpaired(smoothing),
        ] {
            refused(PreferenceLoss::new(loss, 0.1), "label_smoothing");
        }
    }
    refused(PreferenceLoss::new(LossType::ExoPair(0.0), 0.1), "label_smoothing");
    refused(PreferenceLoss::new(LossType::DiscoPop(0.0), 0.1), "tau");
    refused(PreferenceLoss::new(LossType::BcoPair(f64::NAN), 0.1), "shift");
    refused(PreferenceLoss::sigmoid(0.1).with_ld_alpha(1.5), "ld_alpha");
    refused(PreferenceLoss::sigmoid(0.1).with_sft(f64::NAN), "weight");
    refused(PreferenceLoss::sigmoid(0.1).with_divergence(Divergence::Alpha(f64::NAN)), "alpha");
    for loss in [
        ReferenceFreeLoss::simpo(0.0, 1.0),
        ReferenceFreeLoss::simpo(1.0, -1.0),
        ReferenceFreeLoss::orpo(f64::NAN),
        ReferenceFreeLoss::cpo(0.1).with_label_smoothing(0.5),
        ReferenceFreeLoss::cpo(0.1).with_sft(-1.0),
    ] {
        assert!(matches!(loss.evaluate(&scores()), Err(Error::Option { .. })), "{loss}");
    }
    for loss in [UnpairedLoss::kto(0.0), UnpairedLoss::kto(0.1).with_weights(-1.0, 1.0)] {
        assert!(matches!(loss.check(), Err(Error::Option { .. })), "{loss}");
    }
    let one = Tensor::from_slice(&[0.0f32]);
    assert!(losses::kto(&one, &one, -1.0, 0.1).is_err() && losses::sft(&one, 0.0).is_err());
}

#[test]
fn combinations_that_make_no_sense_are_named() {
    let refused = |loss: PreferenceLoss, says: &str| match loss.check() {
        Err(Error::Combination(reason)) => assert!(reason.contains(says), "{reason}"),
        other => panic!("{loss}: {other:?}"),
    };
    refused(PreferenceLoss::mixture(0.1, &[]), "no losses");
    for loss in ["nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down"] {
        let loss = PreferenceLoss::new(LossType::from_name(loss, 0.0).unwrap(), 0.1);
        refused(loss.with_divergence(Divergence::JensenShannon), "reverse KL");
    }
    refused(PreferenceLoss::mpo(0.1).with_divergence(Divergence::ForwardKl), "bco_pair");
    for loss in ["aot", "aot_unpaired", "sft"] {
        let loss = PreferenceLoss::new(LossType::from_name(loss, 0.0).unwrap(), 0.1);
        refused(loss.with_wpo_weighting(), "WPO");
    }
    refused(PreferenceLoss::sigmoid(0.1).with_sft(1.0).with_wpo_weighting(), "sft");
    for loss in
        [ReferenceFreeLoss::orpo(0.1), ReferenceFreeLoss::cpo_ipo(0.1), ReferenceFreeLoss::cpo_hinge(0.1)]
    {
        let error = loss.with_label_smoothing(0.1).check().unwrap_err();
        assert!(matches!(error, Error::Combination(_)), "{error}");
    }
    assert!(LossType::from_name("dpo", 0.0).is_none());
}

#[test]
fn shapes_and_values_that_are_none_are_named() {
    let loss = PreferenceLoss::sigmoid(0.1);
    let error = loss.evaluate(&sums(&[0.0; 2], &[0.0; 2]), &sums(&[0.0], &[0.0])).unwrap_err().to_string();
    assert!(error.contains("reference") && error.contains("[2]"), "{error}");
    assert!(loss.evaluate(&sums(&[], &[]), &sums(&[], &[])).is_err());
    let fine = || sums(&[0.0; 2], &[0.0; 2]);
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        for (policy, reference, says) in [
            (sums(&[0.0, bad], &[0.0; 2]), fine(), "the policy's chosen"),
            (sums(&[0.0; 2], &[0.0, bad]), fine(), "the policy's rejected"),
            (fine(), sums(&[0.0, bad], &[0.0; 2]), "the reference's chosen"),
            (fine(), sums(&[0.0; 2], &[0.0, bad]), "the reference's rejected"),
        ] {
            let error = loss.evaluate(&policy, &reference).unwrap_err();
            assert!(matches!(error, Error::NonFinite { row: 1, .. }), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        let error = ReferenceFreeLoss::orpo(0.1).evaluate(&sums(&[0.0, bad], &[0.0; 2])).unwrap_err();
        assert!(matches!(error, Error::NonFinite { row: 1, .. }), "{error}");
    }
    let tokens = TokenLogProbs::ragged(&Tensor::from_slice(&[-1.0f32; 3]), &[3]).unwrap();
    assert!(ReferenceFreeLoss::orpo(0.1).evaluate_with_nll(&fine(), &tokens).is_err());
}

#[test]
fn single_responses_need_labels_and_for_kto_mismatched_ones() {
    let of = |values: &[f32]| UnpairedLogProbs::from_sums(Tensor::from_slice(values)).unwrap();
    let kto = UnpairedLoss::kto(0.1);
    let error = kto.evaluate(&of(&[-1.0]), &of(&[-1.0]), &[true]).unwrap_err().to_string();
    assert!(error.contains("with_mismatched"), "{error}");
    let full = |values: &[f32]| of(values).with_mismatched(Tensor::from_slice(&[-2.0f32, -3.0])).unwrap();
    assert!(kto.evaluate(&full(&[-1.0]), &full(&[-1.0]), &[true, false]).is_err());
    assert!(kto.evaluate(&full(&[-1.0]), &full(&[-1.0, -1.0]), &[true]).is_err());
    assert!(kto.evaluate(&full(&[f32::NAN]), &full(&[-1.0]), &[true]).is_err());
    let nan = of(&[-1.0]).with_mismatched(Tensor::from_slice(&[-2.0f32, f32::NAN])).unwrap();
    assert!(matches!(kto.evaluate(&nan, &full(&[-1.0]), &[true]), Err(Error::NonFinite { row: 1, .. })));
    assert!(UnpairedLogProbs::from_sums(Tensor::from_slice::<f32>(&[])).is_err());
    let metrics = kto.evaluate(&full(&[-1.0]), &full(&[-1.5]), &[true]).unwrap().metrics().unwrap();
    assert_eq!(metrics.get("rewards/rejected"), None, "there is no such response");
    assert_eq!(metrics.get("rewards/margins"), None);
}
