//! The arithmetic of NF4 on slices: quantise, read back, and the same for the blocks' scales (double quantisation).
//!
//! Numbers are those of bitsandbytes 0.50 on the CPU, bit for bit, reciprocals and ties as there.

use std::sync::LazyLock;

use crate::threads::share_work;

/// Weights that share a scale when this crate quantises.
pub(crate) const BLOCK: usize = 64;

/// Scales that share a scale of their own.
pub(crate) const SCALES_BLOCK: usize = 256;

/// The sixteen levels of NF4: quantiles of the normal distribution, scaled to -1..1 (Dettmers et al. 2023, appendix E).
pub(crate) const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Between neighbouring levels; a value on one belongs to the lower level.
const MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut at = 0;
    while at < 15 {
        midpoints[at] = (LEVELS[at] + LEVELS[at + 1]) / 2.0;
        at += 1;
    }
    midpoints
};

/// The two levels that a packed byte stands for, first weight first.
pub(crate) const PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [LEVELS[byte >> 4], LEVELS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The 256 values of the dynamic 8-bit code in which scales are held, ascending (Dettmers et al. 2022): for each of
/// seven powers of ten twice as many steps as for the one below, with both signs, and 0 and 1.
pub(crate) static DYNAMIC: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut values = [0.0; 256];
    let mut places = values.iter_mut();
    let mut put = |value: f32| places.next().map(|place| *place = value);
    for (power, tens) in [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0f32].into_iter().enumerate() {
        let steps = 1 << power;
        let step = (1.0 - 0.1) / steps as f32;
        // As torch.linspace: from both ends, and rounded once.
        let boundary = |at: i32| {
            if at < (steps + 1) / 2 {
                step.mul_add(at as f32, 0.1)
            } else {
                (-step).mul_add((steps - at) as f32, 1.0)
            }
        };
        for at in 0..steps {
            let value = tens * ((boundary(at) + boundary(at + 1)) / 2.0);
            put(value);
            put(-value);
        }
    }
    put(0.0);
    put(1.0);
    values.sort_by(f32::total_cmp);
    values
});

/// The least scale that a block is divided by.
const LEAST: f32 = 1e-38;

/// Weights that one thread takes at a time: whole blocks of any size.
const SPAN: usize = 1 << 16;

/// The largest magnitude; not finite where a value is not.
fn largest(values: &[f32]) -> f32 {
    // Bits of magnitudes are in the order of the magnitudes, with infinity and NaN above all others.
    f32::from_bits(values.iter().map(|value| value.to_bits() & 0x7fff_ffff).max().unwrap_or(0))
}

/// Quantises weights in blocks of [`BLOCK`]: two to a byte, the first in the high half, and the largest magnitude of each
/// block. An odd end is filled with the level 0. None where a weight is NaN or infinite.
pub(crate) fn quantize(weights: &[f32]) -> Option<(Vec<u8>, Vec<f32>)> {
    let mut packed = vec![0; weights.len().div_ceil(2)];
    let mut scales = vec![0.0; weights.len().div_ceil(BLOCK)];
    let spans = weights.chunks(SPAN).zip(packed.chunks_mut(SPAN / 2)).zip(scales.chunks_mut(SPAN / BLOCK));
    share_work(spans.collect(), |((weights, packed), scales)| {
        for ((block, packed), scale) in weights.chunks(BLOCK).zip(packed.chunks_mut(BLOCK / 2)).zip(scales) {
            *scale = quantize_block(block, packed);
        }
    });
    scales.iter().all(|scale| scale.is_finite()).then_some((packed, scales))
}

fn quantize_block(block: &[f32], packed: &mut [u8]) -> f32 {
    let mut scaled = [0.0f32; BLOCK];
    let mut scale = largest(block);
    if block.len() == BLOCK {
        let inverse = 1.0 / scale.max(LEAST);
        for (scaled, weight) in scaled.iter_mut().zip(block) {
            *scaled = (weight * inverse).clamp(-1.0, 1.0);
        }
    } else {
        // The short block at the end is divided there, and its scale is never 0.
        if scale < LEAST {
            scale = LEAST;
        }
        for (scaled, weight) in scaled.iter_mut().zip(block) {
            *scaled = (weight / scale).clamp(-1.0, 1.0);
        }
    }
    // A value's level is the number of midpoints below it, counted for so few values that they stay in registers.
    let mut levels = [0u32; BLOCK];
    for (levels, scaled) in levels.as_chunks_mut::<16>().0.iter_mut().zip(scaled.as_chunks::<16>().0) {
        for midpoint in MIDPOINTS {
            for (level, scaled) in levels.iter_mut().zip(scaled) {
                *level += u32::from(*scaled > midpoint);
            }
        }
    }
    for (byte, pair) in packed.iter_mut().zip(levels.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, level| byte << 4 | *level as u8);
    }
    scale
}

