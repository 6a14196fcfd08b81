//! Non-linearities of the form `x sigmoid(a x + b x^3)`: GELU in its tanh approximation, and swish.

use tch::{Device, Kind, Tensor};

use super::{Instructions, Numbers, Output};
use crate::autograd;
use crate::error::{Error, Result};

/// `x sigmoid(linear x + cubic x^3)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    linear: f32,
    cubic: f32,
}

impl Gate {
    /// `x (1 + tanh(u)) / 2 = x sigmoid(2 u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
    pub(crate) const GELU_TANH: Self = Self { linear: 1.595_769, cubic: 0.071_354_82 };
    /// `x sigmoid(x)`.
    pub(crate) const SILU: Self = Self { linear: 1.0, cubic: 0.0 };
}

/// Of float32 tensors on the CPU, with their gradient; None where libtorch has to compute it.
pub(crate) fn gate(x: &Tensor, gate: Gate) -> Result<Option<Tensor>> {
    let Some(instructions) = Instructions::here() else { return Ok(None) };
    if x.device() != Device::Cpu || x.kind() != Kind::Float || x.numel() == 0 {
        return Ok(None);
    }
    let records = autograd::records(&[x]);
    let values = x.f_detach()?.f_contiguous()?;
    let y = compute(instructions, gate, &values, None)?;
    if !records {
        return Ok(Some(y));
    }
    let output = autograd::attach(y, &[x], move |gradient, _| {
        Ok(vec![Some(compute(instructions, gate, &values, Some(&gradient.f_contiguous()?))?)])
    })?;
    Ok(Some(output))
}

/// The values, or of a gradient what they pass on.
fn compute(instructions: Instructions, gate: Gate, x: &Tensor, gradient: Option<&Tensor>) -> Result<Tensor> {
    /// Numbers that a thread takes at once.
    const PART: usize = 1 << 14;
    let mut y = Tensor::f_empty(x.size(), (Kind::Float, Device::Cpu))?;
    let unread = || Error::Batch("an activation in a form that was not expected".to_owned());
    let float = |tensor| Numbers::of(tensor).and_then(Numbers::float).ok_or_else(unread);
    let (x, gradient) = (float(x)?, gradient.map(float).transpose()?);
    let places = Output::of(&mut y).ok_or_else(unread)?;
    if gradient.is_some_and(|gradient| gradient.len() != x.len()) {
        return Err(unread());
    }
    super::threads::for_each(x.len().div_ceil(PART), &|part| {
        let (first, end) = (part * PART, ((part + 1) * PART).min(x.len()));
        let gradient = gradient.map(|gradient| &gradient[first..end]);
        run(instructions, gate, &x[first..end], gradient, places.at(first, end - first));
    });
    Ok(y)
}

#[cfg(not(target_arch = "x86_64"))]
fn run(_: Instructions, _: Gate, _: &[f32], _: Option<&[f32]>, _: *mut f32) {}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn run(instructions: Instructions, gate: Gate, x: &[f32], gradient: Option<&[f32]>, y: *mut f32) {
    // SAFETY: the processor has the instructions, and `y` has a place for each number, which is this part's alone.
    unsafe {
        match instructions {
            Instructions::Avx512 => vectors::avx512(gate, x, gradient, y),
            Instructions::Avx2 => vectors::avx2(gate, x, gradient, y),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod vectors {
    use super::Gate;
    use crate::cpu::exp::exp;
    use crate::cpu::lanes::{Avx2, Avx512, Lanes};

    #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
    pub(super) unsafe fn avx512(gate: Gate, x: &[f32], gradient: Option<&[f32]>, y: *mut f32) {
        unsafe { run::<Avx512>(gate, x, gradient, y) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(gate: Gate, x: &[f32], gradient: Option<&[f32]>, y: *mut f32) {
        unsafe { run::<Avx2>(gate, x, gradient, y) }
    }

    #[inline(always)]
    unsafe fn run<L: Lanes>(gate: Gate, x: &[f32], gradient: Option<&[f32]>, y: *mut f32) {
        let whole = x.len() - x.len() % L::N;
        unsafe {
            for at in (0..whole).step_by(L::N) {
                let gradient = gradient.map(|gradient| L::load(gradient.as_ptr().add(at)));
                L::store(y.add(at), of::<L>(gate, L::load(x.as_ptr().add(at)), gradient));
            }
            let rest = x.len() - whole;
            let (mut last, mut passed) = ([0.0; 16], [0.0; 16]);
            last[..rest].copy_from_slice(&x[whole..]);
            if let Some(gradient) = gradient {
                passed[..rest].copy_from_slice(&gradient[whole..]);
            }
            let gradient = gradient.map(|_| L::load(passed.as_ptr()));
            let result = of::<L>(gate, L::load(last.as_ptr()), gradient);
            L::store(last.as_mut_ptr(), result);
            std::ptr::copy_nonoverlapping(last.as_ptr(), y.add(whole), rest);
        }
    }

    /// `x s`, or `gradient (s + x s (1 - s) z')`, for `s = sigmoid(z)` and `z = a x + b x^3`.
    #[inline(always)]
    unsafe fn of<L: Lanes>(gate: Gate, x: L::V, gradient: Option<L::V>) -> L::V {
        unsafe {
            let (one, linear) = (L::splat(1.0), L::splat(gate.linear));
            let square = L::mul(x, x);
            let z = L::mul(x, L::mul_add(square, L::splat(gate.cubic), linear));
            let z = L::max(z, L::splat(-87.0));
            let s = L::div(one, L::add(one, exp::<L>(L::mul(z, L::splat(-1.0)))));
            let Some(gradient) = gradient else { return L::mul(x, s) };
            let slope = L::mul_add(square, L::splat(3.0 * gate.cubic), linear);
            let rest = L::mul_add(s, L::splat(-1.0), one);
            let curve = L::mul(L::mul(x, s), L::mul(rest, slope));
            L::mul(gradient, L::add(s, curve))
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
        for (ours, theirs) in [(Gate::GELU_TANH, x.gelu("tanh")), (Gate::SILU, x.silu())] {
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
        let Some(y) = gate(&x, Gate::GELU_TANH).unwrap() else { return };
        let y: Vec<f32> = Vec::try_from(y).unwrap();
        assert!(y[0].is_nan() && y[1] == f32::INFINITY && y[2] == 1e30 && y[4] == 0.0, "{y:?}");
        assert!(y[3].abs() < 1e-6, "{y:?}");
    }
}
