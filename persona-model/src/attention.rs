//! Attention over the rows of a batch, through libtorch's fused kernel.

use tch::{Device, Kind, Tensor};

use crate::batch::{Batch, Context, Row, causal_mask, continued};
use crate::cache::{LayerCache, Shared};
use crate::cpu;
use crate::error::{Error, Result};
use crate::position_bias::PositionBias;

/// What one layer's attention is computed with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings<'a> {
    /// Factor on the products of queries and keys.
    pub(crate) scale: f64,
    /// Share of attention weights that are dropped.
    pub(crate) dropout: f64,
    /// Whether tokens see only themselves and what is before them in their row, or the whole row.
    pub(crate) causal: bool,
    /// What the CPU's own kernel for whole rows multiplies in; the others compute in the tensors' kind.
    pub(crate) kind: Kind,
    /// The tokens whose results are read, where not all are: what stands at the others' places may be anything.
    pub(crate) wanted: Option<&'a Tensor>,
}

/// Attends from every token of the batch. With a cache, keys and values are stored in it first.
///
/// # Shapes
/// `queries` `[N, H, W]`, `keys` and `values` `[N, K, W]`, where H is a multiple of K: neighbouring queries share a key
/// head, and nothing is copied for it. Returns `[N, H W]`.
pub(crate) fn attend(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    batch: &Batch,
    cache: Option<&mut LayerCache>,
    settings: Settings<'_>,
) -> Result<Tensor> {
    attend_biased((queries, keys, values), batch, cache, settings, None)
}

/// As [`attend`], for queries, keys and values in one tensor `[N, 3, H, W]`.
pub(crate) fn attend_together(
    all: &Tensor,
    batch: &Batch,
    cache: Option<&mut LayerCache>,
    settings: Settings<'_>,
) -> Result<Tensor> {
    let (tokens, _, heads, head_size) = all.size4()?;
    if cache.is_none()
        && let Some(attended) = whole_rows(&cpu::Heads::Together(&widen(all)?), batch, settings)?
    {
        return Ok(attended.f_view([tokens, heads * head_size])?);
    }
    let parts = all.f_unbind(1)?;
    let [queries, keys, values] = &parts[..] else {
        return Err(Error::Batch(format!("{} parts of a projection, not three", parts.len())));
    };
    attend(queries, keys, values, batch, cache, settings)
}

/// Attention by our own kernel, where it can: on the CPU, and without dropout.
fn whole_rows(heads: &cpu::Heads<'_>, batch: &Batch, settings: Settings<'_>) -> Result<Option<Tensor>> {
    let asked_otherwise = settings.dropout > 0.0 || batch.is_padded();
    if asked_otherwise {
        return Ok(None);
    }
    cpu::attend_rows(heads, batch.rows(), settings)
}

/// As [`whole_rows`], for rows that a cache begins with, and keeps.
fn new_rows(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    batch: &Batch,
    cache: &LayerCache,
    settings: Settings<'_>,
) -> Result<Option<Tensor>> {
    let begins = |row: &Row| matches!(row.context, Context::Cached(_)) && row.begins();
    if batch.is_step() || cache.has_shared() || !batch.rows().iter().all(begins) {
        return Ok(None);
    }
    let attended = whole_rows(&cpu::Heads::Apart([queries, keys, values]), batch, settings)?;
    if attended.is_some() {
        for row in batch.rows() {
            let Context::Cached(cached) = row.context else { continue };
            for (all, new) in [(&cache.keys, keys), (&cache.values, values)] {
                let _ = store(all, (cached, row), &new.f_narrow(0, row.start as i64, row.len as i64)?, None)?;
            }
        }
    }
    Ok(attended)
}

