//! What a model costs: seconds and peak memory of loading, of a forward pass, and of forward with backward; and what
//! several adapters in one batch cost. `benches/peers/cost.py` does the same with transformers, under the same names.
//!
//! ```text
//! cargo run --release -p persona-benches --bin cost -- load|forward|backward|adapters|step --model DIR
//!     [--dtype fp32|bf16] [--rows 8] [--tokens 128] [--repeat 5] [--adapters 16] [--checkpointing] [--mapped]
//! ```
//!
//! `adapters` is a forward pass of rows of which each has one of so many LoRAs of rank 8 on every linear layer, `step` a
//! step of decoding of such rows. Ids are computed from the place of the token, so that both sides see the same loss.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use persona_model::{
    AdapterId, Batch, BatchBuilder, CausalLm, KvCache, LoadOptions, LoraConfig, Model, load_causal_lm_with,
    token_log_probs,
};
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut parsed = HashMap::new();
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let name = name.strip_prefix("--").ok_or(format!("`{name}`: options begin with --"))?;
            let value = if ["checkpointing", "mapped"].contains(&name) {
                "yes"
            } else {
                rest.next().ok_or(format!("--{name} needs a value"))?
            };
            parsed.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self(parsed))
    }

    fn number(&self, name: &str, default: usize) -> Result<usize> {
        let value =
            self.0.get(name).map(|value| value.parse().map_err(|error| format!("--{name} {value}: {error}")));
        Ok(value.transpose()?.unwrap_or(default).max(1))
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (what, rest) =
        arguments.split_first().ok_or("say what to measure: load, forward, backward, adapters, step")?;
    let arguments = Arguments::parse(rest)?;
    let folder = Path::new(arguments.0.get("model").ok_or("--model DIR is missing")?);
    let kind = match arguments.0.get("dtype").map(String::as_str) {
        None | Some("fp32") => Kind::Float,
        Some("bf16") => Kind::BFloat16,
        Some(other) => return Err(format!("--dtype {other}: fp32 or bf16").into()),
    };
    let (rows, tokens) = (arguments.number("rows", 8)?, arguments.number("tokens", 128)?);
    let repeat = arguments.number("repeat", 5)?;

    let began = Instant::now();
    let options = LoadOptions { mapped: arguments.0.contains_key("mapped"), ..kind.into() };
    let (mut model, _) = load_causal_lm_with(folder, Device::Cpu, options)?;
    let loaded = began.elapsed().as_secs_f64();
    model.set_gradient_checkpointing(arguments.0.contains_key("checkpointing"))?;
    let ids = ids(rows, tokens, model.limits().vocabulary);
    let views: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = || Batch::rows_of(&views, model.limits(), Device::Cpu);
    let (seconds, value) = match what.as_str() {
        "load" => (vec![loaded], model.parameters().count() as f64),
        "forward" => {
            let _no_grad = tch::no_grad_guard();
            measured(repeat, || loss(&model, &batch()?, false)?.f_double_value(&[]).map_err(Into::into))?
        }
        "backward" => {
            model.parameters().set_trainable(true)?;
            measured(repeat, || {
                let loss = loss(&model, &batch()?, true)?;
                let gradients = model.gradients(&loss)?;
                assert!(gradients.iter().any(Option::is_some));
                Ok(loss.f_double_value(&[])?)
            })?
        }
        "adapters" | "step" => {
            let held: Vec<AdapterId> = (0..arguments.number("adapters", 16)?)
                .map(|seed| model.adapters_mut().add(LoraConfig::default(), seed as u64, Device::Cpu))
                .collect::<std::result::Result<_, _>>()?;
            let chosen: Vec<Option<AdapterId>> =
                (0..rows).map(|row| held.get(row % held.len()).copied()).collect();
            let _no_grad = tch::no_grad_guard();
            if what == "adapters" {
                measured(repeat, || {
                    let batch =
                        Batch::rows_of(&views, model.limits(), Device::Cpu)?.with_adapters(chosen.clone())?;
                    Ok(loss(&model, &batch, false)?.f_double_value(&[])?)
                })?
            } else {
                let mut cache = model.cache(rows, tokens + repeat + 1)?;
                let mut past = 0;
                step(&model, &mut cache, &mut past, &ids, &chosen)?;
                measured(repeat, || step(&model, &mut cache, &mut past, &vec![vec![5]; rows], &chosen))?
            }
        }
        other => return Err(format!("`{other}`: load, forward, backward, adapters or step").into()),
    };
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or_default();
    let best = seconds.first().copied().unwrap_or_default();
    println!(
        "{{\"what\": \"{what}\", \"seconds\": {median:.4}, \"seconds_best\": {best:.4}, \"value\": {value:.6}, \
         \"peak_mib\": {}}}",
        peak_mib().unwrap_or_default()
    );
    Ok(())
}

/// Sorted seconds after a first run, and what the last run gave.
fn measured(repeat: usize, mut run: impl FnMut() -> Result<f64>) -> Result<(Vec<f64>, f64)> {
    let mut value = run()?;
    let mut seconds = Vec::with_capacity(repeat);
    for _ in 0..repeat {
        let began = Instant::now();
        value = run()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok((seconds, value))
}

/// Token `t` of row `r` is `(7919 r + 104729 t) mod vocabulary`.
fn ids(rows: usize, tokens: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let id = |row: usize, token: usize| ((7919 * row + 104_729 * token) % vocabulary) as u32;
    (0..rows).map(|row| (0..tokens).map(|token| id(row, token)).collect()).collect()
}

/// The mean next-token loss over all positions.
fn loss(model: &dyn CausalLm, batch: &Batch, train: bool) -> Result<Tensor> {
    let (mut predicted_at, mut targets) = (Vec::new(), Vec::new());
    for row in batch.rows() {
        predicted_at.extend(row.start as i64..(row.start + row.len - 1) as i64);
        targets.extend((row.start + 1) as i64..(row.start + row.len) as i64);
    }
    let hidden = model.hidden(batch, None, train)?;
    let logits = model.logits(&hidden.f_index_select(0, &Tensor::f_from_slice(&predicted_at)?)?)?;
    let ids = batch.ids().f_index_select(0, &Tensor::f_from_slice(&targets)?)?;
    Ok(token_log_probs(&logits, &ids)?.f_mean(Kind::Float)?.f_neg()?)
}

fn step(
    model: &dyn CausalLm,
    cache: &mut KvCache,
    past: &mut usize,
    ids: &[Vec<u32>],
    chosen: &[Option<AdapterId>],
) -> Result<f64> {
    let mut builder = BatchBuilder::default();
    for (row, ids) in ids.iter().enumerate() {
        builder.cached(row, *past, ids);
    }
    let batch = builder.build(model.limits(), Device::Cpu)?.with_adapters(chosen.to_vec())?;
    *past += ids.first().map_or(0, Vec::len);
    let hidden = model.hidden(&batch, Some(cache), false)?;
    let last: Vec<i64> = batch.rows().iter().map(|row| (row.start + row.len - 1) as i64).collect();
    let logits = model.logits(&hidden.f_index_select(0, &Tensor::f_from_slice(&last)?)?)?;
    Ok(logits.f_sum(Kind::Float)?.f_double_value(&[])?)
}

/// The largest resident memory so far, by the operating system's account.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? / 1024)
}
