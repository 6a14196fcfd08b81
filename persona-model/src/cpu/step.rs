//! Attention of one new token a row.

use tch::{Device, Kind, Tensor};

use super::{Instructions, Numbers, Output};
use crate::cache::LayerCache;
use crate::error::{Error, Result};

/// A row of the cache and how many tokens it holds itself, before the new one.
pub(crate) type StepRow = (usize, usize);

/// Stores a new key and value for every row, and attends from its query to all that the row holds and begins with, each
/// row to its own tokens alone.
///
/// # Shapes
/// `queries` `[N, H, W]`, `keys` and `values` `[N, K, W]` for H a multiple of K, in float32. Returns `[N, H, W]`; None where
/// libtorch has to compute it, for tensors in other places or kinds.
pub(crate) fn attend_step(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    rows: &[StepRow],
    cache: &mut LayerCache,
    scale: f64,
) -> Result<Option<Tensor>> {
    let Some(instructions) = Instructions::here() else { return Ok(None) };
    let learns = [queries, keys, values].into_iter().any(Tensor::requires_grad);
    let float = [queries, keys, values, &cache.keys, &cache.values]
        .into_iter()
        .all(|tensor| tensor.device() == Device::Cpu && tensor.kind() == Kind::Float);
    if learns || !float || !cache.keys.is_contiguous() || !cache.values.is_contiguous() {
        return Ok(None);
    }
    let (tokens, heads, width) = queries.size3()?;
    let (_, key_heads, room, _) = cache.keys.size4()?;
    let shape = Shape {
        heads: heads as usize,
        key_heads: key_heads as usize,
        room: room as usize,
        width: width as usize,
    };
    if tokens as usize != rows.len() || keys.size3()? != (tokens, key_heads, width) {
        return Err(Error::Batch(format!("{tokens} queries for {} rows of the cache", rows.len())));
    }
    let (held, room) = (cache.keys.size4()?.0 as usize, shape.room);
    if let Some((row, past)) = rows.iter().find(|&&(row, past)| row >= held || past >= room) {
        let reason = format!("token {past} of row {row}, in a cache of {held} rows of {room} tokens");
        return Err(Error::Batch(reason));
    }
    store(&mut cache.keys, keys, rows, shape)?;
    store(&mut cache.values, values, rows, shape)?;
    let queries = queries.f_contiguous()?;
    let mut output = Tensor::f_empty([tokens, heads, width], (Kind::Float, Device::Cpu))?;
    let done = compute(instructions, &queries, rows, cache, (shape, scale as f32), &mut output);
    Ok(done.then_some(output))
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    key_heads: usize,
    /// Tokens that a row of the cache has room for.
    room: usize,
    width: usize,
}

