//! Non-linearities that let a share of each number through: GELU, in its tanh approximation too, and swish.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::matrix::Precision;
use super::{Instructions, Numbers, Output};
use crate::autograd;
use crate::error::{Error, Result};

/// The share of a number `x` that is let through.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gate {
    /// `sigmoid(linear x + cubic x^3)`.
    Sigmoid { linear: f32, cubic: f32 },
    /// The normal distribution's function at `x`.
    Normal,
}

impl Gate {
    pub(crate) const GELU: Self = Self::Normal;
    /// `x (1 + tanh(u)) / 2 = x sigmoid(2 u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
    pub(crate) const GELU_TANH: Self = Self::Sigmoid { linear: 1.595_769, cubic: 0.071_354_82 };
    /// `x sigmoid(x)`.
    pub(crate) const SILU: Self = Self::Sigmoid { linear: 1.0, cubic: 0.0 };
}

/// Of float32 tensors on the CPU, with their gradient; None where libtorch has to compute it.
pub(crate) fn gate(x: &Tensor, gate: Gate) -> Result<Option<Tensor>> {
    let input = x.f_detach()?.f_contiguous()?;
    let Some(y) = values(&input, gate, Kind::Float)? else { return Ok(None) };
    if !autograd::records(&[x]) {
        return Ok(Some(y));
    }
    let output = autograd::attach(y, &[x], move |gradient, _| {
        let passed = Tensor::f_empty(input.size(), (Kind::Float, Device::Cpu))?;
        Ok(vec![Some(pass_on(&input, gate, gradient.f_contiguous()?, passed)?)])
    })?;
    Ok(Some(output))
}

/// Of a contiguous float32 tensor in main memory, held in float32 or bfloat16; None where libtorch has to compute it.
pub(super) fn values(x: &Tensor, gate: Gate, kind: Kind) -> Result<Option<Tensor>> {
    let (Some(instructions), Some(x_numbers)) = (Instructions::here(), float(x)) else { return Ok(None) };
    let mut y = Tensor::f_empty(x.size(), (kind, Device::Cpu))?;
    let places = match kind {
        Kind::Float => Output::of(&mut y).map(Places::Float),
        // Processors with such products have the instructions for rounding to it.
        Kind::BFloat16 if Precision::of(kind).is_some() => Output::of_bfloat16(&mut y).map(Places::BFloat16),
        _ => None,
    };
    let Some(places) = places else { return Ok(None) };
    for_each_part(x_numbers.len(), &|part| run(instructions, gate, &x_numbers[part.clone()], places, part));
    Ok(Some(y))
}

/// From the gradient of values that of `x`, in a tensor that may be the same one; all contiguous float32 of one size.
pub(super) fn pass_on(x: &Tensor, gate: Gate, mut gradient: Tensor, mut passed: Tensor) -> Result<Tensor> {
    let (Some(instructions), Some(x)) = (Instructions::here(), float(x)) else { return Err(unread()) };
    let (Some(from), Some(to)) = (Output::of(&mut gradient), Output::of(&mut passed)) else {
        return Err(unread());
    };
    if from.len != x.len() || to.len != x.len() {
        return Err(unread());
    }
    let places = Places::Passed { from, to };
    for_each_part(x.len(), &|part| run(instructions, gate, &x[part.clone()], places, part));
    Ok(passed)
}

fn unread() -> Error {
    Error::Batch("an activation in a form that was not expected".to_owned())
}

fn float(x: &Tensor) -> Option<&[f32]> {
    Numbers::of(x).and_then(Numbers::float)
}

fn for_each_part(len: usize, run: &(dyn Fn(Range<usize>) + Sync)) {
    /// Numbers that a thread takes at once.
    const PART: usize = 1 << 14;
    crate::threads::for_each(len.div_ceil(PART), &|part| run(part * PART..((part + 1) * PART).min(len)));
}

/// Where results go.
#[derive(Clone, Copy)]
enum Places {
    Float(Output),
    BFloat16(Output<u16>),
    /// Those of a gradient.
    Passed {
        from: Output,
        to: Output,
    },
}

