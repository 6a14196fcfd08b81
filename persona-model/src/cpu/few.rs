//! Linear layers of few tokens.

use tch::{Device, Kind, Tensor};

use super::{Instructions, Numbers};
use crate::error::Result;
use crate::layers::Layout;

/// Rows of `x` up to which these kernels are faster than products of many rows: those in bfloat16 have instructions of
/// their own.
pub(super) fn few(kind: Kind) -> i64 {
    if kind == Kind::BFloat16 { 32 } else { 64 }
}

/// `x [M, in]` times a weight, plus a bias `[out]` in float32: `[M, out]`. None for sizes that do not meet and tensors that
/// the kernels do not read.
pub(super) fn product(
    x: &Tensor,
    weight: &Tensor,
    layout: Layout,
    bias: Option<&[f32]>,
) -> Result<Option<Tensor>> {
    let Some(instructions) = Instructions::here() else { return Ok(None) };
    let (rows, depth) = x.size2()?;
    let (inputs, outputs) = layout.sizes(weight)?;
    if rows == 0 || depth != inputs || bias.is_some_and(|bias| bias.len() as i64 != outputs) {
        return Ok(None);
    }
    let x = x.f_to_kind(Kind::Float)?.f_contiguous()?;
    let (Some(x), Some(weight)) = (Numbers::of(&x).and_then(Numbers::float), Numbers::of(weight)) else {
        return Ok(None);
    };
    let mut y = Tensor::f_empty([rows, outputs], (Kind::Float, Device::Cpu))?;
    let sizes = (rows as usize, depth as usize, outputs as usize);
    Ok(compute(instructions, x, (weight, layout), bias, sizes, &mut y).then_some(y))
}

#[cfg(not(target_arch = "x86_64"))]
fn compute(
    _: Instructions,
    _: &[f32],
    _: (Numbers<'_>, Layout),
    _: Option<&[f32]>,
    _: (usize, usize, usize),
    _: &mut Tensor,
) -> bool {
    false
}

/// Returns whether it was computed.
#[cfg(target_arch = "x86_64")]
fn compute(
    instructions: Instructions,
    x: &[f32],
    (weight, layout): (Numbers<'_>, Layout),
    bias: Option<&[f32]>,
    sizes: (usize, usize, usize),
    y: &mut Tensor,
) -> bool {
    let Some(y) = super::Output::of(y) else { return false };
    match weight {
        Numbers::Float(weight) => columns(instructions, x, (weight, layout), bias, sizes, y),
        Numbers::BFloat16(weight) => columns(instructions, x, (weight, layout), bias, sizes, y),
    }
    true
}

/// The threads take some columns each.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn columns<T: super::lanes::Element>(
    instructions: Instructions,
    x: &[f32],
    (weight, layout): (&[T], Layout),
    bias: Option<&[f32]>,
    (rows, depth, outputs): (usize, usize, usize),
    y: super::Output,
) {
    use super::panel::{Begin, Lines, Results, avx2, avx512};

    // Columns that a thread takes at once: those of the widest tiles, and enough work to be worth taking.
    const TILE: usize = 384;
    const WORK: usize = 1 << 16;
    assert_eq!((x.len(), weight.len()), (rows * depth, depth * outputs));
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    let even = outputs.div_ceil(threads).next_multiple_of(64);
    let least = (WORK / depth.max(1)).max(64).next_multiple_of(64);
    let step = if rows == 1 { even.min(TILE) } else { even.min(TILE / 2) }.max(least);
    crate::threads::for_each(outputs.div_ceil(step), &|part| {
        let first = part * step;
        let count = step.min(outputs - first);
        let y = Results { start: y.at(first, (rows - 1) * outputs + count), stride: outputs };
        let x = Lines { start: x.as_ptr(), stride: depth };
        // SAFETY: the processor has the instructions. Rows, depth and columns lie within the slices, whose lengths were
        // checked; every part writes columns of its own.
        unsafe {
            let begin = bias.map_or(Begin::Zero, |bias| Begin::Bias(bias.as_ptr().add(first)));
            match layout {
                Layout::InOut => {
                    let w = Lines { start: weight.as_ptr().add(first), stride: outputs };
                    match instructions {
                        Instructions::Avx512 => avx512::in_out(x, (rows, depth), w, count, y, begin),
                        Instructions::Avx2 => avx2::in_out(x, (rows, depth), w, count, y, begin),
                    }
                }
                Layout::OutIn => {
                    let w = Lines { start: weight.as_ptr().add(first * depth), stride: depth };
                    match instructions {
                        Instructions::Avx512 => avx512::out_in(x, (rows, depth), w, count, y, begin),
                        Instructions::Avx2 => avx2::out_in(x, (rows, depth), w, count, y, begin),
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64], seed: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        ((Tensor::arange(count, (Kind::Float, Device::Cpu)) * 12.9898 + seed).sin() * 43.7).sin().view(shape)
    }

    #[test]
    fn products_equal_libtorchs_in_every_shape() {
        for (inputs, outputs) in [(1, 1), (7, 3), (16, 40), (33, 70), (64, 129), (100, 500), (48, 1000)] {
            for rows in [1, 2, 3, 5, 6, 7, 13, 64] {
                let x = random(&[rows, inputs], 1.0);
                let bias: Vec<f32> = Vec::try_from(random(&[outputs], 2.0)).unwrap();
                for kind in [Kind::Float, Kind::BFloat16] {
                    let weight = random(&[inputs, outputs], 3.0).to_kind(kind);
                    let wide = weight.to_kind(Kind::Float);
                    let transposed = weight.tr().contiguous();
                    for bias in [None, Some(&bias[..])] {
                        let mut expected = x.mm(&wide);
                        if let Some(bias) = bias {
                            expected += Tensor::from_slice(bias);
                        }
                        for (weight, layout) in [(&weight, Layout::InOut), (&transposed, Layout::OutIn)] {
                            let Some(got) = product(&x, weight, layout, bias).unwrap() else {
                                continue; // another processor
                            };
                            let off = (got - &expected).abs().max().double_value(&[]);
                            assert!(off < 1e-4, "{rows} x {inputs} x {outputs} {kind:?} {layout:?}: {off}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_is_beside_it() {
        let (x, weight) = (random(&[13, 100], 1.0), random(&[100, 300], 2.0));
        for (weight, layout) in [(&weight, Layout::InOut), (&weight.tr().contiguous(), Layout::OutIn)] {
            let together = product(&x, weight, layout, None).unwrap().unwrap();
            for row in 0..13 {
                let alone = product(&x.narrow(0, row, 1), weight, layout, None).unwrap().unwrap();
                assert_eq!(alone.squeeze(), together.get(row));
            }
        }
    }

    #[test]
    fn both_sets_of_instructions_agree() {
        if Instructions::here() != Some(Instructions::Avx512) {
            return;
        }
        let (x, weight) = (random(&[5, 100], 1.0), random(&[100, 300], 2.0));
        for (weight, layout) in [(&weight, Layout::InOut), (&weight.tr().contiguous(), Layout::OutIn)] {
            let with = |instructions| {
                let mut y = Tensor::zeros([5, 300], (Kind::Float, Device::Cpu));
                let numbers = Numbers::of(&x).and_then(Numbers::float).unwrap();
                let weight = (Numbers::of(weight).unwrap(), layout);
                assert!(compute(instructions, numbers, weight, None, (5, 100, 300), &mut y));
                y
            };
            let off = (with(Instructions::Avx512) - with(Instructions::Avx2)).abs().max().double_value(&[]);
            assert!(off < 1e-4, "{layout:?}: {off}");
        }
    }
}