/// As [`attend`], with a bias on the products of queries and keys that also says who attends to whom.
pub(crate) fn attend_biased(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    batch: &Batch,
    cache: Option<&mut LayerCache>,
    settings: Settings<'_>,
    bias: Option<&PositionBias>,
) -> Result<Tensor> {
    let (tokens, heads, head_size) = queries.size3()?;
    let (queries, keys, values) = (&widen(queries)?, &widen(keys)?, &widen(values)?);
    let mut cache = cache;
    let attended = match (bias, cache.as_deref_mut()) {
        (None, None) => whole_rows(&cpu::Heads::Apart([queries, keys, values]), batch, settings)?,
        (None, Some(cache)) => new_rows((queries, keys, values), batch, cache, settings)?,
        (Some(_), _) => None,
    };
    if let Some(attended) = attended {
        return Ok(attended.f_view([tokens, heads * head_size])?);
    }
    let attended = match cache {
        Some(cache) if batch.is_step() && bias.is_none() => {
            let rows = step_rows(batch, cache);
            match cpu::attend_step((queries, keys, values), &rows, cache, settings.scale)? {
                Some(attended) => attended,
                None if cache.has_shared() => {
                    one_token_each_after_shared((queries, keys, values), batch, cache, settings)?
                }
                None => one_token_each((queries, keys, values), batch, cache, settings, None)?,
            }
        }
        Some(cache) if batch.is_step() && !cache.has_shared() => {
            one_token_each((queries, keys, values), batch, cache, settings, bias)?
        }
        None if bias.is_none() && batch.is_padded() => {
            batch.padded(settings.causal)?.attend((queries, keys, values), settings)?
        }
        cache => row_by_row((queries, keys, values), batch, cache, settings, bias)?,
    };
    Ok(attended.f_reshape([tokens, heads * head_size])?)
}

/// What attention computes with.
///
/// libtorch's bfloat16 kernel for the CPU keeps compiled code for every length it meets, for good: gigabytes after some
/// hundred batches. In float32 memory stays flat, and attention is a small part of all products.
pub(crate) fn widen(x: &Tensor) -> Result<Tensor> {
    Ok(if x.device() == Device::Cpu { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() })
}

/// For each row of a step its cache row, and how many tokens that holds itself.
fn step_rows(batch: &Batch, cache: &LayerCache) -> Vec<(usize, usize)> {
    let cached = |row: &Row| match row.context {
        Context::Cached(cached) => Some((cached, row.past - cache.shared_tokens(cached))),
        _ => None,
    };
    batch.rows().iter().filter_map(cached).collect()
}

/// A row at a time: nothing is padded, and a row's numbers cannot depend on its neighbours.
fn row_by_row(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    batch: &Batch,
    mut cache: Option<&mut LayerCache>,
    settings: Settings<'_>,
    bias: Option<&PositionBias>,
) -> Result<Tensor> {
    // One split, whose backward joins the rows' gradients once; a narrow per row would fill a whole tensor each time.
    let lens: Vec<i64> = batch.rows().iter().map(|row| row.len as i64).collect();
    let queries = queries.f_split_with_sizes(lens.as_slice(), 0)?;
    let keys = keys.f_split_with_sizes(lens.as_slice(), 0)?;
    let values = values.f_split_with_sizes(lens.as_slice(), 0)?;
    let mut outputs = Vec::with_capacity(lens.len());
    for (at, row) in batch.rows().iter().enumerate() {
        let (key, value, mask) = match (row.context, cache.as_deref_mut()) {
            (Context::None, _) => (heads_first(&keys[at])?, heads_first(&values[at])?, None),
            (Context::Row(_), _) => {
                let rows: Vec<usize> = continued(batch.rows(), row).into_iter().chain([at]).collect();
                let whole = |parts: &[Tensor]| -> Result<Tensor> {
                    let parts: Vec<&Tensor> = rows.iter().map(|&row| &parts[row]).collect();
                    heads_first(&Tensor::f_cat(&parts, 0)?)
                };
                (whole(&keys)?, whole(&values)?, batch.masks[at].as_ref().map(Tensor::shallow_clone))
            }
            (Context::Cached(cached), Some(cache)) => {
                let shared = cache.shared(cached);
                let key =
                    store(&cache.keys, (cached, row), &keys[at], shared.map(|held| (&held.keys, held)))?;
                let value = store(
                    &cache.values,
                    (cached, row),
                    &values[at],
                    shared.map(|held| (&held.values, held)),
                )?;
                // A row that starts its cache is plain causal attention, for which the kernel needs no mask.
                let mask =
                    (row.past > 0).then(|| causal_mask(row.len, row.past, batch.device())).transpose()?;
                (key, value, mask)
            }
            (Context::Cached(_), None) => {
                return Err(Error::Batch(format!("row {at} continues a cache, but no cache was given")));
            }
        };
        let mask = bias.map(|bias| bias.of_row(row)).transpose()?.or(mask);
        let causal = settings.causal && mask.is_none();
        let query = grouped_queries(&queries[at], key.size4()?.1)?;
        let output = Tensor::f_scaled_dot_product_attention(
            &query,
            &shared(&key, &query)?,
            &shared(&value, &query)?,
            mask.as_ref(),
            settings.dropout,
            causal,
            settings.scale,
            false,
        )?;
        outputs.push(output.f_flatten(0, 1)?.f_transpose(0, 1)?);
    }
    Ok(Tensor::f_cat(&outputs, 0)?)
}

