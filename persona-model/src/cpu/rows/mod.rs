//! Attention of whole rows, forward and backward: each row to its own tokens and those it continues, nothing padded.
//!
//! The weights of some queries with all keys they see stand in the core's cache at once; between forward and backward
//! only the logarithm of their sums is kept, as in FlashAttention (Dao et al. 2022).

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod kernels;

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::Output;
use super::matrix::Precision;
use crate::attention::Settings;
use crate::autograd;
use crate::batch::{Context, Row, continued};
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
#[derive(Debug, Clone)]
struct Span {
    start: usize,
    len: usize,
    /// How many tokens are continued.
    past: usize,
    /// The tokens that are seen: those continued, and the row's own.
    seen: Vec<Range<usize>>,
    /// The row's own tokens, by their places in it, that see them: from the first that is wanted to the last.
    queries: Range<usize>,
}

impl Span {
    fn keys(&self) -> usize {
        self.past + self.len
    }

    fn tokens(&self) -> impl Iterator<Item = usize> {
        self.seen.iter().cloned().flatten()
    }

    /// Whether another row continues the same tokens.
    fn is_sibling(&self, other: &Self) -> bool {
        self.past > 0
            && self.seen.split_last().map(|(_, seen)| seen) == other.seen.split_last().map(|(_, seen)| seen)
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
    precision: Precision,
}

/// Attends from every token to what its row holds up to it, or to the whole row where that is not causal; without dropout.
/// Rows of a cache have to begin it.
///
/// # Shapes
/// Returns `[N, H, W]`; None where libtorch has to compute it.
pub(crate) fn attend_rows(heads: &Heads<'_>, rows: &[Row], settings: Settings<'_>) -> Result<Option<Tensor>> {
    let Some(precision) = Precision::of(settings.kind) else { return Ok(None) };
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
    let wanted = settings.wanted.map(Vec::<i64>::try_from).transpose()?;
    let groups = groups(rows, tokens as usize, wanted.as_deref());
    let Some(groups) = groups.filter(|_| sizes_meet) else { return Ok(None) };
    let shape = Shape {
        tokens: tokens as usize,
        heads: q.heads,
        key_heads: k.heads,
        width: width as usize,
        scale: settings.scale as f32,
        causal: settings.causal,
        precision,
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
            let all = Tensor::f_empty([tokens, 3, shape.heads as i64, width], float)?;
            let parts = all.f_unbind(1)?;
            (Some(all), parts)
        } else {
            (None, parts.iter().map(|part| Tensor::f_empty(part.size(), float)).collect::<Result<_, _>>()?)
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

/// Rows that share tokens, which one thread takes at once where it adds to them; None for rows that continue a cache, and for
/// tokens of no row.
fn groups(rows: &[Row], tokens: usize, wanted: Option<&[i64]>) -> Option<Vec<Vec<Span>>> {
    let queries = queries(rows, wanted);
    let mut groups: Vec<Vec<Span>> = Vec::new();
    let mut of_row: Vec<usize> = Vec::with_capacity(rows.len());
    for (row, queries) in rows.iter().zip(queries) {
        let group = match row.context {
            Context::Row(of) => *of_row.get(of)?,
            Context::Cached(_) if row.past > 0 => return None,
            Context::None | Context::Cached(_) => groups.len(),
        };
        of_row.push(group);
        let before = continued(rows, row).into_iter().filter_map(|of| rows.get(of));
        let seen: Vec<_> = before.chain([row]).map(|row| row.start..row.start + row.len).collect();
        let span = Span { start: row.start, len: row.len, past: row.past, seen, queries };
        if span.tokens().count() != span.keys() || row.start + row.len > tokens {
            return None;
        }
        match groups.get_mut(group) {
            Some(group) => group.push(span),
            None => groups.push(vec![span]),
        }
    }
    let held: usize = rows.iter().map(|row| row.len).sum();
    (held == tokens).then_some(groups)
}

/// Of each row the places from the first wanted token to the last.
fn queries(rows: &[Row], wanted: Option<&[i64]>) -> Vec<Range<usize>> {
    let Some(wanted) = wanted else { return rows.iter().map(|row| 0..row.len).collect() };
    let mut queries = vec![0..0; rows.len()];
    for token in wanted.iter().filter_map(|&token| usize::try_from(token).ok()) {
        // Rows stand one behind the other.
        let at = rows.partition_point(|row| row.start + row.len <= token);
        if let (Some(held), Some(row)) = (queries.get_mut(at), rows.get(at)) {
            let place = token - row.start;
            let Range { start, end } = *held;
            *held = if start == end { place..place + 1 } else { start.min(place)..end.max(place + 1) };
        }
    }
    queries
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: Kind, causal: bool) -> Settings<'static> {
        Settings { scale: 0.3, dropout: 0.0, causal, kind, wanted: None }
    }

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
                    Context::Row(_) => {
                        let before = continued(rows, row).into_iter().map(|of| &rows[of]);
                        let part = |row: &Row| x.narrow(0, row.start as i64, row.len as i64);
                        Tensor::cat(&before.map(part).chain([own]).collect::<Vec<_>>(), 0)
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

    fn check(
        rows: &[Row],
        (heads, key_heads, width): (i64, i64, i64),
        causal: bool,
        (kind, tolerance): (Kind, f64),
    ) {
        let tokens = rows.iter().map(|row| row.len).sum::<usize>() as i64;
        let (q, k, v) = (
            random(&[tokens, heads, width], 1.0),
            random(&[tokens, key_heads, width], 2.0),
            random(&[tokens, key_heads, width], 3.0),
        );
        let Some(ours) = attend_rows(&Heads::Apart([&q, &k, &v]), rows, settings(kind, causal)).unwrap()
        else {
            return; // another processor
        };
        let theirs = expected([&q, &k, &v], rows, 0.3, causal);
        assert!(off(&ours, &theirs) < tolerance, "{}", off(&ours, &theirs));
        let direction = random(&[tokens, heads, width], 4.0).detach();
        let gradients = |y: &Tensor| {
            Tensor::run_backward(&[(y * &direction).sum(Kind::Float)], &[&q, &k, &v], false, false)
        };
        let theirs = gradients(&theirs);
        for (ours, theirs) in gradients(&ours).iter().zip(&theirs) {
            assert!(off(ours, theirs) < tolerance, "{rows:?}: {}", off(ours, theirs));
        }
        if heads == key_heads {
            let all = Tensor::stack(&[&q, &k, &v], 1).detach().set_requires_grad(true);
            let ours = attend_rows(&Heads::Together(&all), rows, settings(kind, causal)).unwrap().unwrap();
            let parts = Tensor::run_backward(&[ours * &direction], &[&all], false, false);
            for (ours, theirs) in parts[0].unbind(1).iter().zip(&theirs) {
                assert!(off(ours, theirs) < tolerance);
            }
        }
    }

    #[test]
    fn values_and_gradients_equal_those_of_plain_operations() {
        let alone = [row(0, 1, None), row(1, 17, None), row(18, 200, None)];
        let shared =
            [row(0, 30, None), row(30, 5, Some((0, 30))), row(35, 1, Some((0, 30))), row(36, 12, None)];
        // Two rows of the third generation, one of the second, and one that stands alone between them.
        let tree = [
            row(0, 40, None),
            row(40, 110, Some((0, 40))),
            row(150, 7, None),
            row(157, 5, Some((1, 150))),
            row(162, 9, Some((0, 40))),
            row(171, 1, Some((1, 150))),
        ];
        for kind in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            for causal in [true, false] {
                check(&alone, (3, 3, 20), causal, kind);
                check(&alone, (4, 2, 64), causal, kind);
            }
            check(&shared, (3, 3, 20), true, kind);
            check(&shared, (4, 1, 33), true, kind);
            check(&tree, (3, 3, 20), true, kind);
            check(&tree, (4, 2, 64), true, kind);
        }
    }

    #[test]
    fn rows_that_continue_the_same_tokens_do_not_meet() {
        let family = |past: usize, lens: &[usize]| {
            let mut rows = vec![row(0, past, None)];
            let mut start = past;
            for &len in lens.iter().chain(lens) {
                rows.push(row(start, len, Some((0, past))));
                start += len;
            }
            rows
        };
        for kind in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            check(&family(70, &[20, 40, 1, 100]), (2, 1, 20), true, kind);
            check(&family(64, &[33, 1]), (2, 2, 33), true, kind);
            check(&family(31, &[2, 1, 70, 3, 4]), (1, 1, 16), true, kind);
        }
    }

