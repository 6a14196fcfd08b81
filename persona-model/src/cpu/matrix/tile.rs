//! The kernel: tiles of a product from packed factors.

use core::arch::x86_64::*;
use std::cell::RefCell;

use super::pack::{Element, Pair, Side, Single, Unit, first, pack, transpose};
use crate::cpu::panel::Begin;

/// Lines of the first factor that a tile holds, and of the second (its columns): 24 registers of sums.
pub(in crate::cpu) const LINES: usize = 12;
pub(in crate::cpu) const COLUMNS: usize = 32;

/// Lines and units of the first factor that are packed at once: they stay in a core's own cache.
pub(in crate::cpu) const BLOCK_LINES: usize = 72;
pub(in crate::cpu) const BLOCK_UNITS: usize = 768;

/// Lends the place in which this thread packs blocks of the first factor, which it keeps.
pub(in crate::cpu) fn with_room<R>(run: impl FnOnce(&mut [u32]) -> R) -> R {
    thread_local! {
        static ROOM: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }
    ROOM.with_borrow_mut(|room| {
        room.resize(BLOCK_LINES * BLOCK_UNITS, 0);
        run(room)
    })
}

/// Part of a product: all depth of some lines and some columns.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Part<T> {
    /// The first factor from the part's first line on, and its lines, at most [`BLOCK_LINES`].
    pub(in crate::cpu) a: Side<T>,
    pub(in crate::cpu) lines: usize,
    /// The second factor, packed, from the part's first column on; whole panels of [`COLUMNS`] but for the last.
    pub(in crate::cpu) b: *const u32,
    /// Units that each panel holds: those of the depth, or more.
    pub(in crate::cpu) held: usize,
    pub(in crate::cpu) columns: usize,
    pub(in crate::cpu) depth: usize,
    /// Where the part's results begin, and how far apart their lines are; those of a transposed result are the second
    /// factor's, and it has no bias.
    pub(in crate::cpu) results: *mut f32,
    pub(in crate::cpu) stride: usize,
    pub(in crate::cpu) transposed: bool,
    pub(in crate::cpu) begin: Begin,
    /// The first factor of the part that this thread will probably compute next, and its lines; of the same depth.
    pub(in crate::cpu) next: Option<(Side<T>, usize)>,
}

/// Up to [`LINES`] by [`COLUMNS`] results.
#[derive(Clone, Copy)]
struct Tile {
    results: *mut f32,
    stride: usize,
    columns: usize,
    transposed: bool,
    begin: Begin,
    ahead: Ahead,
}

/// Places of the cache's lines that are fetched while a tile is computed, one a unit: packing would wait for them.
#[derive(Clone, Copy)]
struct Ahead {
    start: *const u8,
    step: usize,
}

impl Ahead {
    /// What the `at`-th of so many tiles fetches of a factor's lines.
    fn of<U: Unit, T: Element>(side: Side<T>, lines: usize, (at, tiles): (usize, usize)) -> Option<Self> {
        const CACHE_LINE: usize = 64;
        // A tile passes once through the depth: of one line, or of numbers of some lines beside each other.
        let requests = match side.depth {
            1 => lines,
            _ => (lines * size_of::<T>() / CACHE_LINE + 2) * U::DEPTH,
        };
        let request = (at * requests).div_ceil(tiles);
        if request * tiles >= (at + 1) * requests {
            return None;
        }
        let start = match side.depth {
            1 => side.at(request, 0).start.cast::<u8>(),
            _ => {
                let within = request / U::DEPTH * CACHE_LINE;
                side.at(0, request % U::DEPTH).start.cast::<u8>().wrapping_add(within)
            }
        };
        Some(Self { start, step: U::DEPTH * side.depth * size_of::<T>() })
    }
}

#[allow(unsafe_code)]
#[inline(always)]
unsafe fn tile<U: Unit, const M: usize>(units: usize, a: *const u32, b: *const u32, tile: Tile) {
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        let (mut a, mut b) = (a, b);
        let Ahead { mut start, step } = tile.ahead;
        for _ in 0..units {
            _mm_prefetch::<_MM_HINT_T1>(start.cast());
            start = start.wrapping_add(step);
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
        if tile.transposed {
            // Halves by constants: an index that is computed would keep all sums in memory, in the loop above too.
            store_transposed(sums.map(|sums| sums[0]), tile.columns.min(16), tile);
            let beside = Tile { results: tile.results.wrapping_add(16 * tile.stride), ..tile };
            store_transposed(sums.map(|sums| sums[1]), tile.columns.saturating_sub(16).min(16), beside);
            return;
        }
        for half in 0..2 {
            let some = first(tile.columns.saturating_sub(16 * half));
            let mut begin = _mm512_setzero_ps();
            if let Begin::Bias(bias) = tile.begin {
                begin = _mm512_maskz_loadu_ps(some, bias.wrapping_add(16 * half));
            }
            for (m, sums) in sums.iter().enumerate() {
                let place = tile.results.wrapping_add(m * tile.stride + 16 * half);
                if let Begin::Add = tile.begin {
                    begin = _mm512_maskz_loadu_ps(some, place);
                }
                _mm512_mask_storeu_ps(place, some, _mm512_add_ps(begin, sums[half]));
            }
        }
    }
}

