//! Factors of a product in the order in which its kernel reads them.

use core::arch::x86_64::*;

/// One factor: the number at a line and a depth lies at `line * line_stride + depth * depth_stride`; one of the two is 1.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Side<T> {
    pub(in crate::cpu) start: *const T,
    pub(in crate::cpu) line: usize,
    pub(in crate::cpu) depth: usize,
}

// SAFETY: threads only read through it.
#[allow(unsafe_code)]
unsafe impl<T> Sync for Side<T> {}

impl<T: Copy> Side<T> {
    /// What begins at a line and a depth.
    pub(in crate::cpu) fn at(self, line: usize, depth: usize) -> Self {
        Self { start: self.start.wrapping_add(line * self.line + depth * self.depth), ..self }
    }

    /// Depth of which all lines are packed before more: where a line's numbers do not lie beside each other, what is beside
    /// one line's is the next one's, and still in the cache.
    pub(in crate::cpu) fn packed_depth(self) -> usize {
        if self.depth == 1 { 1 << 12 } else { 32 }
    }
}

/// What factors are held in.
#[allow(unsafe_code)]
pub(in crate::cpu) trait Element: Copy {
    /// Up to 16 numbers, zero beyond.
    unsafe fn load(from: *const Self, some: __mmask16) -> __m512;
}

#[allow(unsafe_code)]
impl Element for f32 {
    #[inline(always)]
    unsafe fn load(from: *const f32, some: __mmask16) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(some, from) }
    }
}

/// bfloat16 by its bits.
#[allow(unsafe_code)]
impl Element for u16 {
    #[inline(always)]
    unsafe fn load(from: *const u16, some: __mmask16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}

/// What the kernel multiplies in one lane: a number, or a pair of bfloat16 that follow each other in depth.
#[allow(unsafe_code)]
pub(super) trait Unit: Copy {
    /// Numbers in a unit.
    const DEPTH: usize;
    /// A unit each of up to 16 lines that lie beside each other; `depth` numbers are left in depth.
    unsafe fn across<T: Element>(side: Side<T>, lines: __mmask16, depth: usize) -> __m512i;
    /// Up to 16 units that follow each other in one line.
    unsafe fn along<T: Element>(start: *const T, depth: usize) -> __m512i;
    /// `a b + c`; of pairs both products are added.
    unsafe fn mul_add(a: __m512i, b: __m512i, c: __m512) -> __m512;
}

#[derive(Clone, Copy)]
pub(super) struct Single;

#[allow(unsafe_code)]
impl Unit for Single {
    const DEPTH: usize = 1;

    #[inline(always)]
    unsafe fn across<T: Element>(side: Side<T>, lines: __mmask16, _: usize) -> __m512i {
        unsafe { _mm512_castps_si512(T::load(side.start, lines)) }
    }

    #[inline(always)]
    unsafe fn along<T: Element>(start: *const T, depth: usize) -> __m512i {
        unsafe { _mm512_castps_si512(T::load(start, first(depth))) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512i, b: __m512i, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), c) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Pair;

#[allow(unsafe_code)]
impl Unit for Pair {
    const DEPTH: usize = 2;

    #[inline(always)]
    unsafe fn across<T: Element>(side: Side<T>, lines: __mmask16, depth: usize) -> __m512i {
        unsafe {
            let low = T::load(side.start, lines);
            let high = T::load(side.at(0, 1).start, if depth > 1 { lines } else { 0 });
            let pairs = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                3, 18, 2, 17, 1, 16, 0,
            );
            _mm512_permutexvar_epi16(pairs, narrow(high, low))
        }
    }