    #[test]
    fn queries_reach_from_the_first_wanted_token_of_a_row_to_the_last() {
        let rows = [row(0, 4, None), row(4, 1, None), row(5, 6, None)];
        assert_eq!(queries(&rows, None), [0..4, 0..1, 0..6]);
        assert_eq!(queries(&rows, Some(&[8, 3, 6, 8])), [3..4, 0..0, 1..4]);
        assert_eq!(queries(&rows, Some(&[11, -1])), [0..0, 0..0, 0..0]);
    }

    #[test]
    fn a_rows_bits_do_not_depend_on_the_rows_beside_it() {
        let x = random(&[50, 2, 16], 1.0).detach();
        let attend = |x: &Tensor, rows: &[Row]| {
            attend_rows(&Heads::Apart([x, x, x]), rows, settings(Kind::Float, true)).unwrap()
        };
        let Some(both) = attend(&x, &[row(0, 20, None), row(20, 30, None)]) else { return };
        assert_eq!(both.narrow(0, 20, 30), attend(&x.narrow(0, 20, 30), &[row(0, 30, None)]).unwrap());
    }

    #[test]
    fn what_is_not_a_number_reaches_those_who_see_it() {
        for (len, bad) in [(3, 1), (40, 20), (40, 39)] {
            let [q, k, v] = [1.0, 2.0, 3.0].map(|seed| random(&[len, 1, 16], seed).detach());
            let attend = |k: &Tensor| {
                let heads = [&q, k, &v].map(|x| x.detach().set_requires_grad(true));
                let [q, k, v] = &heads;
                let rows = [row(0, len as usize, None)];
                let y = attend_rows(&Heads::Apart([q, k, v]), &rows, settings(Kind::Float, true)).unwrap()?;
                let slopes = Tensor::run_backward(&[y.sum(Kind::Float)], &[q], false, false).remove(0);
                Some([y.detach(), slopes])
            };
            let Some(good) = attend(&k) else { return };
            let broken = k.copy();
            let _ = broken.get(bad).fill_(f64::NAN);
            let broken = attend(&broken).unwrap();
            assert_eq!(good[0].narrow(0, 0, bad), broken[0].narrow(0, 0, bad));
            for broken in &broken {
                let seen = broken.narrow(0, bad, len - bad).isnan().all();
                assert!(bool::try_from(seen).unwrap(), "{len} {bad}");
            }
        }
    }

    #[test]
    fn rows_of_a_cache_that_holds_tokens_are_left_to_others() {
        let x = random(&[3, 2, 16], 1.0).detach();
        let rows = [Row { start: 0, len: 3, context: Context::Cached(0), past: 4 }];
        assert!(
            attend_rows(&Heads::Apart([&x, &x, &x]), &rows, settings(Kind::Float, true)).unwrap().is_none()
        );
    }
}
