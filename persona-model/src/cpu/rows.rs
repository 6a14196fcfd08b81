//! Attention of whole rows, forward and backward: each row to its own tokens and those it continues, nothing padded.
//!
//! The weights of some queries with all keys they see stand in the core's cache at once; between forward and backward
//! only the logarithm of their sums is kept, as in FlashAttention (Dao et al. 2022).

use tch::{Device, Kind, Tensor};

use super::Output;
use super::matrix::Precision;
use crate::autograd;
use crate::batch::{Context, Row};
use crate::error::{Error, Result};

/// The queries, keys and values of N tokens, in float32.
pub(crate) enum Heads<'a> {
    /// In one tensor `[N, 3, H, W]`.
    Together(&'a Tensor),
    /// Queries `[N, H, W]`, keys and values `[N, K, W]` for H a multiple of K.
    Apart([&'a Tensor; 3]),
}

/// Where a head's numbers of a token lie: `start + token * self.token + head * self.head`, W beside each other.
#[derive(Clone, Copy)]
struct Place {
    start: *const f32,
    token: usize,
    head: usize,
    heads: usize,
}

// SAFETY: threads read through it, and write to tokens and heads of their own.
#[allow(unsafe_code)]
unsafe impl Sync for Place {}

impl Place {
    /// Of `[N, heads, W]`; None for tensors that the kernel does not read.
    fn of(tensor: &Tensor) -> Option<Self> {
        let (&[_, heads, _], &[token, head, 1]) = (&tensor.size()[..], &tensor.stride()[..]) else {
            return None;
        };
        let held = tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.numel() > 0;
        let [token, head, heads] = [token, head, heads].map(|number| usize::try_from(number).ok());
        let start = tensor.data_ptr().cast_const().cast();
        held.then_some(Self { start, token: token?, head: head?, heads: heads? })
    }

    fn at(self, token: usize, head: usize) -> *const f32 {
        self.start.wrapping_add(token * self.token + head * self.head)
    }
}

/// A row and the tokens that it continues.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
    /// First token and number of what is continued.
    before: (usize, usize),
}

impl Span {
    fn keys(self) -> usize {
        self.before.1 + self.len
    }
}

#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    heads: usize,
    key_heads: usize,
    width: usize,
    scale: f32,
    causal: bool,
}

/// Attends from every token to what its row holds up to it, or to the whole row where that is not causal. Rows of a cache
/// have to begin it.
///
/// # Shapes
/// Returns `[N, H, W]`; None where libtorch has to compute it.
pub(crate) fn attend_rows(
    heads: &Heads<'_>,
    rows: &[Row],
    scale: f64,
    causal: bool,
) -> Result<Option<Tensor>> {
    if Precision::of(Kind::Float).is_none() {
        return Ok(None);
    }
    let inputs: Vec<&Tensor> = match heads {
        Heads::Together(all) => vec![*all],
        Heads::Apart(parts) => parts.to_vec(),
    };
    let detached: Vec<Tensor> = inputs.iter().map(|input| input.f_detach()).collect::<Result<_, _>>()?;
    let parts = match heads {
        Heads::Together(_) => detached[0].f_unbind(1)?,
        Heads::Apart(_) => detached,
    };
    let [queries, keys, values] = &parts[..] else {
        return Err(Error::Batch(format!("{} parts of a projection, not three", parts.len())));
    };
    let (tokens, heads_of_queries, width) = queries.size3()?;
    let (Some(q), Some(k), Some(v)) = (Place::of(queries), Place::of(keys), Place::of(values)) else {
        return Ok(None);
    };
    let sizes_meet = keys.size3()? == values.size3()?
        && keys.size3()?.0 == tokens
        && keys.size3()?.2 == width
        && q.heads % k.heads == 0;
    let Some(groups) = groups(rows, tokens as usize).filter(|_| sizes_meet) else { return Ok(None) };
    let shape = Shape {
        tokens: tokens as usize,
        heads: q.heads,
        key_heads: k.heads,
        width: width as usize,
        scale: scale as f32,
        causal,
    };
    let float = (Kind::Float, Device::Cpu);
    let mut output = Tensor::f_empty([tokens, heads_of_queries, width], float)?;
    let mut sums = Tensor::f_empty([tokens, heads_of_queries], float)?;
    forward(shape, &groups, [q, k, v], &mut output, &mut sums)?;
    if !autograd::records(&inputs) {
        return Ok(Some(output));
    }
    let together = matches!(heads, Heads::Together(_));
    let output = autograd::attach(output, &inputs, move |gradient, _| {
        let [Some(q), Some(k), Some(v)] = [0, 1, 2].map(|part| parts.get(part).and_then(Place::of)) else {
            return Err(unread());
        };
        let gradient = gradient.f_contiguous()?;
        let Some(passed) = Place::of(&gradient) else { return Err(unread()) };
        let (whole, results) = if together {
            let all = Tensor::f_zeros([tokens, 3, shape.heads as i64, width], float)?;
            let parts = all.f_unbind(1)?;
            (Some(all), parts)
        } else {
            (None, parts.iter().map(|part| Tensor::f_zeros(part.size(), float)).collect::<Result<_, _>>()?)
        };
        let [Some(dq), Some(dk), Some(dv)] = [0, 1, 2].map(|part| results.get(part).and_then(Place::of))
        else {
            return Err(unread());
        };
        backward(shape, &groups, [q, k, v], (passed, &sums), [dq, dk, dv])?;
        Ok(match whole {
            Some(whole) => vec![Some(whole)],
            None => results.into_iter().map(Some).collect(),
        })
    })?;
    Ok(Some(output))
}

