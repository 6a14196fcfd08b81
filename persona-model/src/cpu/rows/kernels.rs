//! One row and one key head at a time, forward and backward.

use std::cell::RefCell;
use std::ops::Range;

use tch::Tensor;

use super::{Output, Place, Precision, Shape, Span, unread};
use crate::cpu::Numbers;
use crate::cpu::exp::{exp, softmax};
use crate::cpu::lanes::{Avx512, Lanes};
use crate::cpu::matrix::pack::Side;
use crate::cpu::matrix::tile::{BLOCK_LINES, COLUMNS, LINES, Part, bfloat16, float, with_room};
use crate::cpu::panel::Begin;
use crate::error::Result;
use crate::threads;

/// Queries that meet their keys at once.
const QUERIES: usize = 72;

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
    /// Gradients of a family's keys and values, `[S, W]`; zero between families.
    of_keys: Vec<f32>,
    of_values: Vec<f32>,
}

fn for_each_part(parts: &[&[Span]], heads: usize, run: &(dyn Fn(&[Span], usize, &mut Scratch) + Sync)) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    threads::for_each(parts.len() * heads, &|part| {
        SCRATCH.with_borrow_mut(|scratch| run(parts[part / heads], part % heads, scratch));
    });
}

/// Rows that follow each other and continue the same tokens, which are then copied and packed once; some of them, so that
/// threads have enough families.
fn families(spans: &[Span]) -> impl Iterator<Item = &[Span]> {
    const ROWS: usize = 8;
    spans.chunk_by(Span::is_sibling).flat_map(|family| family.chunks(ROWS))
}

/// A row of a family.
struct Turn<'a> {
    span: &'a Span,
    /// Tokens that are packed as the row before left them: whole panels.
    kept: usize,
    /// The most tokens that a row of the family sees.
    longest: usize,
    last: bool,
}

/// The rows of a family that have queries.
fn turns(family: &[Span]) -> impl Iterator<Item = Turn<'_>> {
    let longest = family.iter().map(Span::keys).max().unwrap_or(0);
    let spans = family.iter().filter(|span| !span.queries.is_empty());
    let count = spans.clone().count();
    spans.enumerate().map(move |(at, span)| {
        let kept = if at == 0 { 0 } else { span.past / COLUMNS * COLUMNS };
        Turn { span, kept, longest, last: at + 1 == count }
    })
}

/// Copies the tokens that a row sees, but for those that are there: `[S, W]`.
fn gather(from: Place, head: usize, (span, kept): (&Span, usize), width: usize, to: &mut Vec<f32>) {
    to.truncate(kept * width);
    for token in span.tokens().skip(kept) {
        // SAFETY: spans lie within the tokens of the tensor, each of which has W numbers a head.
        to.extend_from_slice(unsafe { std::slice::from_raw_parts(from.at(token, head), width) });
    }
}

/// Adds what belongs to some of the tokens that a row sees to where they lie, and leaves zero.
fn scatter(from: &mut [f32], to: Place, head: usize, (span, some): (&Span, Range<usize>), width: usize) {
    let from = &mut from[some.start * width..some.end * width];
    for (token, from) in span.tokens().skip(some.start).zip(from.chunks_exact_mut(width)) {
        // SAFETY: as in `gather`; no other thread has this head of these tokens.
        let to = unsafe { std::slice::from_raw_parts_mut(to.at(token, head).cast_mut(), width) };
        to.iter_mut().zip(&*from).for_each(|(to, from)| *to += from);
        from.fill(0.0);
    }
}

impl Precision {
    /// Packs these lines of a factor, in this depth, where panels hold `held` units. Lines and depth begin where a panel and a
    /// unit do, and what stands before them stays.
    ///
    /// # Safety
    /// The factor has them, and the processor the precision's instructions.
    unsafe fn pack(
        self,
        from: Side<f32>,
        (lines, depth): (Range<usize>, Range<usize>),
        held: usize,
        to: &mut Vec<u32>,
    ) {
        let (panels, size) = (lines.end.div_ceil(COLUMNS), COLUMNS * held);
        to.resize(panels * size, 0);
        for panel in lines.start / COLUMNS..panels {
            let line = panel * COLUMNS;
            let to = to[panel * size..][..size][COLUMNS * self.units(depth.start)..].as_mut_ptr();
            let (from, lines) = (from.at(line, depth.start), (lines.end - line).min(COLUMNS));
            // SAFETY: the place has room for the panel; the rest is the caller's word.
            unsafe {
                match self {
                    Self::Float => float::panel(from, lines, depth.len(), to),
                    Self::BFloat16 => bfloat16::panel(from, lines, depth.len(), to),
                }
            }
        }
    }

