//! The kernel: tiles of a product from packed factors.

use core::arch::x86_64::*;

use super::pack::{Element, Pair, Side, Single, Unit, first, pack};

/// Lines of the first factor that a tile holds, and of the second (its columns): 24 registers of sums.
pub(super) const LINES: usize = 12;
pub(super) const COLUMNS: usize = 32;

/// Lines and units of the first factor that are packed at once: they stay in a core's own cache.
pub(super) const BLOCK_LINES: usize = 144;
pub(super) const BLOCK_UNITS: usize = 384;

/// Part of a product: all depth of some lines and some columns.
#[derive(Clone, Copy)]
pub(super) struct Part<T> {
    /// The first factor from the part's first line on, and its lines, at most [`BLOCK_LINES`].
    pub(super) a: Side<T>,
    pub(super) lines: usize,
    /// The second factor, packed, from the part's first column on; whole panels of [`COLUMNS`] but for the last.
    pub(super) b: *const u32,
    pub(super) columns: usize,
    pub(super) depth: usize,
    /// Where the part's results begin, and how far apart their lines are.
    pub(super) results: *mut f32,
    pub(super) stride: usize,
    /// What is added to each column, or null.
    pub(super) bias: *const f32,
}

/// Up to [`LINES`] by [`COLUMNS`] results.
#[derive(Clone, Copy)]
struct Tile {
    results: *mut f32,
    stride: usize,
    columns: usize,
    bias: *const f32,
    /// Whether results are added to.
    add: bool,
}

#[allow(unsafe_code)]
#[inline(always)]
unsafe fn tile<U: Unit, const M: usize>(units: usize, a: *const u32, b: *const u32, tile: Tile) {
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        let (mut a, mut b) = (a, b);
        for _ in 0..units {
            let low = _mm512_loadu_si512(b.cast());
            let high = _mm512_loadu_si512(b.add(16).cast());
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32((*a.add(m)).cast_signed());
                sums[0] = U::mul_add(x, low, sums[0]);
                sums[1] = U::mul_add(x, high, sums[1]);
            }
            a = a.add(LINES);
            b = b.add(COLUMNS);
        }
        for half in 0..2 {
            let some = first(tile.columns.saturating_sub(16 * half));
            let mut begin = _mm512_setzero_ps();
            if !tile.add && !tile.bias.is_null() {
                begin = _mm512_maskz_loadu_ps(some, tile.bias.wrapping_add(16 * half));
            }
            for (m, sums) in sums.iter().enumerate() {
                let place = tile.results.wrapping_add(m * tile.stride + 16 * half);
                if tile.add {
                    begin = _mm512_maskz_loadu_ps(some, place);
                }
                _mm512_mask_storeu_ps(place, some, _mm512_add_ps(begin, sums[half]));
            }
        }
    }
}

/// Computes a part; `room` takes a block of the first factor.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn compute<U: Unit, T: Element>(part: Part<T>, room: &mut [u32; BLOCK_LINES * BLOCK_UNITS]) {
    unsafe {
        let all = part.depth.div_ceil(U::DEPTH);
        let room = room.as_mut_ptr();
        for unit in (0..all).step_by(BLOCK_UNITS) {
            let (units, begin) = ((all - unit).min(BLOCK_UNITS), unit * U::DEPTH);
            let depth = (part.depth - begin).min(units * U::DEPTH);
            for line in (0..part.lines).step_by(LINES) {
                let lines = (part.lines - line).min(LINES);
                pack::<U, T, LINES>(part.a.at(line, begin), (lines, depth), room.add(line * units));
            }
            for column in (0..part.columns).step_by(COLUMNS) {
                let b = part.b.add(column * all + unit * COLUMNS);
                for line in (0..part.lines).step_by(LINES) {
                    let a = room.add(line * units).cast_const();
                    let at = Tile {
                        results: part.results.add(line * part.stride + column),
                        stride: part.stride,
                        columns: part.columns - column,
                        bias: part.bias.wrapping_add(if part.bias.is_null() { 0 } else { column }),
                        add: unit > 0,
                    };
                    match part.lines - line {
                        1 => tile::<U, 1>(units, a, b, at),
                        2 => tile::<U, 2>(units, a, b, at),
                        3 => tile::<U, 3>(units, a, b, at),
                        4 => tile::<U, 4>(units, a, b, at),
                        5 => tile::<U, 5>(units, a, b, at),
                        6 => tile::<U, 6>(units, a, b, at),
                        7 => tile::<U, 7>(units, a, b, at),
                        8 => tile::<U, 8>(units, a, b, at),
                        9 => tile::<U, 9>(units, a, b, at),
                        10 => tile::<U, 10>(units, a, b, at),
                        11 => tile::<U, 11>(units, a, b, at),
                        _ => tile::<U, LINES>(units, a, b, at),
                    }
                }
            }
        }
    }
}

macro_rules! kernels {
    ($name:ident, $unit:ident, $features:literal) => {
        pub(super) mod $name {
            use super::*;

            /// # Safety
            /// The processor has the instructions; factors and results are as large as the part says, and nobody else
            /// writes to them.
            #[allow(unsafe_code)]
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn compute<T: Element>(
                part: Part<T>,
                room: &mut [u32; BLOCK_LINES * BLOCK_UNITS],
            ) {
                unsafe { super::compute::<$unit, T>(part, room) }
            }

            /// Packs a panel of the second factor: `to[unit][COLUMNS]`.
            ///
            /// # Safety
            /// The processor has the instructions; the factor has the lines and the depth, and the place room for them.
            #[allow(unsafe_code)]
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn panel<T: Element>(
                from: Side<T>,
                lines: usize,
                depth: usize,
                to: *mut u32,
            ) {
                unsafe { pack::<$unit, T, COLUMNS>(from, (lines, depth), to) }
            }
        }
    };
}

kernels!(float, Single, "avx512f,avx512bw,avx512vl");
kernels!(bfloat16, Pair, "avx512f,avx512bw,avx512vl,avx512bf16");