fn unread() -> Error {
    Error::Batch("attention over tensors in a form that was not expected".to_owned())
}

/// Rows that share tokens, which one thread takes at once; None for rows that continue a cache.
fn groups(rows: &[Row], tokens: usize) -> Option<Vec<Vec<Span>>> {
    let mut groups: Vec<Vec<Span>> = Vec::new();
    let mut of_row: Vec<usize> = Vec::with_capacity(rows.len());
    for row in rows {
        let before = match row.context {
            Context::None => (0, 0),
            Context::Cached(_) if row.past == 0 => (0, 0),
            Context::Row(of) => rows.get(of).map(|row| (row.start, row.len))?,
            Context::Cached(_) => return None,
        };
        let span = Span { start: row.start, len: row.len, before };
        if before.1 + row.len != row.past + row.len || row.start + row.len > tokens {
            return None;
        }
        let group = match row.context {
            Context::Row(of) => *of_row.get(of)?,
            _ => groups.len(),
        };
        of_row.push(group);
        match groups.get_mut(group) {
            Some(group) => group.push(span),
            None => groups.push(vec![span]),
        }
    }
    Some(groups)
}

#[cfg(not(target_arch = "x86_64"))]
fn forward(_: Shape, _: &[Vec<Span>], _: [Place; 3], _: &mut Tensor, _: &mut Tensor) -> Result<()> {
    Err(unread())
}

#[cfg(not(target_arch = "x86_64"))]
fn backward(_: Shape, _: &[Vec<Span>], _: [Place; 3], _: (Place, &Tensor), _: [Place; 3]) -> Result<()> {
    Err(unread())
}

