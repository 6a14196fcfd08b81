//! Products of matrices of many rows, in float32, or with factors rounded to bfloat16 and sums in float32.
//!
//! libtorch has float32 products of AVX2 on processors that are not Intel's, and for bfloat16 wants tensors cast before
//! and after, and keeps compiled code for every shape it meets. This kernel reads float32 and bfloat16 alike and rounds
//! while it packs. Every number of a result is summed in one order, whatever the number of threads.

#[cfg(target_arch = "x86_64")]
pub(super) mod pack;
#[cfg(target_arch = "x86_64")]
pub(super) mod tile;

use tch::{Kind, Tensor};

use super::{Numbers, Output};

/// One factor of a product, each of whose lines is summed over with each of the other's.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    numbers: Numbers<'a>,
    lines: usize,
    depth: usize,
    /// Whether a line's numbers lie beside each other, or those of one depth.
    by_line: bool,
}

impl<'a> Factor<'a> {
    /// The rows of a contiguous matrix; None for what the kernel does not read.
    pub(super) fn rows(matrix: &'a Tensor) -> Option<Self> {
        let &[lines, depth] = &matrix.size()[..] else { return None };
        let numbers = Numbers::of(matrix)?;
        Some(Self { numbers, lines: lines as usize, depth: depth as usize, by_line: true })
    }

    /// Its columns.
    pub(super) fn columns(matrix: &'a Tensor) -> Option<Self> {
        let Self { numbers, lines, depth, .. } = Self::rows(matrix)?;
        Some(Self { numbers, lines: depth, depth: lines, by_line: false })
    }
}

/// What factors are multiplied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Float,
    BFloat16,
}

impl Precision {
    /// What a lane multiplies at once, of so much depth.
    pub(super) fn units(self, depth: usize) -> usize {
        if self == Self::BFloat16 { depth.div_ceil(2) } else { depth }
    }

    /// Of a compute kind on this processor; None where libtorch's products are the faster ones or the only ones.
    pub(super) fn of(kind: Kind) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let float = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            // Where there are units for tiles, libtorch uses them.
            let pairs = is_x86_feature_detected!("avx512bf16") && !has_tile_units();
            match kind {
                Kind::Float if float => Some(Self::Float),
                Kind::BFloat16 if float && pairs => Some(Self::BFloat16),
                _ => None,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = kind;
            None
        }
    }
}

/// Whether the processor has AMX with bfloat16: bit 22 of EDX, leaf 7.
#[cfg(target_arch = "x86_64")]
fn has_tile_units() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    // The instruction leaves a virtual machine for its host: once is enough.
    static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *FOUND.get_or_init(|| __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 22 & 1 == 1)
}

/// `y[m][n] = sum over k of a[m][k] b[n][k]`, plus a bias a column. `y` is `[M, N]`, contiguous float32. Returns whether it
/// was computed.
pub(super) fn multiply(
    a: Factor<'_>,
    b: Factor<'_>,
    bias: Option<&[f32]>,
    precision: Precision,
    y: &mut Tensor,
) -> bool {
    assert!(a.depth == b.depth && bias.is_none_or(|bias| bias.len() == b.lines), "factors of one depth");
    let Some(y) = Output::of(y) else { return false };
    assert_eq!(y.len, a.lines * b.lines);
    compute(a, b, bias, precision, y)
}

#[cfg(not(target_arch = "x86_64"))]
fn compute(_: Factor<'_>, _: Factor<'_>, _: Option<&[f32]>, _: Precision, _: Output) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn compute(a: Factor<'_>, b: Factor<'_>, bias: Option<&[f32]>, precision: Precision, y: Output) -> bool {
    use Numbers::{BFloat16, Float};
    // The factor of more lines is packed where it is used, in a core's cache; the other one is packed before and stays.
    let transposed = bias.is_none() && a.lines >= blocked::FEWEST && a.lines < b.lines;
    let (a, b) = if transposed { (b, a) } else { (a, b) };
    let to = blocked::Results { y, transposed };
    match (a.numbers, b.numbers) {
        (Float(x), Float(z)) => blocked::product((a, x), (b, z), bias, precision, to),
        (Float(x), BFloat16(z)) => blocked::product((a, x), (b, z), bias, precision, to),
        (BFloat16(x), Float(z)) => blocked::product((a, x), (b, z), bias, precision, to),
        (BFloat16(x), BFloat16(z)) => blocked::product((a, x), (b, z), bias, precision, to),
    }
    true
}

#[cfg(target_arch = "x86_64")]
mod blocked {
    use std::cell::RefCell;

    use super::pack::{Element, Side};
    use super::tile::{BLOCK_LINES, COLUMNS, LINES, Part, bfloat16, float, with_room};
    use super::{Factor, Output, Precision};
    use crate::cpu::panel::Begin;
    use crate::threads;