    /// As [`float::compute`], for any number of lines.
    unsafe fn multiply(self, part: Part<f32>) {
        with_room(|room| {
            for line in (0..part.lines).step_by(BLOCK_LINES) {
                let lines = (part.lines - line).min(BLOCK_LINES);
                let results = part.results.wrapping_add(line * part.stride);
                let part = Part { a: part.a.at(line, 0), lines, results, ..part };
                // SAFETY: a part of what the caller answers for.
                unsafe {
                    match self {
                        Self::Float => float::compute(part, room),
                        Self::BFloat16 => bfloat16::compute(part, room),
                    }
                }
            }
        });
    }
}

/// Some queries of a row: the first of them, how many, and how many keys each of them sees.
struct Block {
    first: usize,
    count: usize,
    causal_from: Option<usize>,
    keys: usize,
}

impl Block {
    fn all(span: &Span, causal: bool) -> impl Iterator<Item = Self> {
        let Range { start, end } = span.queries;
        // All about as high: what a block's first queries do not see is computed for nothing.
        let blocks = (end - start).div_ceil(QUERIES).max(1);
        let high = (end - start).div_ceil(blocks).next_multiple_of(LINES).clamp(LINES, QUERIES);
        (start..end).step_by(high).map(move |first| {
            let count = (end - first).min(high);
            let causal_from = causal.then_some(span.past + first);
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
    let Shape { heads, key_heads, width, scale, causal, precision, .. } = shape;
    let rows: Vec<&[Span]> = groups.iter().flat_map(|group| families(group)).collect();
    for_each_part(&rows, key_heads, &|family, key_head, scratch| {
        for Turn { span, kept, longest, .. } in turns(family) {
            let (seen, held) = (span.keys(), precision.units(longest));
            gather(k, key_head, (span, kept), width, &mut scratch.keys);
            gather(v, key_head, (span, kept), width, &mut scratch.values);
            let by_token = Side { start: scratch.keys.as_ptr(), line: width, depth: 1 };
            let by_width = Side { start: scratch.values.as_ptr(), line: 1, depth: width };
            // SAFETY: both hold S W numbers.
            unsafe {
                let by_unit = precision.units(width);
                precision.pack(by_token, (kept..seen, 0..width), by_unit, &mut scratch.keys_by_token);
                precision.pack(by_width, (0..width, kept..seen), held, &mut scratch.values_packed);
            }
            scratch.weights.resize(QUERIES * seen, 0.0);
            let weights = scratch.weights.as_mut_ptr();
            for head in (0..heads / key_heads).map(|at| key_head * (heads / key_heads) + at) {
                for block in Block::all(span, causal) {
                    let token = span.start + block.first;
                    // SAFETY: the block's queries lie in the row, its weights in the scratch, and its results are
                    // those of tokens and a head that no other part has.
                    unsafe {
                        precision.multiply(Part {
                            a: Side { start: q.at(token, head), line: q.token, depth: 1 },
                            lines: block.count,
                            b: scratch.keys_by_token.as_ptr(),
                            held: precision.units(width),
                            columns: block.keys,
                            depth: width,
                            results: weights,
                            stride: seen,
                            transposed: false,
                            begin: Begin::Zero,
                            next: None,
                        });
                        let mut factors = [0.0; QUERIES];
                        for (at, factor) in factors.iter_mut().enumerate().take(block.count) {
                            let row = weights.add(at * seen);
                            let sum;
                            (*factor, sum) = softmax_row(row, block.seen(at), block.keys, scale);
                            *sums.at((token + at) * heads + head, 1) = sum;
                        }
                        let results = output.at((token * heads + head) * width, width);
                        precision.multiply(Part {
                            a: Side { start: weights, line: seen, depth: 1 },
                            lines: block.count,
                            b: scratch.values_packed.as_ptr(),
                            held,
                            columns: width,
                            depth: block.keys,
                            results,
                            stride: heads * width,
                            transposed: false,
                            begin: Begin::Zero,
                            next: None,
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
    let Shape { tokens, heads, key_heads, width, scale, causal, precision } = shape;
    let Some(sums) = Numbers::of(sums).and_then(Numbers::float) else { return Err(unread()) };
    assert_eq!(sums.len(), tokens * heads);
    let groups: Vec<&[Span]> = groups.iter().map(Vec::as_slice).collect();
    for_each_part(&groups, key_heads, &|spans, key_head, scratch| {
        let of_queries = key_head * (heads / key_heads)..(key_head + 1) * (heads / key_heads);
        for token in spans.iter().flat_map(|span| span.start..span.start + span.len) {
            let queries = of_queries.clone().map(|head| dq.at(token, head));
            for start in queries.chain([dk.at(token, key_head), dv.at(token, key_head)]) {
                // SAFETY: as in `gather`; no other thread has these heads of this token.
                unsafe { start.cast_mut().write_bytes(0, width) };
            }
        }
        for Turn { span, kept, longest, last } in families(spans).flat_map(turns) {
            let (seen, held) = (span.keys(), precision.units(longest));
            gather(k, key_head, (span, kept), width, &mut scratch.keys);
            gather(v, key_head, (span, kept), width, &mut scratch.values);
            let (keys, values) = (scratch.keys.as_ptr(), scratch.values.as_ptr());
            // SAFETY: both hold S W numbers.
            unsafe {
                let by_token = |start| Side { start, line: width, depth: 1 };
                let (by_unit, new) = (precision.units(width), (kept..seen, 0..width));
                precision.pack(by_token(keys), new.clone(), by_unit, &mut scratch.keys_by_token);
                precision.pack(by_token(values), new, by_unit, &mut scratch.values_packed);
                let by_width = Side { start: keys, line: 1, depth: width };
                precision.pack(by_width, (0..width, kept..seen), held, &mut scratch.keys_by_width);
            }
            for sums in [&mut scratch.of_keys, &mut scratch.of_values] {
                sums.resize(sums.len().max(longest * width), 0.0);
            }
            scratch.weights.resize(QUERIES * seen, 0.0);
            scratch.slopes.resize(QUERIES * seen, 0.0);
            let (weights, slopes) = (scratch.weights.as_mut_ptr(), scratch.slopes.as_mut_ptr());
            for head in of_queries.clone() {
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
                            held: precision.units(width),
                            columns: block.keys,
                            depth: width,
                            results,
                            stride: seen,
                            transposed: false,
                            begin: Begin::Zero,
                            next: None,
                        };
                        precision.multiply(with_keys(query, &scratch.keys_by_token, weights));
                        precision.multiply(with_keys(arrived, &scratch.values_packed, slopes));
                        for at in 0..count {
                            let rows = (weights.add(at * seen), slopes.add(at * seen));
                            let sum = sums[(token + at) * heads + head];
                            slopes_row(rows, block.seen(at), block.keys, (scale, sum));
                        }
                        precision.multiply(Part {
                            a: Side { start: slopes, line: seen, depth: 1 },
                            lines: count,
                            b: scratch.keys_by_width.as_ptr(),
                            held,
                            columns: width,
                            depth: block.keys,
                            results: dq.at(token, head).cast_mut(),
                            stride: dq.token,
                            transposed: false,
                            begin: Begin::Zero,
                            next: None,
                        });
                        let across = |side: Side<f32>| Side { line: 1, depth: side.line, ..side };
                        let (all, by_unit) = ((0..width, 0..count), precision.units(count));
                        precision.pack(across(query), all.clone(), by_unit, &mut scratch.queries_packed);
                        precision.pack(across(arrived), all, by_unit, &mut scratch.passed_packed);
                        let of_tokens = |weights: *const f32, b: &[u32], results: &mut [f32]| Part {
                            a: Side { start: weights, line: 1, depth: seen },
                            lines: block.keys,
                            b: b.as_ptr(),
                            held: precision.units(count),
                            columns: width,
                            depth: count,
                            results: results.as_mut_ptr(),
                            stride: width,
                            transposed: false,
                            begin: Begin::Add,
                            next: None,
                        };
                        precision.multiply(of_tokens(slopes, &scratch.queries_packed, &mut scratch.of_keys));
                        precision.multiply(of_tokens(
                            weights,
                            &scratch.passed_packed,
                            &mut scratch.of_values,
                        ));
                    }
                }
            }
            let some = if last { 0..seen } else { span.past..seen };
            scatter(&mut scratch.of_keys, dk, key_head, (span, some.clone()), width);
            scatter(&mut scratch.of_values, dv, key_head, (span, some), width);
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
        // What fills no register; zeros beyond.
        let (rest, mut last, mut passed) = (seen - whole, [f32::NEG_INFINITY; N], [0.0; N]);
        std::ptr::copy_nonoverlapping(weights.add(whole), last.as_mut_ptr(), rest);
        std::ptr::copy_nonoverlapping(slopes.add(whole), passed.as_mut_ptr(), rest);
        let weight = exp::<Avx512>(Avx512::mul_add(Avx512::load(last.as_ptr()), factor, base));
        Avx512::store(last.as_mut_ptr(), weight);
        last[rest..].fill(0.0);
        lanes = Avx512::mul_add(Avx512::load(last.as_ptr()), Avx512::load(passed.as_ptr()), lanes);
        std::ptr::copy_nonoverlapping(last.as_ptr(), weights.add(whole), rest);
        let mean = Avx512::sum(lanes);
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