    #[inline(always)]
    unsafe fn along<T: Element>(start: *const T, depth: usize) -> __m512i {
        unsafe {
            let low = T::load(start, first(depth));
            narrow(T::load(start.wrapping_add(16), first(depth.saturating_sub(16))), low)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512i, b: __m512i, c: __m512) -> __m512 {
        // SAFETY: the types differ in name alone.
        unsafe {
            let (a, b) =
                (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b));
            _mm512_dpbf16_ps(c, a, b)
        }
    }
}

/// 32 numbers rounded to bfloat16, the lower half first.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn narrow(high: __m512, low: __m512) -> __m512i {
    // SAFETY: the types differ in name alone.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// How far ahead in depth numbers are fetched: where those of one depth lie beside each other, and those of one line.
const AHEAD_ACROSS: usize = 64;
const AHEAD_ALONG: usize = 128;

/// Has what begins at a place brought into the cache.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn soon<T>(place: *const T) {
    unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
}

/// The mask of the first lanes.
#[inline(always)]
pub(super) fn first(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Packs up to WIDTH lines as `to[unit][WIDTH]`; places beyond the last line, up to the next multiple of 16 or WIDTH, and
/// beyond the depth are zero.
#[allow(unsafe_code)]
#[inline(always)]
pub(super) unsafe fn pack<U: Unit, T: Element, const WIDTH: usize>(
    from: Side<T>,
    (lines, depth): (usize, usize),
    to: *mut u32,
) {
    unsafe {
        for begin in (0..WIDTH).step_by(16) {
            let (held, kept) = (lines.saturating_sub(begin).min(16), first(WIDTH - begin));
            let (from, to) = (from.at(begin, 0), to.add(begin));
            if from.line == 1 {
                for unit in 0..depth.div_ceil(U::DEPTH) {
                    let at = unit * U::DEPTH;
                    for ahead in AHEAD_ACROSS..AHEAD_ACROSS + U::DEPTH {
                        soon(from.at(0, at + ahead).start);
                    }
                    let numbers = U::across(from.at(0, at), first(held), depth - at);
                    _mm512_mask_storeu_epi32(to.add(unit * WIDTH).cast(), kept, numbers);
                }
                continue;
            }
            for at in (0..depth).step_by(16 * U::DEPTH) {
                let mut block = [_mm512_setzero_si512(); 16];
                for (line, units) in block.iter_mut().enumerate().take(held) {
                    for ahead in (0..U::DEPTH).map(|ahead| AHEAD_ALONG + 16 * ahead) {
                        soon(from.at(line, at + ahead).start);
                    }
                    *units = U::along(from.at(line, at).start, depth - at);
                }
                transpose(&mut block);
                let unit = at / U::DEPTH;
                for (next, units) in block.iter().enumerate().take((depth - at).div_ceil(U::DEPTH)) {
                    _mm512_mask_storeu_epi32(to.add((unit + next) * WIDTH).cast(), kept, *units);
                }
            }
        }
    }
}

/// Exchanges lines and columns of 16 x 16 lanes.
#[allow(unsafe_code)]
#[inline(always)]
pub(super) unsafe fn transpose(r: &mut [__m512i; 16]) {
    unsafe {
        let mut t = [_mm512_setzero_si512(); 16];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        for i in 0..4 {
            t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[4 + i]);
            t[4 + i] = _mm512_shuffle_i32x4::<0xdd>(r[i], r[4 + i]);
            t[8 + i] = _mm512_shuffle_i32x4::<0x88>(r[8 + i], r[12 + i]);
            t[12 + i] = _mm512_shuffle_i32x4::<0xdd>(r[8 + i], r[12 + i]);
        }
        for i in 0..4 {
            r[i] = _mm512_shuffle_i32x4::<0x88>(t[i], t[8 + i]);
            r[8 + i] = _mm512_shuffle_i32x4::<0xdd>(t[i], t[8 + i]);
            r[4 + i] = _mm512_shuffle_i32x4::<0x88>(t[4 + i], t[12 + i]);
            r[12 + i] = _mm512_shuffle_i32x4::<0xdd>(t[4 + i], t[12 + i]);
        }
    }
}
