//! The losses of persona-align and the metrics of persona-metrics beside rust-bert's models: a GPT-2 of rust-bert is
//! aligned by DPO and SimPO, its replies are scored, and a BERT of rust-bert stands behind the metrics that need a model.
//!
//! The weights are random and a token is a byte, so that nothing is fetched: the program shows how the parts fit.

mod encoder;
mod policy;

use anyhow::{Result, ensure};
use persona_align::{LossType, PreferenceLoss, PreferenceOutput, ReferenceFreeLoss};
use persona_metrics::{Bleu, Consistency, Distinct, EmbeddingSimilarity, Rouge};
use tch::nn::OptimizerConfig;
use tch::{Kind, nn};

use crate::encoder::Encoder;
use crate::policy::{Example, Policy};

const EXAMPLES: [Example; 4] = [
    Example { persona: "i have a dog .", prompt: "any pets ? ", chosen: "yes , a dog .", rejected: "no ." },
    Example { persona: "i am a cook .", prompt: "your job ? ", chosen: "i cook .", rejected: "i teach ." },
    Example { persona: "i love tea .", prompt: "coffee ? ", chosen: "tea please .", rejected: "sure ." },
    Example {
        persona: "i live by the sea .",
        prompt: "where ? ",
        chosen: "by the sea .",
        rejected: "far away .",
    },
];
const BETA: f64 = 0.1;

fn main() -> Result<()> {
    tch::manual_seed(1);
    let (policy, mut reference) = (Policy::new(), Policy::new());

    // A loss takes tensors of any model and gives a tensor: rust-bert's logits in, libtorch's backward pass out.
    let start = tch::no_grad(|| policy.log_probs(&EXAMPLES))?;
    let likelihood = PreferenceLoss::new(LossType::Sft, BETA);
    let mut optimizer = nn::AdamW::default().build(policy.weights(), 3e-3)?;
    println!("likelihood of the chosen replies, {} pairs", EXAMPLES.len());
    for step in 0..=200 {
        let output = likelihood.evaluate(&policy.log_probs(&EXAMPLES)?, &start)?;
        if step % 50 == 0 {
            println!("step {step:>3}: loss {:.4}", output.loss.double_value(&[]));
        }
        optimizer.backward_step(&output.loss);
    }

    reference.copy_from(&policy)?;
    let known = tch::no_grad(|| reference.log_probs(&EXAMPLES))?;
    let mut optimizer = nn::AdamW::default().build(policy.weights(), 1e-5)?;
    println!("DPO, beta {BETA}");
    for step in 0..=40 {
        let log_probs = policy.log_probs(&EXAMPLES)?;
        let output = PreferenceLoss::sigmoid(BETA).evaluate(&log_probs, &known)?;
        let loss = output.loss.double_value(&[]);
        if step % 10 == 0 {
            report(step, &output)?;
        }
        if step == 0 {
            let off = (loss - std::f64::consts::LN_2).abs();
            ensure!(off < 1e-6, "a policy that is its reference has loss ln 2, not {loss}");
        }
        let margin = (log_probs.chosen() - log_probs.rejected()) - (known.chosen() - known.rejected());
        let by_hand = -(margin * BETA).log_sigmoid().mean(Kind::Float).double_value(&[]);
        ensure!((loss - by_hand).abs() < 1e-6, "step {step}: DPO is {loss}, by hand {by_hand}");
        optimizer.backward_step(&output.loss);
    }

    let output = ReferenceFreeLoss::simpo(2.0, 1.0).evaluate(&policy.log_probs(&EXAMPLES)?)?;
    println!("SimPO of the aligned policy: loss {:.4}", output.loss.double_value(&[]));

    let replies = EXAMPLES.iter().map(|example| policy.reply(example.prompt)).collect::<Result<Vec<_>>>()?;
    let gold = EXAMPLES.map(|example| example.chosen);
    println!("\n{} replies, the first: {:?}", replies.len(), replies[0]);
    println!("{}", Bleu::sacrebleu().corpus(&replies, &gold)?);
    println!("{}", Rouge::google().corpus(&replies, &gold)?);
    println!("{}", Distinct::li().corpus(&replies)?);
    println!("gold: {}", Distinct::li().corpus(&gold)?);

    let encoder = Encoder::new()?;
    let personas: Vec<Vec<&str>> = EXAMPLES.iter().map(|example| vec![example.persona]).collect();
    println!("{}", EmbeddingSimilarity::default().corpus(&encoder, &replies, &gold)?);
    println!("{}", Consistency::sum().corpus(&encoder, &gold, &personas)?);
    Ok(())
}

fn report(step: usize, output: &PreferenceOutput) -> Result<()> {
    let metrics = output.metrics()?;
    let value = |name| metrics.get(name).unwrap_or(f64::NAN);
    println!(
        "step {step:>3}: loss {:.4}, accuracy {:.2}, margin {:.4}",
        output.loss.double_value(&[]),
        value("rewards/accuracies"),
        value("rewards/margins")
    );
    Ok(())
}