#[cfg(not(target_arch = "x86_64"))]
fn run(_: Instructions, _: Gate, _: &[f32], _: Places, _: Range<usize>) {}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn run(instructions: Instructions, gate: Gate, x: &[f32], to: Places, part: Range<usize>) {
    let place = |output: Output| output.at(part.start, part.len());
    // SAFETY: the processor has the instructions, and there is a place for each number, which is this part's alone.
    unsafe {
        match (to, instructions) {
            (Places::Float(to), Instructions::Avx512) => vectors::avx512(gate, x, None, place(to)),
            (Places::Float(to), Instructions::Avx2) => vectors::avx2(gate, x, None, place(to)),
            (Places::Passed { from, to }, Instructions::Avx512) => {
                vectors::avx512(gate, x, Some(place(from)), place(to));
            }
            (Places::Passed { from, to }, Instructions::Avx2) => {
                vectors::avx2(gate, x, Some(place(from)), place(to));
            }
            (Places::BFloat16(to), _) => vectors::narrow(gate, x, to.at(part.start, part.len())),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod vectors {
    use core::arch::x86_64::*;

    use super::Gate;
    use crate::cpu::exp::exp;
    use crate::cpu::lanes::{Avx2, Avx512, Lanes};

    #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
    pub(super) unsafe fn avx512(gate: Gate, x: &[f32], gradient: Option<*mut f32>, y: *mut f32) {
        unsafe {
            match gate {
                Gate::Sigmoid { linear, cubic } => run::<Avx512>(Sigmoid { linear, cubic }, x, gradient, y),
                Gate::Normal => run::<Avx512>(Normal, x, gradient, y),
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(gate: Gate, x: &[f32], gradient: Option<*mut f32>, y: *mut f32) {
        unsafe {
            match gate {
                Gate::Sigmoid { linear, cubic } => run::<Avx2>(Sigmoid { linear, cubic }, x, gradient, y),
                Gate::Normal => run::<Avx2>(Normal, x, gradient, y),
            }
        }
    }

    /// Values, rounded to bfloat16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
    pub(super) unsafe fn narrow(gate: Gate, x: &[f32], y: *mut u16) {
        unsafe {
            match gate {
                Gate::Sigmoid { linear, cubic } => run_narrow(Sigmoid { linear, cubic }, x, y),
                Gate::Normal => run_narrow(Normal, x, y),
            }
        }
    }

    /// Values, or what a gradient passes on; that may lie at `y`.
    #[inline(always)]
    unsafe fn run<L: Lanes>(curve: impl Curve, x: &[f32], gradient: Option<*mut f32>, y: *mut f32) {
        let whole = x.len() - x.len() % L::N;
        unsafe {
            for at in (0..whole).step_by(L::N) {
                let gradient = gradient.map(|gradient| L::load(gradient.add(at)));
                L::store(y.add(at), curve.of::<L>(L::load(x.as_ptr().add(at)), gradient));
            }
            let rest = x.len() - whole;
            let (mut last, mut passed) = ([0.0; 16], [0.0; 16]);
            last[..rest].copy_from_slice(&x[whole..]);
            if let Some(gradient) = gradient {
                std::ptr::copy_nonoverlapping(gradient.add(whole), passed.as_mut_ptr(), rest);
            }
            let gradient = gradient.map(|_| L::load(passed.as_ptr()));
            let result = curve.of::<L>(L::load(last.as_ptr()), gradient);
            L::store(last.as_mut_ptr(), result);
            std::ptr::copy_nonoverlapping(last.as_ptr(), y.add(whole), rest);
        }
    }

    #[inline(always)]
    unsafe fn run_narrow(curve: impl Curve, x: &[f32], y: *mut u16) {
        for at in (0..x.len()).step_by(16) {
            let some = if x.len() - at < 16 { (1 << (x.len() - at)) - 1 } else { !0 };
            unsafe {
                let value = curve.of::<Avx512>(_mm512_maskz_loadu_ps(some, x.as_ptr().add(at)), None);
                let value = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value));
                _mm256_mask_storeu_epi16(y.add(at).cast(), some, value);
            }
        }
    }

    trait Curve: Copy {
        /// Values, or what a gradient passes on. May be called only where the processor has the instructions.
        unsafe fn of<L: Lanes>(self, x: L::V, gradient: Option<L::V>) -> L::V;
    }

    #[derive(Clone, Copy)]
    struct Sigmoid {
        linear: f32,
        cubic: f32,
    }

    impl Curve for Sigmoid {
        /// `x s`, or `gradient (s + x s (1 - s) z')`, for `s = sigmoid(z)` and `z = a x + b x^3`.
        #[inline(always)]
        unsafe fn of<L: Lanes>(self, x: L::V, gradient: Option<L::V>) -> L::V {
            unsafe {
                let one = L::splat(1.0);
                let curved = |cubic: f32| {
                    let linear = L::splat(self.linear);
                    // The square may be infinite.
                    if self.cubic == 0.0 { linear } else { L::mul_add(L::mul(x, x), L::splat(cubic), linear) }
                };
                let z = L::max(L::mul(x, curved(self.cubic)), L::splat(-87.0));
                let s = L::div(one, L::add(one, exp::<L>(L::mul(z, L::splat(-1.0)))));
                let Some(gradient) = gradient else { return L::mul(x, s) };
                let slope = curved(3.0 * self.cubic);
                let rest = L::mul_add(s, L::splat(-1.0), one);
                let curve = L::mul(L::mul(x, s), L::mul(rest, slope));
                L::mul(gradient, L::add(s, curve))
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Normal;

    impl Curve for Normal {
        /// `x F(x)`, or `gradient (F(x) + x F'(x))`.
        #[inline(always)]
        unsafe fn of<L: Lanes>(self, x: L::V, gradient: Option<L::V>) -> L::V {
            // F(-a) = exp(-a^2 / 2) t P(t) with t = 1 / (1 + 0.27 a): fitted for a from 0 to 14, relative error below 3e-8.
            const STEP: f32 = 0.27;
            const TERMS: [f32; 8] = [
                -0.126_255_29,
                0.169_291_64,
                -0.068_621,
                0.107_399_44,
                0.072_240_29,
                0.101_759_166,
                0.107_550_51,
                0.107_720_18,
            ];
            const LAST: f32 = 0.028_915_278;
            // F' at 0.
            const HEIGHT: f32 = 0.398_942_3;
            unsafe {
                let (zero, one) = (L::splat(0.0), L::splat(1.0));
                // -|x|, where F becomes nothing beyond 14.
                let below = L::mul(L::max(x, L::mul(x, L::splat(-1.0))), L::splat(-1.0));
                let below = L::max(L::splat(-14.0), below);
                let t = L::div(one, L::mul_add(below, L::splat(-STEP), one));
                let mut sum = L::splat(LAST);
                for term in TERMS {
                    sum = L::mul_add(sum, t, L::splat(term));
                }
                let bell = exp::<L>(L::mul(L::mul(below, below), L::splat(-0.5)));
                let tail = L::mul(L::mul(t, sum), bell);
                // For x > 0, x F(x) = x - x F(-x).
                let Some(gradient) = gradient else { return L::mul_add(below, tail, L::max(zero, x)) };
                let share = L::where_negative(x, tail, L::mul_add(tail, L::splat(-1.0), one));
                let x = L::where_negative(x, below, L::mul(below, L::splat(-1.0)));
                L::mul(gradient, L::mul_add(L::mul(x, L::splat(HEIGHT)), bell, share))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_gradients_equal_libtorchs() {
        if Instructions::here().is_none() {
            return;
        }
        let x = (Tensor::arange(4001, (Kind::Float, Device::Cpu)) * 0.01 - 20.0).set_requires_grad(true);
        let direction = (Tensor::arange(4001, (Kind::Float, Device::Cpu)) * 0.37).sin();
        let known = [(Gate::GELU, x.gelu("none")), (Gate::GELU_TANH, x.gelu("tanh")), (Gate::SILU, x.silu())];
        for (ours, theirs) in known {
            let ours = gate(&x, ours).unwrap().unwrap();
            assert!((&ours - &theirs).abs().max().double_value(&[]) < 2e-6);
            let gradient =
                |y: &Tensor| Tensor::run_backward(&[y * &direction], &[&x], false, false).remove(0);
            assert!((gradient(&ours) - gradient(&theirs)).abs().max().double_value(&[]) < 2e-6);
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let x = Tensor::from_slice(&[f32::NAN, f32::INFINITY, 1e30, -1e30, 0.0]);
        for known in [Gate::GELU, Gate::GELU_TANH, Gate::SILU] {
            let Some(y) = gate(&x, known).unwrap() else { return };
            let y: Vec<f32> = Vec::try_from(y).unwrap();
            assert!(y[0].is_nan() && y[1] == f32::INFINITY && y[2] == 1e30 && y[4] == 0.0, "{known:?} {y:?}");
            assert!(y[3].abs() < 1e-6, "{known:?} {y:?}");
        }
    }

    #[test]
    fn gelu_is_exact_to_the_last_places_of_float32() {
        let wide = Tensor::arange(36001, (Kind::Double, Device::Cpu)) * 5e-4 - 9.0;
        let x = wide.to_kind(Kind::Float);
        let Some(y) = gate(&x, Gate::GELU).unwrap() else { return };
        let wide = x.to_kind(Kind::Double);
        // From erfc, which is exact far below 0 too.
        let exact = &wide * (&wide * -std::f64::consts::FRAC_1_SQRT_2).erfc() / 2.0;
        let off = ((y.to_kind(Kind::Double) - &exact) / &exact.abs().clamp_min(1e-30)).abs();
        // exp(-x^2 / 2) has the relative error of x^2, half its last place, 40 times where x is -9.
        assert!(off.max().double_value(&[]) < 8e-6, "{}", off.max().double_value(&[]));
        let near = off.masked_select(&wide.ge(-2.0));
        assert!(near.max().double_value(&[]) < 1e-6, "{}", near.max().double_value(&[]));
    }
}
