//! Forward passes: of prompts, in chunks and full batches, and of a step.

use persona_model::{BatchBuilder, KvCache};
use tch::Tensor;

use crate::decode::engine::Engine;
use crate::decode::request::Request;
use crate::error::Result;

/// A prompt and the cache row that it is computed in.
pub(super) struct Prompt<'p> {
    pub(super) row: usize,
    pub(super) request: usize,
    pub(super) ids: &'p [u32],
}

/// Computes prompts in batches of at most `prefill_tokens` tokens, longer ones in chunks of so many. Calls `finished` with
/// the prompts, by index, that a batch completes, and the logits `[B, V]` after them.
pub(super) fn compute(
    engine: &Engine<'_>,
    requests: &[Request],
    prompts: &[Prompt<'_>],
    cache: &mut KvCache,
    mut finished: impl FnMut(Vec<usize>, Tensor) -> Result<()>,
) -> Result<()> {
    let most = engine.config.prefill_tokens;
    let mut next = 0;
    let mut past = 0;
    while next < prompts.len() {
        let mut builder = BatchBuilder::default();
        let (mut in_batch, mut ended, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(prompt) = prompts.get(next) {
            let rest = &prompt.ids[past..];
            let room = most - builder.tokens();
            if rest.len() > room && builder.tokens() > 0 {
                break;
            }
            let chunk = &rest[..rest.len().min(room)];
            builder.cached(prompt.row, past, chunk);
            in_batch.push(prompt.request);
            if chunk.len() < rest.len() {
                past += chunk.len();
                break;
            }
            ends.push(builder.tokens() as i64 - 1);
            ended.push(next);
            (next, past) = (next + 1, 0);
        }
        let hidden = forward(engine, requests, builder, &in_batch, cache, Some(&ends))?;
        if !ended.is_empty() {
            finished(ended, engine.model.logits(&hidden)?)?;
        }
    }
    Ok(())
}

/// The hidden states of a batch of rows of these requests; of the tokens `only`, where that is given.
pub(super) fn forward(
    engine: &Engine<'_>,
    requests: &[Request],
    builder: BatchBuilder,
    rows: &[usize],
    cache: &mut KvCache,
    only: Option<&[i64]>,
) -> Result<Tensor> {
    let model = engine.model;
    let mut batch = builder.build(model.limits(), model.device())?;
    if rows.iter().any(|&request| requests[request].adapter.is_some()) {
        batch = batch.with_adapters(rows.iter().map(|&at| engine.adapter(&requests[at])).collect())?;
    }
    let only = only.map(|only| Tensor::f_from_slice(only)?.f_to_device(model.device())).transpose()?;
    Ok(model.hidden_at(&batch, only.as_ref(), Some(cache), false)?)
}
