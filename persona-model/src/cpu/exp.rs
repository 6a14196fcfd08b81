//! The softmax of attention.

use super::lanes::Lanes;

/// The most numbers in a register.
pub(super) const WIDEST: usize = 16;

/// Turns `len` scores into weights `exp(scale (score - highest))`, in place, and returns one over their sum, and the
/// logarithm of the sum of `exp(scale score)`.
///
/// # Safety
/// The processor has the instructions; `scores` points to `len` numbers.
#[allow(unsafe_code)]
#[inline(always)]
pub(super) unsafe fn softmax<L: Lanes>(scores: *mut f32, len: usize, scale: f32) -> (f32, f32) {
    let whole = len - len % L::N;
    unsafe {
        // What fills no register, beside weights of nothing.
        let mut last = [f32::NEG_INFINITY; WIDEST];
        std::ptr::copy_nonoverlapping(scores.add(whole), last.as_mut_ptr(), len - whole);
        let mut lanes = L::load(last.as_ptr());
        for at in (0..whole).step_by(L::N) {
            lanes = L::max(lanes, L::load(scores.add(at)));
        }
        let highest = L::highest(lanes);
        let base = L::splat(-highest * scale);
        let factor = L::splat(scale);
        let mut lanes = L::splat(0.0);
        for at in (0..whole).step_by(L::N) {
            let weight = exp::<L>(L::mul_add(L::load(scores.add(at)), factor, base));
            L::store(scores.add(at), weight);
            lanes = L::add(lanes, weight);
        }
        if len > whole {
            L::store(last.as_mut_ptr(), exp::<L>(L::mul_add(L::load(last.as_ptr()), factor, base)));
            last[len - whole..].fill(0.0);
            std::ptr::copy_nonoverlapping(last.as_ptr(), scores.add(whole), len - whole);
            lanes = L::add(lanes, L::load(last.as_ptr()));
        }
        let sum = L::sum(lanes);
        (1.0 / sum, highest * scale + sum.ln())
    }
}

/// `exp` of numbers up to 87, to two units of the last place; that of -87 below. What is not a number stays so.
///
/// # Safety
/// The processor has the instructions.
#[allow(unsafe_code)]
#[inline(always)]
pub(super) unsafe fn exp<L: Lanes>(x: L::V) -> L::V {
    // exp(x) = 2^n exp(r) with n whole and r within half of ln 2 around 0; ln 2 in two parts, so that r is exact.
    const LN_2: f32 = 0.693_359_4;
    const LN_2_REST: f32 = -2.121_944_4e-4;
    const TERMS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    unsafe {
        let x = L::max(L::splat(-87.0), x);
        let n = L::round(L::mul(x, L::splat(std::f32::consts::LOG2_E)));
        let r = L::mul_add(n, L::splat(-LN_2), x);
        let r = L::mul_add(n, L::splat(-LN_2_REST), r);
        let mut sum = L::splat(1.0 / 5040.0);
        for term in TERMS {
            sum = L::mul_add(sum, r, L::splat(term));
        }
        L::mul(L::mul_add(sum, r, L::splat(1.0)), L::exp2_whole(n))
    }
}
