//! A few lines of each crate, as research code outside the workspace would have them.

use persona_align::{PairLogProbs, PreferenceLoss};
use persona_metrics::Bleu;
use tch::Tensor;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Three of four words and two of three pairs of words: 3/4, and the square root of 3/4 times 2/3.
    let scores = Bleu::pycocoevalcap().corpus(&["i have a dog"], &["i have a cat"])?;
    println!("{scores}");
    near("BLEU-1", scores.values()[0], 0.75)?;
    near("BLEU-2", scores.values()[1], 0.5f64.sqrt())?;

    // The policy likes the chosen reply by 1 and the rejected one by -0.5 more than the reference does.
    let chosen = Tensor::from_slice(&[-12.0f32]).set_requires_grad(true);
    let policy = PairLogProbs::from_sums(chosen.shallow_clone(), Tensor::from_slice(&[-15.0f32]))?;
    let reference =
        PairLogProbs::from_sums(Tensor::from_slice(&[-13.0f32]), Tensor::from_slice(&[-14.5f32]))?;
    let output = PreferenceLoss::sigmoid(0.1).evaluate(&policy, &reference)?;
    output.loss.backward();
    println!(
        "DPO loss {:.4}, gradient {:.4}",
        output.loss.double_value(&[]),
        chosen.grad().double_value(&[0])
    );
    near("loss", output.loss.double_value(&[]), (1.0 + (-0.15f64).exp()).ln())?;
    near("gradient", chosen.grad().double_value(&[0]), -0.1 / (1.0 + 0.15f64.exp()))?;
    near("reward", output.chosen_rewards.double_value(&[0]), 0.1)?;
    Ok(())
}

fn near(what: &str, found: f64, expected: f64) -> Result<(), String> {
    if (found - expected).abs() < 1e-6 {
        Ok(())
    } else {
        Err(format!("{what} is {found}, expected {expected}"))
    }
}