/// All rows at once, one new token each: the step of decoding.
fn one_token_each(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    batch: &Batch,
    cache: &mut LayerCache,
    settings: Settings<'_>,
    bias: Option<&PositionBias>,
) -> Result<Tensor> {
    let device = batch.device();
    let rows: Vec<i64> = batch
        .rows()
        .iter()
        .filter_map(|row| if let Context::Cached(cached) = row.context { Some(cached as i64) } else { None })
        .collect();
    let longest = batch.longest() as i64;
    let whole = rows.len() as i64 == cache.keys.size4()?.0
        && rows.iter().enumerate().all(|(at, &row)| at as i64 == row);
    let rows = Tensor::f_from_slice(&rows)?.f_to_device(device)?;
    let held = |all: &mut Tensor, new: &Tensor| -> Result<Tensor> {
        let _ = all.f_index_put_(&[Some(&rows), None, Some(&batch.positions)], new, false)?;
        let held = all.f_narrow(2, 0, longest)?;
        if whole { Ok(held) } else { Ok(held.f_index_select(0, &rows)?) }
    };
    let keys = held(&mut cache.keys, keys)?;
    let values = held(&mut cache.values, values)?;
    let ragged = batch.rows().iter().any(|row| row.past + 1 != batch.longest());
    let mask = if let Some(bias) = bias {
        Some(bias.of_steps())
    } else if ragged {
        let index = Tensor::f_arange(longest, (Kind::Int64, device))?;
        Some(index.f_view([1, 1, 1, longest])?.f_le_tensor(&batch.positions.f_view([-1, 1, 1, 1])?)?)
    } else {
        None
    };
    // The queries that share a key head stand as its query tokens: `[N, K, H / K, W]`.
    let (tokens, heads, head_size) = queries.size3()?;
    let key_heads = keys.size4()?.1;
    let output = Tensor::f_scaled_dot_product_attention(
        &queries.f_reshape([tokens, key_heads, heads / key_heads, head_size])?,
        &keys,
        &values,
        mask.as_ref(),
        settings.dropout,
        false,
        settings.scale,
        false,
    )?;
    Ok(output.f_reshape([tokens, heads, head_size])?)
}

