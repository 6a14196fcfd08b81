//! Greedy decoding of encoder-decoders.

use persona_model::{Batch, BatchBuilder, EncoderDecoder, Memory};

use crate::error::{Error, Result};

/// Sources that are decoded together.
const TOGETHER: usize = 64;

/// Writes the likeliest token after the likeliest token for every source, at most `max_new_tokens` each. A target ends at
/// any of `ends`, which is not part of it; the model's start token is not either. Of equal logits the lowest id counts.
///
/// # Errors
/// [`Error::Prompt`] for a source that is empty, longer than the model or not of its vocabulary; [`Error::NonFinite`]; the
/// model's.
pub fn greedy(
    model: &dyn EncoderDecoder,
    sources: &[Vec<u32>],
    ends: &[u32],
    max_new_tokens: usize,
) -> Result<Vec<Vec<u32>>> {
    let _no_grad = tch::no_grad_guard();
    let limits = model.limits();
    for (index, source) in sources.iter().enumerate() {
        let reason = if source.is_empty() {
            "has no tokens; an encoder needs at least one".to_owned()
        } else if source.len() > limits.positions {
            format!("has {} tokens, the model has {} positions; shorten it", source.len(), limits.positions)
        } else if let Some(id) = source.iter().find(|id| **id as usize >= limits.vocabulary) {
            format!("has token id {id}, outside the model's vocabulary of {}", limits.vocabulary)
        } else {
            continue;
        };
        return Err(Error::Prompt { index, reason });
    }
    let room = max_new_tokens.min(limits.positions);
    let mut targets = vec![Vec::new(); sources.len()];
    if room == 0 {
        return Ok(targets);
    }
    for (part, targets) in targets.chunks_mut(TOGETHER).enumerate() {
        let first = part * TOGETHER;
        let decoded = together(model, &sources[first..first + targets.len()], targets, (ends, room));
        decoded.map_err(|error| match error {
            Error::NonFinite { index, tokens, value } => {
                Error::NonFinite { index: first + index, tokens, value }
            }
            other => other,
        })?;
    }
    Ok(targets)
}

/// A row in flight.
struct Row {
    source: usize,
    last: u32,
    ended: bool,
}

fn together(
    model: &dyn EncoderDecoder,
    sources: &[Vec<u32>],
    targets: &mut [Vec<u32>],
    (ends, room): (&[u32], usize),
) -> Result<()> {
    let (limits, device) = (model.limits(), model.device());
    let views: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
    let source = Batch::rows_of(&views, limits, device)?;
    let mut rows: Vec<Row> =
        (0..sources.len()).map(|source| Row { source, last: model.start_token(), ended: false }).collect();
    let each: Vec<usize> = (0..rows.len()).collect();
    let mut cache = model.cache(&model.encode(&source, false)?, &each, room)?;
    for _ in 0..room {
        let mut builder = BatchBuilder::default();
        for (at, row) in rows.iter().enumerate() {
            builder.cached(at, cache.lengths()[at], &[row.last]);
        }
        let batch = builder.build(limits, device)?;
        let hidden = model.decode(&batch, Memory::Cache(&mut cache), false)?;
        let (best, ids) = model.logits(&hidden)?.f_max_dim(-1, false)?;
        let (best, ids) = (Vec::<f32>::try_from(&best)?, Vec::<i64>::try_from(&ids)?);
        for (row, (value, id)) in rows.iter_mut().zip(best.into_iter().zip(ids)) {
            let target = &mut targets[row.source];
            if row.ended {
                continue;
            }
            if !value.is_finite() {
                return Err(Error::NonFinite { index: row.source, tokens: target.len(), value });
            }
            row.last = id as u32;
            row.ended = ends.contains(&row.last);
            if !row.ended {
                target.push(row.last);
            }
        }
        // Copying the cache costs as much as a few rows do in a step: rows leave when a quarter has ended.
        let staying: Vec<usize> = (0..rows.len()).filter(|&at| !rows[at].ended).collect();
        if staying.is_empty() {
            break;
        }
        if (rows.len() - staying.len()) * 4 >= rows.len() {
            cache.keep(&staying)?;
            rows.retain(|row| !row.ended);
        }
    }
    Ok(())
}