/// Stores up to 16 columns of a tile, each beside the other's place.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn store_transposed<const M: usize>(sums: [__m512; M], columns: usize, tile: Tile) {
    unsafe {
        let mut block = [_mm512_setzero_si512(); 16];
        for (line, sums) in block.iter_mut().zip(sums) {
            *line = _mm512_castps_si512(sums);
        }
        transpose(&mut block);
        for (column, sums) in block.iter().enumerate().take(columns) {
            let place = tile.results.wrapping_add(column * tile.stride);
            let mut sums = _mm512_castsi512_ps(*sums);
            if let Begin::Add = tile.begin {
                sums = _mm512_add_ps(_mm512_maskz_loadu_ps(first(M), place), sums);
            }
            _mm512_mask_storeu_ps(place, first(M), sums);
        }
    }
}

/// Computes a part; `room` takes a block of the first factor.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn compute<U: Unit, T: Element>(part: Part<T>, room: &mut [u32]) {
    assert!(room.len() >= BLOCK_LINES * BLOCK_UNITS && part.lines <= BLOCK_LINES);
    unsafe {
        let all = part.depth.div_ceil(U::DEPTH);
        let room = room.as_mut_ptr();
        for unit in (0..all).step_by(BLOCK_UNITS) {
            let (units, begin) = ((all - unit).min(BLOCK_UNITS), unit * U::DEPTH);
            let depth = (part.depth - begin).min(units * U::DEPTH);
            let chunk = part.a.packed_depth();
            for at in (0..depth).step_by(chunk) {
                let depth = (depth - at).min(chunk);
                for line in (0..part.lines).step_by(LINES) {
                    let lines = (part.lines - line).min(LINES);
                    let to = room.add(line * units + at / U::DEPTH * LINES);
                    pack::<U, T, LINES>(part.a.at(line, begin + at), (lines, depth), to);
                }
            }
            let rest = unit + units < all;
            let next = if rest { Some((part.a.at(0, begin + depth), part.lines)) } else { part.next };
            let tiles = part.columns.div_ceil(COLUMNS) * part.lines.div_ceil(LINES);
            let mut done = 0;
            for column in (0..part.columns).step_by(COLUMNS) {
                let b = part.b.add(column * part.held + unit * COLUMNS);
                for line in (0..part.lines).step_by(LINES) {
                    let a = room.add(line * units).cast_const();
                    let (row, place) = if part.transposed { (column, line) } else { (line, column) };
                    let ahead = next.and_then(|(side, lines)| Ahead::of::<U, T>(side, lines, (done, tiles)));
                    done += 1;
                    let at = Tile {
                        results: part.results.add(row * part.stride + place),
                        stride: part.stride,
                        columns: part.columns - column,
                        transposed: part.transposed,
                        begin: match part.begin {
                            _ if unit > 0 => Begin::Add,
                            Begin::Bias(bias) => Begin::Bias(bias.wrapping_add(column)),
                            begin => begin,
                        },
                        ahead: ahead.unwrap_or(Ahead { start: a.cast(), step: 0 }),
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
        pub(in crate::cpu) mod $name {
            use super::*;

            /// # Safety
            /// The processor has the instructions; factors and results are as large as the part says, and nobody else
            /// writes to them.
            #[allow(unsafe_code)]
            #[target_feature(enable = $features)]
            pub(in crate::cpu) unsafe fn compute<T: Element>(part: Part<T>, room: &mut [u32]) {
                unsafe { super::compute::<$unit, T>(part, room) }
            }

            /// Packs a panel of the second factor: `to[unit][COLUMNS]`.
            ///
            /// # Safety
            /// The processor has the instructions; the factor has the lines and the depth, and the place room for them.
            #[allow(unsafe_code)]
            #[target_feature(enable = $features)]
            pub(in crate::cpu) unsafe fn panel<T: Element>(
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
