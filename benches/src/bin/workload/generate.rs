//! Decoding.

use anyhow::Result;
use clap::Args;
use persona_infer::{DecodeConfig, Engine, EngineConfig, Request};
use persona_model::{AdapterId, LoraConfig, Model};
use serde_json::json;

use crate::{Workload, report};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    workload: Workload,
    /// New tokens of every reply.
    #[arg(long, default_value_t = 40)]
    new_tokens: usize,
    /// Replies to every prompt: one is greedy, more are drawn.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// So many LoRAs of rank 8 on every linear layer, which the rows take in turn.
    #[arg(long, default_value_t = 0)]
    adapters: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workload = &options.workload;
    let rows = workload.rows()?;
    let device = workload.device()?;
    let mut model = workload.model(workload.kind()?)?;
    let adapters: Vec<AdapterId> = (0..options.adapters)
        .map(|seed| model.adapters_mut().add(LoraConfig::default(), seed as u64, device))
        .collect::<Result<_, _>>()?;
    let greedy = DecodeConfig { max_new_tokens: options.new_tokens, ..DecodeConfig::default() };
    let config = match options.samples {
        0 | 1 => greedy,
        samples => {
            DecodeConfig { temperature: 1.0, top_k: Some(50), num_return_sequences: samples, ..greedy }
        }
    };
    let sequences = workload.batch * options.samples.max(1);
    let engine = Engine::new(&model, EngineConfig { sequences, ..EngineConfig::default() })?;
    let seconds = report::timed(device, workload.steps, |step| {
        let requests: Vec<Request> = rows[step * workload.batch..(step + 1) * workload.batch]
            .iter()
            .enumerate()
            .map(|(at, row)| {
                let config = DecodeConfig { seed: (step * workload.batch + at) as u64, ..config };
                let request = Request::new(row.prompt.clone(), config);
                match adapters.get(at % adapters.len().max(1)) {
                    Some(&id) => request.with_adapter(Some(id)),
                    None => request,
                }
            })
            .collect();
        let replies = engine.complete(&requests)?;
        let tokens: usize = replies.iter().flatten().map(|reply| reply.tokens.len()).sum();
        anyhow::ensure!(
            tokens == sequences * options.new_tokens,
            "{tokens} new tokens: a prompt is too long"
        );
        Ok(())
    })?;
    let line = report::line(workload, &seconds, |median| {
        json!({
            "tokens_per_second": (sequences * options.new_tokens) as f64 / median,
            "samples": options.samples,
            "new_tokens": options.new_tokens,
            "adapters": options.adapters,
            "memory_gb_per_second": report::memory_bandwidth(device).map(|bytes| bytes / 1e9).unwrap_or(f64::NAN),
        })
    });
    println!("{line}");
    Ok(())
}