    /// Numbers of the second factor that are packed at once.
    const PACKED: usize = 1 << 21;
    /// Products up to which one thread is as fast as several.
    const LITTLE: usize = 1 << 17;
    /// Parts for each thread: what one waits for another at the end is a share of this.
    const PARTS: usize = 6;
    /// Panels that a thread packs at once, at most.
    const PANELS: usize = 8;

    /// Lines of a factor that is packed before, at least, where it could be either: they come in panels.
    pub(super) const FEWEST: usize = 4 * COLUMNS;

    /// Where a product goes, or its transpose.
    #[derive(Clone, Copy)]
    pub(super) struct Results {
        pub(super) y: Output,
        pub(super) transposed: bool,
    }

    thread_local! {
        static SECOND: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }

    fn side<T>(factor: Factor<'_>, numbers: &[T]) -> Side<T> {
        assert_eq!(numbers.len(), factor.lines * factor.depth);
        let (line, depth) = if factor.by_line { (factor.depth, 1) } else { (1, factor.lines) };
        Side { start: numbers.as_ptr(), line, depth }
    }

    /// Some columns at a time: the second factor's are packed by all threads, then multiplied with blocks of the first.
    #[allow(unsafe_code)]
    pub(super) fn product<A: Element, B: Element>(
        (a, x): (Factor<'_>, &[A]),
        (b, z): (Factor<'_>, &[B]),
        bias: Option<&[f32]>,
        precision: Precision,
        to: Results,
    ) {
        let (lines, columns, depth) = (a.lines, b.lines, a.depth);
        let (first, second) = (side(a, x), side(b, z));
        let units = precision.units(depth);
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
        let alone = threads == 1 || lines * columns * depth <= LITTLE;
        let each = |parts: usize, run: &(dyn Fn(usize) + Sync)| match alone {
            true => (0..parts).for_each(run),
            false => threads::for_each(parts, run),
        };
        // Blocks of whole strips, all about as high, and as many for one thread as for another.
        let strips = lines.div_ceil(LINES);
        let blocks = strips.div_ceil(BLOCK_LINES / LINES);
        let blocks = if alone { blocks } else { blocks.next_multiple_of(threads).min(strips) };
        let block = |at: usize| {
            let (first, end) = (at * strips / blocks * LINES, (at + 1) * strips / blocks * LINES);
            (first, end.min(lines) - first)
        };
        let panels = columns.div_ceil(COLUMNS);
        let chunk = (PACKED / (units * COLUMNS)).clamp(1, panels);
        SECOND.with_borrow_mut(|packed| {
            let size = chunk * units * COLUMNS;
            if packed.len() < size {
                packed.resize(size, 0);
            }
            let packed = Packed(packed.as_mut_ptr());
            for begin in (0..panels).step_by(chunk) {
                let count = (panels - begin).min(chunk);
                let beside = (count / (2 * threads)).clamp(1, PANELS);
                each(count.div_ceil(beside), &|part| {
                    let panels = part * beside..((part + 1) * beside).min(count);
                    let packed_depth = second.packed_depth();
                    for (at, panel) in (0..depth)
                        .step_by(packed_depth)
                        .flat_map(|at| panels.clone().map(move |panel| (at, panel)))
                    {
                        let column = (begin + panel) * COLUMNS;
                        let (from, held) = (second.at(column, at), (columns - column).min(COLUMNS));
                        let (depth, unit) = ((depth - at).min(packed_depth), precision.units(at));
                        // SAFETY: a processor with this precision has the instructions. The lines and the depth are the
                        // factor's, and every panel has its own place among the `chunk` that there is room for.
                        unsafe {
                            let to = packed.at((panel * units + unit) * COLUMNS);
                            match precision {
                                Precision::Float => float::panel(from, held, depth, to),
                                Precision::BFloat16 => bfloat16::panel(from, held, depth, to),
                            }
                        }
                    }
                });
                let groups = if alone { 1 } else { (PARTS * threads).div_ceil(blocks).min(count) };
                let wide = count.div_ceil(groups);
                let groups = count.div_ceil(wide);
                each(blocks * groups, &|part| {
                    let ((line, height), panel) = (block(part / groups), part % groups * wide);
                    // Threads take parts in turn.
                    let next = part + if alone { 1 } else { threads };
                    let next = (next < blocks * groups).then(|| block(next / groups));
                    let column = (begin + panel) * COLUMNS;
                    let end = columns.min((begin + (panel + wide).min(count)) * COLUMNS);
                    let width = end - column;
                    let (rows, stride, row, place, across) = match to.transposed {
                        true => (width, lines, column, line, height),
                        false => (height, columns, line, column, width),
                    };
                    let part = Part {
                        a: first.at(line, 0),
                        lines: height,
                        // SAFETY: the panel is one of those that were packed.
                        b: unsafe { packed.at(panel * units * COLUMNS) },
                        held: units,
                        columns: width,
                        depth,
                        results: to.y.at(row * stride + place, (rows - 1) * stride + across),
                        stride,
                        transposed: to.transposed,
                        next: next.map(|(line, height)| (first.at(line, 0), height)),
                        begin: bias.map_or(Begin::Zero, |bias| Begin::Bias(bias[column..].as_ptr())),
                    };
                    with_room(|block| {
                        // SAFETY: as above; every part has results of its own, and the bias has a number a column.
                        unsafe {
                            match precision {
                                Precision::Float => float::compute(part, block),
                                Precision::BFloat16 => bfloat16::compute(part, block),
                            }
                        }
                    });
                });
            }
        });
    }

    /// Where packed panels lie.
    #[derive(Clone, Copy)]
    struct Packed(*mut u32);

    // SAFETY: threads write to panels of their own, and read when all have been written.
    #[allow(unsafe_code)]
    unsafe impl Sync for Packed {}

    impl Packed {
        #[allow(unsafe_code)]
        unsafe fn at(self, index: usize) -> *mut u32 {
            unsafe { self.0.add(index) }
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn random(shape: [i64; 2], seed: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        ((Tensor::arange(count, (Kind::Float, Device::Cpu)) * 12.9898 + seed).sin() * 43.7).sin().view(shape)
    }

    fn largest(x: &Tensor) -> f64 {
        x.abs().max().double_value(&[])
    }

    #[test]
    fn products_equal_libtorchs_in_every_shape_order_and_kind() {
        let sizes = [
            (1, 1, 1),
            (5, 7, 3),
            (12, 32, 16),
            (13, 33, 17),
            (150, 70, 129),
            (37, 200, 1000),
            (300, 65, 90),
            (130, 170, 1700),
        ];
        for (m, n, k) in sizes {
            for (kind, precision) in [(Kind::Float, Precision::Float), (Kind::BFloat16, Precision::BFloat16)]
            {
                if Precision::of(kind).is_none() {
                    continue;
                }
                let (a, b) = (random([m, k], 1.0), random([n, k], 2.0));
                let bias: Vec<f32> = Vec::try_from(random([1, n], 3.0).view(-1)).unwrap();
                let wide = |x: &Tensor| x.to_kind(kind).to_kind(Kind::Double);
                let expected = wide(&a).mm(&wide(&b).tr());
                let (at, bt) = (a.tr().contiguous(), b.tr().contiguous());
                let (ah, bh) = (a.to_kind(Kind::BFloat16), b.to_kind(Kind::BFloat16));
                let check = |a: Factor<'_>, b: Factor<'_>, bias: Option<&[f32]>, expected: &Tensor| {
                    let mut y = Tensor::full([m, n], 7.0, (Kind::Float, Device::Cpu));
                    assert!(multiply(a, b, bias, precision, &mut y));
                    let mut expected = expected.copy();
                    if let Some(bias) = bias {
                        expected += Tensor::from_slice(bias);
                    }
                    let off = largest(&(y.to_kind(Kind::Double) - &expected)) / largest(&expected);
                    assert!(off < 1e-5, "{m} x {n} x {k} {precision:?}: {off}");
                };
                let (rows, columns) = (|x| Factor::rows(x).unwrap(), |x| Factor::columns(x).unwrap());
                check(rows(&a), rows(&b), None, &expected);
                check(rows(&a), columns(&bt), Some(&bias), &expected);
                check(columns(&at), columns(&bt), None, &expected);
                check(columns(&at), rows(&b), Some(&bias), &expected);
                let halves = ah.to_kind(Kind::Double).mm(&bh.to_kind(Kind::Double).tr());
                check(rows(&ah), rows(&bh), None, &halves);
                let mixed = wide(&a).mm(&bh.to_kind(Kind::Double).tr());
                check(rows(&a), columns(&bh.tr().contiguous()), None, &mixed);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads_or_the_rows_beside() {
        let Some(precision) = Precision::of(Kind::Float) else { return };
        let (a, b) = (random([200, 700], 1.0), random([300, 700], 2.0));
        let with = |a: &Tensor| {
            let mut y = Tensor::empty([a.size()[0], 300], (Kind::Float, Device::Cpu));
            let done = multiply(Factor::rows(a).unwrap(), Factor::rows(&b).unwrap(), None, precision, &mut y);
            assert!(done);
            y
        };
        let threads = tch::get_num_threads();
        let whole = with(&a);
        tch::set_num_threads(1);
        let alone = with(&a);
        tch::set_num_threads(threads);
        assert_eq!(whole, alone);
        assert_eq!(whole.narrow(0, 50, 31), with(&a.narrow(0, 50, 31)));
    }
}
