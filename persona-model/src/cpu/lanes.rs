//! Vectors of float32, as wide as the processor has them.

use core::arch::x86_64::*;

/// Operations on vectors of `N` numbers. They may be called only where the processor has the instructions.
#[allow(unsafe_code, clippy::missing_safety_doc)]
pub(super) trait Lanes: Copy {
    const N: usize;
    type V: Copy;
    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn load_bfloat16(from: *const u16) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    /// `a b + c`, rounded once.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The larger ones; those of `b` where one is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Numbers of `b` where those of `a` are below 0, of `c` elsewhere.
    unsafe fn where_negative(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest whole numbers.
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2 to the power of whole numbers from -126 to 127.
    unsafe fn exp2_whole(a: Self::V) -> Self::V;
    unsafe fn sum(a: Self::V) -> f32;
    unsafe fn highest(a: Self::V) -> f32;
}

/// A kind of weight.
#[allow(unsafe_code)]
pub(super) trait Element: Copy + Sync {
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V;
    fn value(self) -> f32;
}

#[allow(unsafe_code)]
impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V {
        unsafe { L::load(from) }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

/// bfloat16 by its bits: the upper half of a float32.
#[allow(unsafe_code)]
impl Element for u16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V {
        unsafe { L::load_bfloat16(from) }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx512;

#[allow(unsafe_code)]
impl Lanes for Avx512 {
    const N: usize = 16;
    type V = __m512;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_bfloat16(from: *const u16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn where_negative(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, _mm512_setzero_ps()), c, b) }
    }

    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<0>(a) }
    }

    #[inline(always)]
    unsafe fn exp2_whole(a: __m512) -> __m512 {
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    unsafe fn highest(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx2;

#[allow(unsafe_code)]
impl Avx2 {
    #[inline(always)]
    unsafe fn fold(a: __m256, with: unsafe fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; 8];
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), a);
            let [a, b, c, d, e, f, g, h] = lanes;
            with(with(with(a, e), with(c, g)), with(with(b, f), with(d, h)))
        }
    }
}

#[allow(unsafe_code)]
impl Lanes for Avx2 {
    const N: usize = 8;
    type V = __m256;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_bfloat16(from: *const u16) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn where_negative(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(c, b, _mm256_cmp_ps::<_CMP_LT_OQ>(a, _mm256_setzero_ps())) }
    }

    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    unsafe fn exp2_whole(a: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        unsafe { Self::fold(a, |a, b| a + b) }
    }

    #[inline(always)]
    unsafe fn highest(a: __m256) -> f32 {
        unsafe { Self::fold(a, f32::max) }
    }
}