/// Puts new keys or values `[N, K, W]` into the rows of the cache.
#[allow(unsafe_code)]
fn store(held: &mut Tensor, new: &Tensor, rows: &[StepRow], shape: Shape) -> Result<()> {
    let new = new.f_contiguous()?;
    let Some(new) = Numbers::of(&new).and_then(Numbers::float) else { return Ok(()) };
    let Some(held) = Output::of(held) else { return Ok(()) };
    let Shape { key_heads, room, width, .. } = shape;
    for (&(row, past), new) in rows.iter().zip(new.chunks_exact(key_heads * width)) {
        for (head, new) in new.chunks_exact(width).enumerate() {
            let place = held.at(((row * key_heads + head) * room + past) * width, width);
            // SAFETY: `at` has checked that so many numbers follow; nobody else has the cache.
            unsafe { std::ptr::copy_nonoverlapping(new.as_ptr(), place, width) };
        }
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn compute(
    _: Instructions,
    _: &Tensor,
    _: &[StepRow],
    _: &LayerCache,
    _: (Shape, f32),
    _: &mut Tensor,
) -> bool {
    false
}

/// Rows that follow each other and begin with the same tokens, which their queries meet together.
#[cfg(target_arch = "x86_64")]
struct Block<'a> {
    /// Index of the first row in the batch.
    first: usize,
    rows: &'a [StepRow],
    /// Keys, values and number of the tokens that the rows share.
    shared: Option<(&'a [f32], &'a [f32], usize)>,
}

#[cfg(target_arch = "x86_64")]
fn compute(
    instructions: Instructions,
    queries: &Tensor,
    rows: &[StepRow],
    cache: &LayerCache,
    (shape, scale): (Shape, f32),
    output: &mut Tensor,
) -> bool {
    /// Rows that a thread takes at once.
    const ROWS: usize = 12;
    /// Products of queries and keys up to which one thread is as fast as several.
    const LITTLE: usize = 1 << 16;
    let float = |tensor| Numbers::of(tensor).and_then(Numbers::float);
    let (Some(queries), Some(keys), Some(values)) =
        (float(queries), float(&cache.keys), float(&cache.values))
    else {
        return false;
    };
    let Some(output) = Output::of(output) else { return false };
    let mut blocks = Vec::new();
    let mut first = 0;
    while first < rows.len() {
        let shared = cache.shared(rows[first].0);
        let same = |row: &&StepRow| match (shared, cache.shared(row.0)) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            _ => false,
        };
        let alike = rows[first..].iter().skip(1).take(ROWS - 1).take_while(same).count();
        let shared = match shared {
            None => None,
            Some(held) => match (float(&held.keys), float(&held.values)) {
                (Some(keys), Some(values)) => Some((keys, values, held.tokens)),
                _ => return false,
            },
        };
        blocks.push(Block { first, rows: &rows[first..=first + alike], shared });
        first += alike + 1;
    }
    let step = Step { instructions, queries, keys, values, shape, scale, output };
    let parts = blocks.len() * shape.key_heads;
    let run = |part: usize| step.block(&blocks[part / shape.key_heads], part % shape.key_heads);
    let tokens: usize = rows.iter().map(|&(row, past)| past + 1 + cache.shared_tokens(row)).sum();
    if tokens * shape.heads * shape.width <= LITTLE {
        (0..parts).for_each(run);
    } else {
        crate::threads::for_each(parts, &run);
    }
    true
}

#[cfg(target_arch = "x86_64")]
struct Step<'a> {
    instructions: Instructions,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    shape: Shape,
    scale: f32,
    output: Output,
}

