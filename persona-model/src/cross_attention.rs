//! Attention of target rows on the source rows that they read.

use tch::{Device, Kind, Tensor};

use crate::attention::{Settings, heads_first, widen};
use crate::batch::{Batch, Context};
use crate::cache::LayerCache;
use crate::error::{Error, Result};

/// The source row that each target row reads.
pub(crate) fn sources_of(target: &Batch, source: &Batch) -> Result<Vec<usize>> {
    let (targets, there) = (target.rows().len(), source.rows().len());
    let sources = match target.sources() {
        Some(sources) => sources.to_vec(),
        None if targets == there => (0..there).collect(),
        None => {
            let reason = format!(
                "{targets} target rows for {there} source rows; say which each reads (Batch::with_sources)"
            );
            return Err(Error::Batch(reason));
        }
    };
    check_sources(&sources, there)?;
    for (at, row) in target.rows().iter().enumerate() {
        if let Context::Row(of) = row.context
            && sources[of] != sources[at]
        {
            let reason = format!("target rows {at} and {of}, which it continues, read different source rows");
            return Err(Error::Batch(reason));
        }
    }
    Ok(sources)
}

pub(crate) fn check_sources(sources: &[usize], there: usize) -> Result<()> {
    match sources.iter().enumerate().find(|(_, source)| **source >= there) {
        Some((row, source)) => {
            Err(Error::Batch(format!("target row {row} reads source row {source}, there are {there}")))
        }
        None => Ok(()),
    }
}

/// Attends from every target row to the whole of its source row, a row at a time, without padding.
///
/// # Shapes
/// `queries` `[N, H, W]` of the target's tokens, `keys` and `values` `[S, H, W]` of the source's. Returns `[N, H W]`.
pub(crate) fn attend_to_sources(
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    (target, source): (&Batch, &Batch),
    sources: &[usize],
    settings: Settings<'_>,
) -> Result<Tensor> {
    let (tokens, heads, head_size) = queries.size3()?;
    let lens = |batch: &Batch| batch.rows().iter().map(|row| row.len as i64).collect::<Vec<_>>();
    let queries = widen(queries)?.f_split_with_sizes(lens(target).as_slice(), 0)?;
    let keys = widen(keys)?.f_split_with_sizes(lens(source).as_slice(), 0)?;
    let values = widen(values)?.f_split_with_sizes(lens(source).as_slice(), 0)?;
    let mut outputs = Vec::with_capacity(queries.len());
    for (query, &source) in queries.iter().zip(sources) {
        let output = Tensor::f_scaled_dot_product_attention(
            &heads_first(query)?,
            &heads_first(&keys[source])?,
            &heads_first(&values[source])?,
            None::<&Tensor>,
            settings.dropout,
            false,
            settings.scale,
            false,
        )?;
        outputs.push(output.f_squeeze_dim(0)?.f_transpose(0, 1)?);
    }
    Ok(Tensor::f_cat(&outputs, 0)?.f_reshape([tokens, heads * head_size])?)
}

/// The keys and values of source rows in every layer, computed once for all steps of decoding.
#[derive(Debug)]
pub(crate) struct SourceCache {
    /// `[S, H, L, W]` each, for S sources of up to L tokens.
    layers: Vec<LayerCache>,
    lens: Vec<usize>,
    /// Where the keys are, `[S, 1, 1, L]`; None where all sources have L tokens.
    mask: Option<Tensor>,
    /// The source that each cache row reads.
    rows: Vec<usize>,
    device: Device,
}

/// Where the queries of a batch stand beside the keys of their sources: `[S, G]`, G being the most that read one source.
pub(crate) struct Places {
    /// The query at each place, `[S G]`; any, where there is none.
    queries: Tensor,
    /// The place of each query, `[N]`.
    places: Tensor,
    most: i64,
}

impl SourceCache {
    /// From each layer's keys and values `[N, H, W]` of the source's tokens, for cache rows that read these sources.
    pub(crate) fn new(source: &Batch, layers: Vec<(Tensor, Tensor)>, rows: &[usize]) -> Result<Self> {
        let lens: Vec<usize> = source.rows().iter().map(|row| row.len).collect();
        check_sources(rows, lens.len())?;
        let sizes: Vec<i64> = lens.iter().map(|&len| len as i64).collect();
        let padded = |line: &Tensor| -> Result<Tensor> {
            let parts = widen(line)?.f_split_with_sizes(sizes.as_slice(), 0)?;
            Ok(Tensor::f_pad_sequence(&parts, true, 0.0, "right")?.f_transpose(1, 2)?.f_contiguous()?)
        };
        let layers = layers
            .iter()
            .map(|(keys, values)| Ok(LayerCache::new(padded(keys)?, padded(values)?, 0)))
            .collect::<Result<_>>()?;
        let device = source.device();
        Ok(Self { layers, mask: mask(&lens, device)?, lens, rows: rows.to_vec(), device })
    }