/// Quantises scales, less their mean `offset`, in blocks of [`SCALES_BLOCK`] to the values of [`DYNAMIC`]; returns the
/// codes and the largest magnitude of each block.
///
/// bitsandbytes rounds a scaled value to one of 65536 steps before it looks for the nearest code, and so does this.
pub(crate) fn quantize_scales(scales: &[f32], offset: f32) -> (Vec<u8>, Vec<f32>) {
    const STEPS: f32 = 65535.0;
    let midpoints: Vec<f32> =
        DYNAMIC.iter().zip(DYNAMIC.iter().skip(1)).map(|(a, b)| 0.5 * (a + b)).collect();
    let mut codes = Vec::with_capacity(scales.len());
    let mut largest_of = Vec::with_capacity(scales.len().div_ceil(SCALES_BLOCK));
    for block in scales.chunks(SCALES_BLOCK) {
        let rest: Vec<f32> = block.iter().map(|scale| scale - offset).collect();
        let largest = largest(&rest);
        largest_of.push(largest);
        let inverse = 1.0 / largest;
        codes.extend(rest.iter().map(|rest| {
            if largest == 0.0 {
                return 0;
            }
            let step = (((rest * inverse).clamp(-1.0, 1.0) + 1.0) * 0.5 * STEPS + 0.5).floor();
            let value = -1.0 + 2.0 * step / STEPS;
            midpoints.partition_point(|midpoint| *midpoint < value) as u8
        }));
    }
    (codes, largest_of)
}

/// The scales of a quantised tensor, as they are held.
#[derive(Clone, Copy)]
pub(crate) enum Scales<'a> {
    Plain(&'a [f32]),
    /// `map[code] largest + offset`, with one `largest` for `block` codes.
    Double {
        codes: &'a [u8],
        largest: &'a [f32],
        map: &'a [f32],
        offset: f32,
        block: usize,
    },
}

impl Scales<'_> {
    /// The scale of a block; 0 beyond the last.
    fn at(&self, block: usize) -> f32 {
        match *self {
            Self::Plain(scales) => scales.get(block).copied().unwrap_or(0.0),
            Self::Double { codes, largest, map, offset, block: of } => {
                let code = codes.get(block).and_then(|code| map.get(usize::from(*code)));
                code.zip(largest.get(block / of)).map_or(0.0, |(code, largest)| code * largest + offset)
            }
        }
    }
}

/// A kind of number that weights are read back in.
pub(crate) trait Number: Copy + Send {
    fn of(value: f32) -> Self;
}

impl Number for f32 {
    fn of(value: f32) -> Self {
        value
    }
}

/// The bits of a bfloat16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Bf16(pub(crate) u16);