#[cfg(target_arch = "x86_64")]
use self::kernels::{backward, forward};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod kernels {
    use std::cell::RefCell;

    use tch::Tensor;

    use super::{Output, Place, Shape, Span, unread};
    use crate::cpu::exp::{exp, softmax};
    use crate::cpu::lanes::{Avx512, Lanes};
    use crate::cpu::matrix::pack::Side;
    use crate::cpu::matrix::tile::{BLOCK_LINES, COLUMNS, Part, float, with_room};
    use crate::cpu::panel::Begin;
    use crate::cpu::{Numbers, threads};
    use crate::error::Result;

    /// Queries that meet their keys at once.
    const QUERIES: usize = 96;

    /// What one thread works with, and keeps for the next row.
    #[derive(Default)]
    struct Scratch {
        /// A row's keys and values, `[S, W]`.
        keys: Vec<f32>,
        values: Vec<f32>,
        /// Factors in the kernel's order.
        keys_by_token: Vec<u32>,
        keys_by_width: Vec<u32>,
        values_packed: Vec<u32>,
        queries_packed: Vec<u32>,
        passed_packed: Vec<u32>,
        /// `[QUERIES, S]`.
        weights: Vec<f32>,
        slopes: Vec<f32>,
        /// Gradients of a row's keys and values, `[S, W]`.
        of_keys: Vec<f32>,
        of_values: Vec<f32>,
    }

    fn for_each_part(
        groups: &[Vec<Span>],
        heads: usize,
        run: &(dyn Fn(&[Span], usize, &mut Scratch) + Sync),
    ) {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        threads::for_each(groups.len() * heads, &|part| {
            SCRATCH.with_borrow_mut(|scratch| run(&groups[part / heads], part % heads, scratch));
        });
    }

    /// Copies the tokens that a row sees: `[S, W]`.
    fn gather(from: Place, head: usize, span: Span, width: usize, to: &mut Vec<f32>) {
        to.clear();
        let (first, count) = span.before;
        for token in (first..first + count).chain(span.start..span.start + span.len) {
            // SAFETY: spans lie within the tokens of the tensor, each of which has W numbers a head.
            to.extend_from_slice(unsafe { std::slice::from_raw_parts(from.at(token, head), width) });
        }
    }

    /// Adds what belongs to the tokens that a row sees to where they lie.
    fn scatter(from: &[f32], to: Place, head: usize, span: Span, width: usize) {
        let (first, count) = span.before;
        let tokens = (first..first + count).chain(span.start..span.start + span.len);
        for (token, from) in tokens.zip(from.chunks_exact(width)) {
            // SAFETY: as in `gather`; no other thread has this head of these tokens.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(token, head).cast_mut(), width) };
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }

    /// Packs a factor of so many lines and so much depth.
    ///
    /// # Safety
    /// The factor has them.
    unsafe fn pack(from: Side<f32>, (lines, depth): (usize, usize), to: &mut Vec<u32>) {
        let panels = lines.div_ceil(COLUMNS);
        to.resize(panels * COLUMNS * depth, 0);
        for panel in 0..panels {
            let (line, to) = (panel * COLUMNS, &mut to[panel * COLUMNS * depth..]);
            // SAFETY: the place has room for the panel; AVX-512 was asked for before.
            unsafe { float::panel(from.at(line, 0), (lines - line).min(COLUMNS), depth, to.as_mut_ptr()) };
        }
    }

    /// As [`float::compute`], for any number of lines.
    unsafe fn multiply(part: Part<f32>) {
        with_room(|room| {
            for line in (0..part.lines).step_by(BLOCK_LINES) {
                let lines = (part.lines - line).min(BLOCK_LINES);
                let results = part.results.wrapping_add(line * part.stride);
                // SAFETY: a part of what the caller answers for.
                unsafe { float::compute(Part { a: part.a.at(line, 0), lines, results, ..part }, room) };
            }
        });
    }

    /// Some queries of a row: the first of them, how many, and how many keys each of them sees.
    struct Block {
        first: usize,
        count: usize,
        causal_from: Option<usize>,
        keys: usize,
    }

    impl Block {
        fn all(span: Span, causal: bool) -> impl Iterator<Item = Self> {
            (0..span.len).step_by(QUERIES).map(move |first| {
                let count = (span.len - first).min(QUERIES);
                let causal_from = causal.then_some(span.before.1 + first);
                Self { first, count, causal_from, keys: causal_from.map_or(span.keys(), |seen| seen + count) }
            })
        }

        /// Keys that the query at a place of the block sees.
        fn seen(&self, at: usize) -> usize {
            self.causal_from.map_or(self.keys, |before| before + at + 1)
        }
    }

    pub(super) fn forward(
        shape: Shape,
        groups: &[Vec<Span>],
        [q, k, v]: [Place; 3],
        output: &mut Tensor,
        sums: &mut Tensor,
    ) -> Result<()> {
        let (Some(output), Some(sums)) = (Output::of(output), Output::of(sums)) else { return Err(unread()) };
        let Shape { heads, key_heads, width, scale, causal, .. } = shape;
        for_each_part(groups, key_heads, &|spans, key_head, scratch| {
            for &span in spans {
                let seen = span.keys();
                gather(k, key_head, span, width, &mut scratch.keys);
                gather(v, key_head, span, width, &mut scratch.values);
                let by_token = Side { start: scratch.keys.as_ptr(), line: width, depth: 1 };
                let by_width = Side { start: scratch.values.as_ptr(), line: 1, depth: width };
                // SAFETY: both hold S W numbers.
                unsafe {
                    pack(by_token, (seen, width), &mut scratch.keys_by_token);
                    pack(by_width, (width, seen), &mut scratch.values_packed);
                }
                scratch.weights.resize(QUERIES * seen, 0.0);
                let weights = scratch.weights.as_mut_ptr();
                for head in (0..heads / key_heads).map(|at| key_head * (heads / key_heads) + at) {
                    for block in Block::all(span, causal) {
                        let token = span.start + block.first;
                        // SAFETY: the block's queries lie in the row, its weights in the scratch, and its results are
                        // those of tokens and a head that no other part has.
                        unsafe {
                            multiply(Part {
                                a: Side { start: q.at(token, head), line: q.token, depth: 1 },
                                lines: block.count,
                                b: scratch.keys_by_token.as_ptr(),
                                held: width,
                                columns: block.keys,
                                depth: width,
                                results: weights,
                                stride: seen,
                                begin: Begin::Zero,
                            });
                            let mut factors = [0.0; QUERIES];
                            for (at, factor) in factors.iter_mut().enumerate().take(block.count) {
                                let row = weights.add(at * seen);
                                let sum;
                                (*factor, sum) = softmax_row(row, block.seen(at), block.keys, scale);
                                *sums.at((token + at) * heads + head, 1) = sum;
                            }
                            let results = output.at((token * heads + head) * width, width);
                            multiply(Part {
                                a: Side { start: weights, line: seen, depth: 1 },
                                lines: block.count,
                                b: scratch.values_packed.as_ptr(),
                                held: seen,
                                columns: width,
                                depth: block.keys,
                                results,
                                stride: heads * width,
                                begin: Begin::Zero,
                            });
                            for (at, factor) in factors.iter().enumerate().take(block.count) {
                                let result = output.at(((token + at) * heads + head) * width, width);
                                let result = std::slice::from_raw_parts_mut(result, width);
                                result.iter_mut().for_each(|number| *number *= factor);
                            }
                        }
                    }
                }
            }
        });
        Ok(())
    }

    pub(super) fn backward(
        shape: Shape,
        groups: &[Vec<Span>],
        [q, k, v]: [Place; 3],
        (passed, sums): (Place, &Tensor),
        [dq, dk, dv]: [Place; 3],
    ) -> Result<()> {
        let Shape { tokens, heads, key_heads, width, scale, causal } = shape;
        let Some(sums) = Numbers::of(sums).and_then(Numbers::float) else { return Err(unread()) };
        assert_eq!(sums.len(), tokens * heads);
        for_each_part(groups, key_heads, &|spans, key_head, scratch| {
            for &span in spans {
                let seen = span.keys();
                gather(k, key_head, span, width, &mut scratch.keys);
                gather(v, key_head, span, width, &mut scratch.values);
                let (keys, values) = (scratch.keys.as_ptr(), scratch.values.as_ptr());
                // SAFETY: both hold S W numbers.
                unsafe {
                    let by_token = |start| Side { start, line: width, depth: 1 };
                    pack(by_token(keys), (seen, width), &mut scratch.keys_by_token);
                    pack(by_token(values), (seen, width), &mut scratch.values_packed);
                    let by_width = Side { start: keys, line: 1, depth: width };
                    pack(by_width, (width, seen), &mut scratch.keys_by_width);
                }
                for sums in [&mut scratch.of_keys, &mut scratch.of_values] {
                    sums.clear();
                    sums.resize(seen * width, 0.0);
                }
                scratch.weights.resize(QUERIES * seen, 0.0);
                scratch.slopes.resize(QUERIES * seen, 0.0);
                let (weights, slopes) = (scratch.weights.as_mut_ptr(), scratch.slopes.as_mut_ptr());
                for head in (0..heads / key_heads).map(|at| key_head * (heads / key_heads) + at) {
                    for block in Block::all(span, causal) {
                        let (token, count) = (span.start + block.first, block.count);
                        let query = Side { start: q.at(token, head), line: q.token, depth: 1 };
                        let arrived = Side { start: passed.at(token, head), line: passed.token, depth: 1 };
                        // SAFETY: as in `forward`; the gradients of keys and values are this thread's own.
                        unsafe {
                            let with_keys = |a, b: &[u32], results| Part {
                                a,
                                lines: count,
                                b: b.as_ptr(),
                                held: width,
                                columns: block.keys,
                                depth: width,
                                results,
                                stride: seen,
                                begin: Begin::Zero,
                            };
                            multiply(with_keys(query, &scratch.keys_by_token, weights));
                            multiply(with_keys(arrived, &scratch.values_packed, slopes));
                            for at in 0..count {
                                let rows = (weights.add(at * seen), slopes.add(at * seen));
                                let sum = sums[(token + at) * heads + head];
                                slopes_row(rows, block.seen(at), block.keys, (scale, sum));
                            }
                            multiply(Part {
                                a: Side { start: slopes, line: seen, depth: 1 },
                                lines: count,
                                b: scratch.keys_by_width.as_ptr(),
                                held: seen,
                                columns: width,
                                depth: block.keys,
                                results: dq.at(token, head).cast_mut(),
                                stride: dq.token,
                                begin: Begin::Zero,
                            });
                            let across = |side: Side<f32>| Side { line: 1, depth: side.line, ..side };
                            pack(across(query), (width, count), &mut scratch.queries_packed);
                            pack(across(arrived), (width, count), &mut scratch.passed_packed);
                            let of_tokens = |weights: *const f32, b: &[u32], results: &mut [f32]| Part {
                                a: Side { start: weights, line: 1, depth: seen },
                                lines: block.keys,
                                b: b.as_ptr(),
                                held: count,
                                columns: width,
                                depth: count,
                                results: results.as_mut_ptr(),
                                stride: width,
                                begin: Begin::Add,
                            };
                            multiply(of_tokens(slopes, &scratch.queries_packed, &mut scratch.of_keys));
                            multiply(of_tokens(weights, &scratch.passed_packed, &mut scratch.of_values));
                        }
                    }
                }
                scatter(&scratch.of_keys, dk, key_head, span, width);
                scatter(&scratch.of_values, dv, key_head, span, width);
            }
        });
        Ok(())
    }

    /// Weights of the keys that are seen, zero for the rest up to `all`; one over their sum, and its logarithm.
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
    unsafe fn softmax_row(row: *mut f32, seen: usize, all: usize, scale: f32) -> (f32, f32) {
        unsafe {
            std::slice::from_raw_parts_mut(row.add(seen), all - seen).fill(0.0);
            softmax::<Avx512>(row, seen, scale)
        }
    }

    /// From scores and the gradients of weights, in place: the weights P, and the gradients of scores
    /// `scale P (dP - sum of P dP)`; both zero for keys that are not seen.
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
    unsafe fn slopes_row(
        (weights, slopes): (*mut f32, *mut f32),
        seen: usize,
        all: usize,
        (scale, sum): (f32, f32),
    ) {
        const N: usize = Avx512::N;
        unsafe {
            let whole = seen - seen % N;
            let (factor, base) = (Avx512::splat(scale), Avx512::splat(-sum));
            let mut lanes = Avx512::splat(0.0);
            for at in (0..whole).step_by(N) {
                let weight = exp::<Avx512>(Avx512::mul_add(Avx512::load(weights.add(at)), factor, base));
                Avx512::store(weights.add(at), weight);
                lanes = Avx512::mul_add(weight, Avx512::load(slopes.add(at)), lanes);
            }
            let mut mean = Avx512::sum(lanes);
            for at in whole..seen {
                let weight = (*weights.add(at) * scale - sum).exp();
                *weights.add(at) = weight;
                mean += weight * *slopes.add(at);
            }
            let less = Avx512::splat(-mean);
            for at in (0..whole).step_by(N) {
                let slope = Avx512::add(Avx512::load(slopes.add(at)), less);
                let weight = Avx512::mul(Avx512::load(weights.add(at)), factor);
                Avx512::store(slopes.add(at), Avx512::mul(weight, slope));
            }
            for at in whole..seen {
                *slopes.add(at) = *weights.add(at) * scale * (*slopes.add(at) - mean);
            }
            for row in [weights, slopes] {
                std::slice::from_raw_parts_mut(row.add(seen), all - seen).fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64], seed: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        let x = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 12.9898 + seed).sin() * 43.7;
        x.sin().view(shape).set_requires_grad(true)
    }

    fn off(a: &Tensor, b: &Tensor) -> f64 {
        ((a - b).abs().max() / b.abs().max()).double_value(&[])
    }

    fn row(start: usize, len: usize, continues: Option<(usize, usize)>) -> Row {
        let (context, past) = continues.map_or((Context::None, 0), |(of, past)| (Context::Row(of), past));
        Row { start, len, context, past }
    }

    /// The same by libtorch's operations, in float64.
    fn expected([q, k, v]: [&Tensor; 3], rows: &[Row], scale: f64, causal: bool) -> Tensor {
        let outputs = rows.iter().map(|row| {
            let part = |x: &Tensor| {
                let own = x.narrow(0, row.start as i64, row.len as i64);
                let whole = match row.context {
                    Context::Row(of) => {
                        let before = &rows[of];
                        Tensor::cat(&[x.narrow(0, before.start as i64, before.len as i64), own], 0)
                    }
                    _ => own,
                };
                let copies = q.size()[1] / x.size()[1];
                whole.to_kind(Kind::Double).repeat_interleave_self_int(copies, 1, None).transpose(0, 1)
            };
            let queries = q.narrow(0, row.start as i64, row.len as i64).to_kind(Kind::Double).transpose(0, 1);
            let mut scores = queries.matmul(&part(k).transpose(1, 2)) * scale;
            if causal {
                let hidden = Tensor::ones_like(&scores).triu(row.past as i64 + 1).to_kind(Kind::Bool);
                scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
            }
            scores.softmax(-1, None).matmul(&part(v)).transpose(0, 1)
        });
        Tensor::cat(&outputs.collect::<Vec<_>>(), 0)
    }

    fn check(rows: &[Row], (heads, key_heads, width): (i64, i64, i64), causal: bool) {
        let tokens = rows.iter().map(|row| row.len).sum::<usize>() as i64;
        let (q, k, v) = (
            random(&[tokens, heads, width], 1.0),
            random(&[tokens, key_heads, width], 2.0),
            random(&[tokens, key_heads, width], 3.0),
        );
        let Some(ours) = attend_rows(&Heads::Apart([&q, &k, &v]), rows, 0.3, causal).unwrap() else {
            return; // another processor
        };
        let theirs = expected([&q, &k, &v], rows, 0.3, causal);
        assert!(off(&ours, &theirs) < 1e-5, "{}", off(&ours, &theirs));
        let direction = random(&[tokens, heads, width], 4.0).detach();
        let gradients = |y: &Tensor| {
            Tensor::run_backward(&[(y * &direction).sum(Kind::Float)], &[&q, &k, &v], false, false)
        };
        let theirs = gradients(&theirs);
        for (ours, theirs) in gradients(&ours).iter().zip(&theirs) {
            assert!(off(ours, theirs) < 1e-5, "{rows:?}: {}", off(ours, theirs));
        }
        if heads == key_heads {
            let all = Tensor::stack(&[&q, &k, &v], 1).detach().set_requires_grad(true);
            let ours = attend_rows(&Heads::Together(&all), rows, 0.3, causal).unwrap().unwrap();
            let parts = Tensor::run_backward(&[ours * &direction], &[&all], false, false);
            for (ours, theirs) in parts[0].unbind(1).iter().zip(&theirs) {
                assert!(off(ours, theirs) < 1e-5);
            }
        }
    }

    #[test]
    fn values_and_gradients_equal_those_of_plain_operations() {
        let alone = [row(0, 1, None), row(1, 17, None), row(18, 200, None)];
        let shared =
            [row(0, 30, None), row(30, 5, Some((0, 30))), row(35, 1, Some((0, 30))), row(36, 12, None)];
        for causal in [true, false] {
            check(&alone, (3, 3, 20), causal);
            check(&alone, (4, 2, 64), causal);
        }
        check(&shared, (3, 3, 20), true);
        check(&shared, (4, 1, 33), true);
    }

    #[test]
    fn a_rows_bits_do_not_depend_on_the_rows_beside_it() {
        let x = random(&[50, 2, 16], 1.0).detach();
        let attend =
            |x: &Tensor, rows: &[Row]| attend_rows(&Heads::Apart([x, x, x]), rows, 0.3, true).unwrap();
        let Some(both) = attend(&x, &[row(0, 20, None), row(20, 30, None)]) else { return };
        assert_eq!(both.narrow(0, 20, 30), attend(&x.narrow(0, 20, 30), &[row(0, 30, None)]).unwrap());
    }

    #[test]
    fn rows_of_a_cache_that_holds_tokens_are_left_to_others() {
        let x = random(&[3, 2, 16], 1.0).detach();
        let rows = [Row { start: 0, len: 3, context: Context::Cached(0), past: 4 }];
        assert!(attend_rows(&Heads::Apart([&x, &x, &x]), &rows, 0.3, true).unwrap().is_none());
    }
}
