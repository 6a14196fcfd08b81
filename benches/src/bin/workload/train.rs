//! Training steps: forward, backward, AdamW with torch's defaults.

use anyhow::Result;
use clap::Args;
use persona_align::{LiveReference, PreferenceLoss, reference_log_probs};
use persona_data::{EncodedExample, EncodedPair, Task};
use persona_model::{CausalLm, Model, Precision};
use persona_train::{AdamW, AdamWConfig, NextToken, Objective, gradient_norm};
use serde_json::json;
use tch::Kind;

use crate::{Workload, report};

#[derive(Debug, Args)]
pub(crate) struct DpoOptions {
    #[command(flatten)]
    workload: Workload,
    /// Compute the reference's log-probabilities before the first step.
    #[arg(long)]
    precompute: bool,
    /// Compute blocks again in the backward pass.
    #[arg(long)]
    checkpointing: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SftOptions {
    #[command(flatten)]
    workload: Workload,
    /// Compute blocks again in the backward pass.
    #[arg(long)]
    checkpointing: bool,
}

pub(crate) fn dpo(options: &DpoOptions) -> Result<()> {
    let workload = &options.workload;
    let pairs: Vec<EncodedPair> = workload
        .rows()?
        .into_iter()
        .enumerate()
        .map(|(at, row)| EncodedPair {
            id: at.to_string(),
            prompt: row.prompt,
            chosen: row.chosen,
            rejected: row.rejected,
        })
        .collect();
    let loss = PreferenceLoss::sigmoid(0.1);
    let policy = start(workload, options.checkpointing)?;
    let training = |seconds: Vec<f64>, losses: Vec<f64>| {
        print(workload, &seconds, json!({"losses": losses, "precompute": options.precompute}));
    };
    if options.precompute {
        let items = reference_log_probs(&policy, pairs, workload.batch, None)?;
        let (seconds, losses) = run(workload, loss.on(policy), &items, (1e-6, None))?;
        training(seconds, losses);
    } else {
        let reference = LiveReference::frozen(start(workload, options.checkpointing)?)?;
        let (seconds, losses) = run(workload, loss.against(policy, reference)?, &pairs, (1e-6, None))?;
        training(seconds, losses);
    }
    Ok(())
}

pub(crate) fn sft(options: &SftOptions) -> Result<()> {
    let workload = &options.workload;
    let examples: Vec<EncodedExample> = workload
        .rows()?
        .into_iter()
        .enumerate()
        .map(|(at, row)| EncodedExample {
            id: at.to_string(),
            task: Task::Generation,
            source: row.prompt,
            target: row.chosen,
        })
        .collect();
    let objective = NextToken::new(start(workload, options.checkpointing)?);
    let (seconds, losses) = run(workload, objective, &examples, (2e-5, Some(10.0)))?;
    print(workload, &seconds, json!({"losses": losses}));
    Ok(())
}

/// The model in float32, which multiplies in the precision that is asked for.
fn start(workload: &Workload, checkpointing: bool) -> Result<Box<dyn CausalLm>> {
    let mut model = workload.model(Kind::Float)?;
    model.set_precision(match workload.kind()? {
        Kind::BFloat16 => Precision::Bf16,
        _ => Precision::Fp32,
    });
    model.set_gradient_checkpointing(checkpointing)?;
    Ok(model)
}

/// Seconds of every step after the first, and the losses of all.
fn run<O: Objective>(
    workload: &Workload,
    mut objective: O,
    items: &[O::Item],
    (learning_rate, max_grad_norm): (f64, Option<f64>),
) -> Result<(Vec<f64>, Vec<f64>)> {
    objective.model().trainable().set_trainable(true)?;
    let mut optimizer = AdamW::new(AdamWConfig::default(), objective.model().trainable())?;
    let mut losses = Vec::new();
    let seconds = report::timed(workload.device()?, workload.steps, |step| {
        let items: Vec<&O::Item> = items.iter().skip(step * workload.batch).take(workload.batch).collect();
        let loss = objective.evaluate(&items, true)?.numerator.f_div_scalar(objective.count(&items))?;
        losses.push(loss.f_double_value(&[])?);
        let gradients = objective.model().gradients(&loss)?;
        drop(loss);
        let scale = match max_grad_norm {
            Some(limit) => (limit / (gradient_norm(&gradients)? + 1e-6)).min(1.0),
            None => 1.0,
        };
        Ok(optimizer.step(objective.model_mut().trainable_mut(), &gradients, scale, learning_rate)?)
    })?;
    Ok((seconds, losses))
}

fn print(workload: &Workload, seconds: &[f64], more: serde_json::Value) {
    println!("{}", report::line(workload, seconds, |_| more.clone()));
}