#[cfg(target_arch = "x86_64")]
impl Step<'_> {
    /// All queries of a block that share a key head.
    fn block(&self, block: &Block<'_>, head: usize) {
        let Shape { heads, key_heads, room, width } = self.shape;
        let group = heads / key_heads;
        let shared = block.shared.map_or(0, |(_, _, tokens)| tokens);
        let longest = block.rows.iter().map(|(_, past)| past + 1).max().unwrap_or(0);
        let (count, stride) = (block.rows.len() * group, shared + longest);
        let mut queries = Vec::with_capacity(count * width);
        for at in 0..block.rows.len() {
            let start = ((block.first + at) * heads + head * group) * width;
            queries.extend_from_slice(&self.queries[start..start + group * width]);
        }
        let mut scores = vec![0.0; count * stride];
        let mut sums = vec![0.0; count * width];
        let own = |row: usize, tokens: usize| {
            let start = (row * key_heads + head) * room * width;
            start..start + tokens * width
        };
        let common = head * shared * width..(head + 1) * shared * width;
        if let Some((keys, _, _)) = block.shared {
            self.scores(&queries, &keys[common.clone()], &mut scores, (count, shared, stride));
        }
        for (at, &(row, past)) in block.rows.iter().enumerate() {
            let queries = &queries[at * group * width..(at + 1) * group * width];
            let scores = &mut scores[at * group * stride..(at + 1) * group * stride];
            let keys = &self.keys[own(row, past + 1)];
            self.scores(queries, keys, &mut scores[shared..], (group, past + 1, stride));
            self.softmax(scores, (group, shared + past + 1, stride));
        }
        if let Some((_, values, _)) = block.shared {
            self.sums(&scores, &values[common], &mut sums, (count, shared, stride), false);
        }
        for (at, &(row, past)) in block.rows.iter().enumerate() {
            let scores = &scores[at * group * stride + shared..(at + 1) * group * stride];
            let sums = &mut sums[at * group * width..(at + 1) * group * width];
            let values = &self.values[own(row, past + 1)];
            self.sums(scores, values, sums, (group, past + 1, stride), block.shared.is_some());
            let place = self.output.at(((block.first + at) * heads + head * group) * width, group * width);
            copy(sums, place);
        }
    }

    /// Products of `count` queries with `tokens` keys; the rows of the result lie `stride` apart.
    #[allow(unsafe_code)]
    fn scores(
        &self,
        queries: &[f32],
        keys: &[f32],
        scores: &mut [f32],
        (count, tokens, stride): (usize, usize, usize),
    ) {
        use super::panel::{Begin, Lines, Results, avx2, avx512};
        let width = self.shape.width;
        assert!(queries.len() == count * width && keys.len() == tokens * width);
        assert!(scores.len() >= (count - 1) * stride + tokens);
        let x = Lines { start: queries.as_ptr(), stride: width };
        let w = Lines { start: keys.as_ptr(), stride: width };
        let y = Results { start: scores.as_mut_ptr(), stride };
        // SAFETY: the lengths were checked, and the processor has the instructions.
        unsafe {
            match self.instructions {
                Instructions::Avx512 => avx512::out_in(x, (count, width), w, tokens, y, Begin::Zero),
                Instructions::Avx2 => avx2::out_in(x, (count, width), w, tokens, y, Begin::Zero),
            }
        }
    }

    #[allow(unsafe_code)]
    fn softmax(&self, scores: &mut [f32], (count, tokens, stride): (usize, usize, usize)) {
        use super::panel::{Results, avx2, avx512};
        assert!(scores.len() >= (count - 1) * stride + tokens);
        let rows = Results { start: scores.as_mut_ptr(), stride };
        // SAFETY: the length was checked, and the processor has the instructions.
        unsafe {
            match self.instructions {
                Instructions::Avx512 => avx512::softmax_rows(count, tokens, rows, self.scale),
                Instructions::Avx2 => avx2::softmax_rows(count, tokens, rows, self.scale),
            }
        }
    }

    /// The sums of `tokens` values by the weights of each query, added to what is there or not.
    #[allow(unsafe_code)]
    fn sums(
        &self,
        weights: &[f32],
        values: &[f32],
        sums: &mut [f32],
        (count, tokens, stride): (usize, usize, usize),
        add: bool,
    ) {
        use super::panel::{Begin, Lines, Results, avx2, avx512};
        let width = self.shape.width;
        assert!(weights.len() >= (count - 1) * stride + tokens && values.len() == tokens * width);
        assert!(sums.len() == count * width);
        let x = Lines { start: weights.as_ptr(), stride };
        let w = Lines { start: values.as_ptr(), stride: width };
        let y = Results { start: sums.as_mut_ptr(), stride: width };
        let begin = if add { Begin::Add } else { Begin::Zero };
        // SAFETY: the lengths were checked, and the processor has the instructions.
        unsafe {
            match self.instructions {
                Instructions::Avx512 => avx512::in_out(x, (count, tokens), w, width, y, begin),
                Instructions::Avx2 => avx2::in_out(x, (count, tokens), w, width, y, begin),
            }
        }
    }
}

/// Copies to a place that [`Output::at`] has checked.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn copy(from: &[f32], to: *mut f32) {
    // SAFETY: the caller has asked for a place with room for so many numbers, which no other thread writes.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
}