/// As [`one_token_each`], for rows of which some share their beginning: all queries of a beginning meet it in one product.
fn one_token_each_after_shared(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    batch: &Batch,
    cache: &mut LayerCache,
    settings: Settings<'_>,
) -> Result<Tensor> {
    let device = batch.device();
    let index = |places: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(places)?.f_to_device(device)?) };
    let (rows, own): (Vec<usize>, Vec<i64>) =
        step_rows(batch, cache).into_iter().map(|(row, past)| (row, past as i64)).unzip();
    let cached: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let places = [Some(index(&cached)?), None, Some(index(&own)?)];
    let _ = cache.keys.f_index_put_(&places, keys, false)?;
    let _ = cache.values.f_index_put_(&places, values, false)?;

    let (_, heads, head_size) = queries.size3()?;
    let key_heads = keys.size3()?.1;
    let group = heads / key_heads;
    let mut outputs = Vec::new();
    let mut first = 0;
    while first < rows.len() {
        let shared = cache.shared(rows[first]);
        let same = |row: &&usize| match (cache.shared(**row), shared) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let count = rows[first..].iter().take_while(same).count();
        let end = first + count;
        let (n, longest) = (count as i64, own[first..end].iter().max().map_or(0, |past| past + 1));
        let held = index(&cached[first..end])?;
        let part =
            |all: &Tensor| -> Result<Tensor> { Ok(all.f_narrow(2, 0, longest)?.f_index_select(0, &held)?) };
        // `[n, K, H / K, W]`, and for what is shared `[K, n H / K, W]`.
        let query = queries.f_narrow(0, first as i64, n)?.f_reshape([n, key_heads, group, head_size])?;
        let query = query.f_mul_scalar(settings.scale)?;
        let mut scores = query.f_matmul(&part(&cache.keys)?.f_transpose(2, 3)?)?.f_to_kind(Kind::Float)?;
        if own[first..end].iter().any(|past| past + 1 < longest) {
            let tokens = Tensor::f_arange(longest, (Kind::Int64, device))?.f_view([1, 1, 1, longest])?;
            let unseen = tokens.f_gt_tensor(&index(&own[first..end])?.f_view([-1, 1, 1, 1])?)?;
            scores = scores.f_masked_fill(&unseen, f64::NEG_INFINITY)?;
        }
        let together = |x: &Tensor| -> Result<Tensor> {
            let width = x.size4()?.3;
            Ok(x.f_transpose(0, 1)?.f_reshape([key_heads, n * group, width])?)
        };
        let apart = |x: Tensor| -> Result<Tensor> {
            let width = x.size3()?.2;
            Ok(x.f_view([key_heads, n, group, width])?.f_transpose(0, 1)?)
        };
        if let Some(shared) = shared {
            let met = together(&query)?.f_matmul(&shared.keys.f_squeeze_dim(0)?.f_transpose(1, 2)?)?;
            scores = Tensor::f_cat(&[&apart(met)?.f_to_kind(Kind::Float)?, &scores], 3)?;
        }
        let weights = scores.f_softmax(-1, None)?.f_to_kind(queries.kind())?;
        let tokens = shared.map_or(0, |shared| shared.tokens as i64);
        let mut output = weights.f_narrow(3, tokens, longest)?.f_matmul(&part(&cache.values)?)?;
        if let Some(shared) = shared {
            let met =
                together(&weights.f_narrow(3, 0, tokens)?)?.f_matmul(&shared.values.f_squeeze_dim(0)?)?;
            output = output.f_add(&apart(met)?)?;
        }
        outputs.push(output.f_reshape([n, heads, head_size])?);
        first = end;
    }
    Ok(Tensor::f_cat(&outputs, 0)?)
}

/// A row's queries `[L, H, W]` as `[K, H / K, L, W]`, one batch entry a key head; where each has its own, `[1, H, L, W]`.
fn grouped_queries(queries: &Tensor, key_heads: i64) -> Result<Tensor> {
    let (tokens, heads, head_size) = queries.size3()?;
    if heads == key_heads {
        return heads_first(queries);
    }
    Ok(queries.f_view([tokens, key_heads, heads / key_heads, head_size])?.f_permute([1, 2, 0, 3])?)
}

/// Keys or values `[1, K, S, W]` beside the queries of [`grouped_queries`]: `[K, H / K, S, W]` without a copy.
fn shared(keys: &Tensor, queries: &Tensor) -> Result<Tensor> {
    let (batch, group, _, _) = queries.size4()?;
    let (_, key_heads, tokens, head_size) = keys.size4()?;
    if batch == 1 && group == key_heads {
        return Ok(keys.shallow_clone());
    }
    Ok(keys.f_transpose(0, 1)?.f_expand([batch, group, tokens, head_size], false)?)
}

/// `[L, H, W]` as the kernel wants it: `[1, H, L, W]`.
pub(crate) fn heads_first(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_transpose(0, 1)?.f_unsqueeze(0)?)
}

/// Stores a row's new keys or values, and returns all that the cache holds of the row: `[1, H, past + len, W]`.
fn store(
    all: &Tensor,
    (cached, row): (usize, &Row),
    new: &Tensor,
    shared: Option<(&Tensor, &Shared)>,
) -> Result<Tensor> {
    let past = (row.past - shared.map_or(0, |(_, held)| held.tokens)) as i64;
    let line = all.f_narrow(0, cached as i64, 1)?;
    line.f_narrow(2, past, row.len as i64)?.f_copy_(&heads_first(new)?)?;
    let own = line.f_narrow(2, 0, past + row.len as i64)?;
    match shared {
        Some((shared, _)) => Ok(Tensor::f_cat(&[shared, &own], 2)?),
        None => Ok(own),
    }
}
