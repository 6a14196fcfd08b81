//! Linear layers: which kernel computes them, and their gradients.

use tch::{Device, Kind, Tensor};

use super::gate::{self, Gate};
use super::matrix::{Factor, Precision, multiply};
use super::{Numbers, few};
use crate::autograd;
use crate::error::{Error, Result};
use crate::layers::Layout;

/// `x [N, in]` times a weight, plus a bias `[out]`, computed in `kind` with sums and a result `[N, out]` in float32. The
/// gradients of all three are computed likewise. None where libtorch has to compute it: on other devices and processors, and
/// in kinds other than float32 and bfloat16.
pub(crate) fn linear(
    x: &Tensor,
    weight: &Tensor,
    layout: Layout,
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Option<Tensor>> {
    compute((x, None), (weight, layout), bias, kind)
}

/// As [`linear`], of what an activation makes of `x`: that is held in `kind`, and its gradient takes the place of the values'.
pub(crate) fn gated_linear(
    (x, gate): (&Tensor, Gate),
    weight: &Tensor,
    layout: Layout,
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Option<Tensor>> {
    compute((x, Some(gate)), (weight, layout), bias, kind)
}

fn compute(
    (x, gate): (&Tensor, Option<Gate>),
    (weight, layout): (&Tensor, Layout),
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Option<Tensor>> {
    let inputs: Vec<&Tensor> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
    let &[rows, depth] = &x.size()[..] else { return Ok(None) };
    let (width, outputs) = layout.sizes(weight)?;
    let sizes_meet = depth == width && bias.is_none_or(|bias| bias.size() == [outputs]);
    if inputs.iter().any(|input| !is_held(input)) || rows == 0 || !sizes_meet {
        return Ok(None);
    }
    let records = autograd::records(&inputs);
    let wide = bias.map(|bias| bias.f_detach()?.f_to_kind(Kind::Float)?.f_contiguous()).transpose()?;
    let numbers = wide.as_ref().and_then(Numbers::of).and_then(Numbers::float);
    let (x, weight) = (x.f_detach()?.f_contiguous()?, weight.f_detach()?);
    let few = !records && rows <= few::few(kind) && weight.kind() == kind;
    let held = if few { Kind::Float } else { kind };
    let gated = gate.map(|gate| gate::values(&x, gate, held)).transpose()?;
    let input = match gated {
        Some(Some(values)) => values,
        Some(None) => return Ok(None),
        None => x.shallow_clone(),
    };
    if few {
        return few::product(&input, &weight, layout, numbers);
    }
    let Some(precision) = Precision::of(kind) else { return Ok(None) };
    let mut y = Tensor::f_empty([rows, outputs], (Kind::Float, Device::Cpu))?;
    let (Some(lines), Some(columns)) = (Factor::rows(&input), columns(&weight, layout)) else {
        return Ok(None);
    };
    if !multiply(lines, columns, numbers, precision, &mut y) {
        return Ok(None);
    }
    if !records {
        return Ok(Some(y));
    }
    let output = autograd::attach(y, &inputs, move |gradient, wanted| {
        let gradient = gradient.f_contiguous()?;
        let of_input = || {
            let passed = of_input(&gradient, &weight, layout, precision)?;
            let Some(gate) = gate else { return Ok(passed) };
            gate::pass_on(&x, gate, passed.shallow_clone(), passed)
        };
        let mut gradients = vec![
            wanted[0].then(of_input).transpose()?,
            wanted[1].then(|| of_weight(&gradient, &input, layout, precision)).transpose()?,
        ];
        if let Some(&wanted) = wanted.get(2) {
            let sum = || gradient.f_sum_dim_intlist(&[0i64][..], false, Kind::Float);
            gradients.push(wanted.then(sum).transpose()?);
        }
        Ok(gradients)
    })?;
    Ok(Some(output))
}

fn is_held(tensor: &Tensor) -> bool {
    let kind = matches!(tensor.kind(), Kind::Float | Kind::BFloat16);
    kind && tensor.device() == Device::Cpu && tensor.numel() > 0
}

/// The columns of a weight seen as `[in, out]`.
fn columns(weight: &Tensor, layout: Layout) -> Option<Factor<'_>> {
    match layout {
        Layout::InOut => Factor::columns(weight),
        Layout::OutIn => Factor::rows(weight),
    }
}

/// From `[N, out]`: `[N, in]`.
fn of_input(gradient: &Tensor, weight: &Tensor, layout: Layout, precision: Precision) -> Result<Tensor> {
    let rows = match layout {
        Layout::InOut => Factor::rows(weight),
        Layout::OutIn => Factor::columns(weight),
    };
    let sizes = [gradient.size2()?.0, layout.sizes(weight)?.0];
    product(Factor::rows(gradient), rows, precision, sizes)
}

/// From `[N, out]` and `[N, in]`: of the weight's shape.
fn of_weight(gradient: &Tensor, x: &Tensor, layout: Layout, precision: Precision) -> Result<Tensor> {
    let (outputs, inputs) = (Factor::columns(gradient), Factor::columns(x));
    let (out, inside) = (gradient.size2()?.1, x.size2()?.1);
    match layout {
        Layout::InOut => product(inputs, outputs, precision, [inside, out]),
        Layout::OutIn => product(outputs, inputs, precision, [out, inside]),
    }
}

fn product(
    a: Option<Factor<'_>>,
    b: Option<Factor<'_>>,
    precision: Precision,
    sizes: [i64; 2],
) -> Result<Tensor> {
    let mut y = Tensor::f_empty(sizes, (Kind::Float, Device::Cpu))?;
    match (a, b) {
        (Some(a), Some(b)) if multiply(a, b, None, precision, &mut y) => Ok(y),
        _ => Err(Error::Batch(format!(
            "the gradient of a linear layer, {sizes:?}, in a form that was not expected"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64], seed: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        ((Tensor::arange(count, (Kind::Float, Device::Cpu)) * 12.9898 + seed).sin() * 43.7).sin().view(shape)
    }

    fn off(a: &Tensor, b: &Tensor) -> f64 {
        ((a - b).abs().max() / b.abs().max()).double_value(&[])
    }

    #[test]
    fn results_and_gradients_equal_libtorchs() {
        for (rows, inside, out) in [(3, 20, 7), (100, 64, 48), (70, 33, 129)] {
            for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
                if Precision::of(kind).is_none() {
                    continue;
                }
                for layout in [Layout::InOut, Layout::OutIn] {
                    let leaf = |shape: &[i64], seed| random(shape, seed).set_requires_grad(true);
                    let x = leaf(&[rows, inside], 1.0);
                    let shape = if layout == Layout::InOut { [inside, out] } else { [out, inside] };
                    let (weight, bias) = (leaf(&shape, 2.0), leaf(&[out], 3.0));
                    let direction = random(&[rows, out], 4.0);
                    let ours = linear(&x, &weight, layout, Some(&bias), kind).unwrap().unwrap();
                    let matrix = if layout == Layout::InOut { weight.shallow_clone() } else { weight.tr() };
                    let theirs = bias.addmm(&x, &matrix);
                    assert!(off(&ours, &theirs) < tolerance);
                    let gradients = |y: &Tensor| {
                        Tensor::run_backward(&[y * &direction], &[&x, &weight, &bias], false, false)
                    };
                    for (ours, theirs) in gradients(&ours).iter().zip(&gradients(&theirs)) {
                        assert!(
                            off(ours, theirs) < tolerance,
                            "{rows} x {inside} x {out} {kind:?} {layout:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_activation_before_a_layer_gives_the_bits_of_both_apart() {
        for kind in [Kind::Float, Kind::BFloat16].into_iter().filter(|&kind| Precision::of(kind).is_some()) {
            let leaf = |shape: &[i64], seed| random(shape, seed).set_requires_grad(true);
            let (x, weight, bias) = (leaf(&[100, 37], 1.0), leaf(&[37, 70], 2.0), leaf(&[70], 3.0));
            let direction = random(&[100, 70], 4.0);
            let layer = |x: &Tensor, gate| {
                let y = match gate {
                    Some(gate) => gated_linear((x, gate), &weight, Layout::InOut, Some(&bias), kind),
                    None => linear(x, &weight, Layout::InOut, Some(&bias), kind),
                };
                y.unwrap().unwrap()
            };
            for gate in [Gate::GELU, Gate::GELU_TANH, Gate::SILU] {
                let apart = layer(&gate::gate(&x, gate).unwrap().unwrap(), None);
                let together = layer(&x, Some(gate));
                assert_eq!(together, apart);
                let gradients =
                    |y: &Tensor| Tensor::run_backward(&[y * &direction], &[&x, &weight, &bias], false, false);
                assert_eq!(gradients(&together), gradients(&apart));
                // Of few rows that nothing learns from.
                let (few, weight) = (x.detach().narrow(0, 0, 3), weight.detach().to_kind(kind));
                let alone = gate::gate(&few, gate).unwrap().unwrap();
                let layer = |x, gate| compute((x, gate), (&weight, Layout::InOut), None, kind);
                assert_eq!(layer(&few, Some(gate)).unwrap(), layer(&alone, None).unwrap());
            }
        }
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient_and_passes_one_on() {
        if Precision::of(Kind::Float).is_none() {
            return;
        }
        let (x, weight) = (random(&[5, 8], 1.0).set_requires_grad(true), random(&[8, 4], 2.0));
        let y = linear(&x, &weight, Layout::InOut, None, Kind::Float).unwrap().unwrap();
        y.sum(Kind::Float).backward();
        assert!(off(&x.grad(), &Tensor::ones([5, 4], (Kind::Float, Device::Cpu)).mm(&weight.tr())) < 1e-6);
        assert!(!weight.grad().defined());
    }

    #[test]
    fn what_is_not_for_the_kernels_is_left_to_libtorch() {
        let (x, weight) = (random(&[2, 8], 1.0), random(&[8, 4], 2.0));
        let none = |x: &Tensor, weight: &Tensor, layout, kind| {
            assert!(linear(x, weight, layout, None, kind).unwrap().is_none());
        };
        none(&x, &weight, Layout::InOut, Kind::Half);
        none(&x, &weight, Layout::OutIn, Kind::Float);
        none(&x, &weight.to_kind(Kind::Double), Layout::InOut, Kind::Float);
        none(&x, &weight.tr(), Layout::OutIn, Kind::Float);
        none(&x.narrow(0, 0, 0), &weight, Layout::InOut, Kind::Float);
    }
}