impl Number for Bf16 {
    /// Rounds to the nearest, ties to even; `value` is finite.
    fn of(value: f32) -> Self {
        let bits = value.to_bits();
        Self(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }
}

/// Reads weights back, from a block on: each its level times the scale of its block of `block` weights, which is even.
pub(crate) fn dequantize<N: Number>(
    packed: &[u8],
    scales: Scales<'_>,
    (block, first): (usize, usize),
    out: &mut [N],
) {
    let packed = packed.get(first * block / 2..).unwrap_or_default();
    let spans = out.chunks_mut(SPAN).zip(packed.chunks(SPAN / 2)).enumerate();
    share_work(spans.collect(), |(span, (out, packed))| {
        let first = first + span * SPAN / block;
        for (at, (out, packed)) in out.chunks_mut(block).zip(packed.chunks(block / 2)).enumerate() {
            let scale = scales.at(first + at);
            let mut pairs = out.chunks_exact_mut(2);
            for (pair, &byte) in pairs.by_ref().zip(packed) {
                let [first, second] = PAIRS[usize::from(byte)];
                pair.copy_from_slice(&[N::of(first * scale), N::of(second * scale)]);
            }
            if let ([last], Some(&byte)) = (pairs.into_remainder(), packed.last()) {
                *last = N::of(PAIRS[usize::from(byte)][0] * scale);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(weights: &[f32]) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
        let (packed, scales) = quantize(weights).unwrap();
        let mut out = vec![9.0; weights.len()];
        dequantize(&packed, Scales::Plain(&scales), (BLOCK, 0), &mut out);
        (packed, scales, out)
    }

    #[test]
    fn levels_come_back_and_ties_go_down() {
        let mut weights: Vec<f32> = LEVELS.iter().map(|level| level * 0.5).collect();
        weights.resize(BLOCK, 0.0);
        let (packed, scales, out) = both(&weights);
        assert_eq!(packed[..8], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!((scales, out), (vec![0.5], weights));
        let mut weights = MIDPOINTS.to_vec();
        weights.resize(BLOCK, 1.0);
        assert_eq!(both(&weights).0[..8], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        weights[0] = f32::from_bits(MIDPOINTS[0].to_bits() - 1);
        assert_eq!(both(&weights).0[0], 0x11, "just above the lowest midpoint");
    }

    #[test]
    fn zeros_short_blocks_and_odd_ends() {
        assert_eq!(both(&[0.0; 64]), (vec![0x77; 32], vec![0.0], vec![0.0; 64]));
        // As in the reference, a short block has a scale even where all is zero.
        assert_eq!(both(&[0.0; 3]), (vec![0x77; 2], vec![LEAST], vec![0.0; 3]));
        let weights: Vec<f32> = (0..131).map(|at| (at as f32 * 0.7).sin()).collect();
        let (packed, scales, out) = both(&weights);
        assert_eq!((packed.len(), scales.len()), (66, 3));
        assert_eq!(packed[65] & 15, 7, "filled with the level 0");
        let largest = weights[128..].iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
        assert!(scales[2] == largest && out[128..].iter().any(|value| value.abs() == largest));
        assert_eq!(both(&[]), (vec![], vec![], vec![]));
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for len in [64, 5] {
                let mut weights = vec![0.5; len];
                weights[3] = bad;
                assert_eq!(quantize(&weights), None);
            }
        }
    }

    #[test]
    fn equal_scales_are_their_mean() {
        let (codes, largest) = quantize_scales(&[0.25; 3], 0.25);
        assert_eq!((codes.as_slice(), largest.as_slice()), ([0; 3].as_slice(), [0.0].as_slice()));
        let scales =
            Scales::Double { codes: &codes, largest: &largest, map: &*DYNAMIC, offset: 0.25, block: 256 };
        assert_eq!((0..3).map(|at| scales.at(at)).collect::<Vec<_>>(), [0.25; 3]);
    }

    #[test]
    fn many_spans_agree_with_one_block_at_a_time() {
        let weights: Vec<f32> = (0..3 * SPAN + 77).map(|at| (at as f32 * 0.37).sin() * 0.02).collect();
        let (packed, scales, out) = both(&weights);
        for (at, block) in weights.chunks(BLOCK).enumerate() {
            let (own, scale, back) = both(block);
            let place = at * BLOCK;
            assert_eq!((&packed[place / 2..place / 2 + own.len()], scales[at]), (own.as_slice(), scale[0]));
            assert_eq!(out[place..place + block.len()], back);
        }
    }

    #[test]
    fn bfloat16_is_rounded_to_even() {
        let kinds = |value: f32| (Bf16::of(value).0, libtorchs(value));
        for value in [1.0, -1.003_906_2, 1.011_718_8, 0.1, -3.3e-5, 1e-39, 0.0] {
            let (ours, expected) = kinds(value);
            assert_eq!(ours, expected, "{value}");
        }
    }

    fn libtorchs(value: f32) -> u16 {
        let mut bytes = [0; 2];
        tch::Tensor::from_slice(&[value]).to_kind(tch::Kind::BFloat16).copy_data_u8(&mut bytes, 1);
        u16::from_le_bytes(bytes)
    }
}