    /// Keeps these cache rows, in this order, and of the sources those that they read.
    pub(crate) fn keep(&mut self, rows: &[usize]) -> Result<()> {
        let read: Vec<usize> = rows.iter().map(|&row| self.rows[row]).collect();
        let mut kept = read.clone();
        kept.sort_unstable();
        kept.dedup();
        if kept.len() < self.lens.len() {
            let index: Vec<i64> = kept.iter().map(|&source| source as i64).collect();
            self.lens = kept.iter().map(|&source| self.lens[source]).collect();
            let longest = self.lens.iter().copied().max().unwrap_or(0) as i64;
            let index = Tensor::f_from_slice(&index)?.f_to_device(self.device)?;
            for layer in &mut self.layers {
                layer.keys = layer.keys.f_narrow(2, 0, longest)?.f_index_select(0, &index)?;
                layer.values = layer.values.f_narrow(2, 0, longest)?.f_index_select(0, &index)?;
            }
            self.mask = mask(&self.lens, self.device)?;
        }
        self.rows = read.iter().map(|source| kept.partition_point(|held| held < source)).collect();
        Ok(())
    }

    /// The places of the tokens of a batch that continues the cache; None where the n-th token reads the n-th source.
    pub(crate) fn places(&self, batch: &Batch) -> Result<Option<Places>> {
        if batch.sources().is_some() {
            let reason = "sources were given for rows of a cache, which has its own";
            return Err(Error::Batch(reason.to_owned()));
        }
        let mut held = vec![Vec::new(); self.lens.len()];
        for row in batch.rows() {
            let source = match row.context {
                Context::Cached(cached) => self.rows.get(cached).and_then(|&source| held.get_mut(source)),
                Context::None | Context::Row(_) => None,
            };
            let Some(tokens) = source else {
                return Err(Error::Batch("a row is not of this cache".to_owned()));
            };
            tokens.extend((row.start..row.start + row.len).map(|at| at as i64));
        }
        if held.iter().enumerate().all(|(at, tokens)| *tokens == [at as i64]) {
            return Ok(None);
        }
        let most = held.iter().map(Vec::len).max().unwrap_or(0);
        let mut queries = vec![0; held.len() * most];
        let mut places = vec![0; batch.tokens()];
        for (source, tokens) in held.iter().enumerate() {
            for (at, &token) in tokens.iter().enumerate() {
                queries[source * most + at] = token;
                places[token as usize] = (source * most + at) as i64;
            }
        }
        Ok(Some(Places {
            queries: Tensor::f_from_slice(&queries)?.f_to_device(batch.device())?,
            places: Tensor::f_from_slice(&places)?.f_to_device(batch.device())?,
            most: most as i64,
        }))
    }

    /// Attends from each query, `[N, H, W]`, to its source in a layer. Returns `[N, H W]`.
    pub(crate) fn attend(
        &self,
        layer: usize,
        queries: &Tensor,
        places: Option<&Places>,
        settings: Settings<'_>,
    ) -> Result<Tensor> {
        let (tokens, heads, head_size) = queries.size3()?;
        let layer = &self.layers[layer];
        let queries = widen(queries)?;
        let placed = match places {
            Some(places) => queries.f_index_select(0, &places.queries)?,
            None => queries,
        };
        let most = places.map_or(1, |places| places.most);
        let output = Tensor::f_scaled_dot_product_attention(
            &placed.f_view([-1, most, heads, head_size])?.f_transpose(1, 2)?,
            &layer.keys,
            &layer.values,
            self.mask.as_ref(),
            settings.dropout,
            false,
            settings.scale,
            false,
        )?;
        let output = output.f_transpose(1, 2)?.f_reshape([-1, heads * head_size])?;
        Ok(match places {
            Some(places) => output.f_index_select(0, &places.places)?,
            None => output.f_view([tokens, heads * head_size])?,
        })
    }
}

fn mask(lens: &[usize], device: Device) -> Result<Option<Tensor>> {
    let longest = lens.iter().copied().max().unwrap_or(0);
    if lens.iter().all(|&len| len == longest) {
        return Ok(None);
    }
    let lens: Vec<i64> = lens.iter().map(|&len| len as i64).collect();
    let lens = Tensor::f_from_slice(&lens)?.f_to_device(device)?.f_view([-1, 1, 1, 1])?;
    let places = Tensor::f_arange(longest as i64, (Kind::Int64, device))?.f_view([1, 1, 1, -1])?;
    Ok(Some(places.f_lt_tensor(&lens)?))
}
