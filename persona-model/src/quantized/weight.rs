//! A weight matrix in NF4: tensors as they are held, and reading them back.

use tch::{Device, Kind, Tensor};
use xxhash_rust::xxh3::Xxh3;

use super::Nf4;
use super::format::{self, BLOCK, Bf16, DYNAMIC, Number, PAIRS, SCALES_BLOCK, Scales};
use crate::error::{Error, Result};

/// A frozen weight matrix `[out, in]` in 4-bit NormalFloat (NF4; Dettmers et al. 2023, QLoRA), as bitsandbytes 0.50 makes
/// it on the CPU.
///
/// Weights stand in blocks of 64, row after row; each is one of 16 levels times the largest magnitude of its block, the
/// block's scale. With double quantisation a scale is an 8-bit code: `map[code] largest + offset`, where offset is the
/// mean of all scales and `largest` is kept for 256 of them. That is 4.5 bits a weight, or 4.13.
///
/// What is read back is a constant of the autograd graph: gradients go to the inputs of a product, never to the weight.
#[derive(Debug)]
pub struct Nf4Weight {
    pub(super) shape: [i64; 2],
    /// Two weights a byte, `[(N + 1) / 2]` for N weights.
    pub(super) packed: Tensor,
    pub(super) scales: HeldScales,
    /// Weights that share a scale.
    pub(super) block: usize,
    /// The kind of the weights before they were quantised.
    pub(super) kind: Kind,
    pub(super) tables: Tables,
}

/// One scale a block.
#[derive(Debug)]
pub(super) enum HeldScales {
    /// float32 `[blocks]`.
    Plain(Tensor),
    Double {
        /// uint8 `[blocks]`.
        codes: Tensor,
        /// float32, one for `block` codes.
        largest: Tensor,
        /// float32 `[256]`.
        map: Tensor,
        /// Held as it stands in a checkpoint; computed with in float32.
        offset: f64,
        block: usize,
    },
}

/// Constants that the weights of a model share.
#[derive(Debug)]
pub(crate) struct Tables {
    /// The two levels of each byte, float32 `[256, 2]`.
    pub(super) pairs: Tensor,
    /// The 8-bit code of scales, float32 `[256]`.
    pub(super) dynamic: Tensor,
}

impl Tables {
    pub(crate) fn new(device: Device) -> Result<Self> {
        Ok(Self {
            pairs: Tensor::f_from_slice(PAIRS.as_flattened())?.f_view([256, 2])?.f_to_device(device)?,
            dynamic: Tensor::f_from_slice(DYNAMIC.as_slice())?.f_to_device(device)?,
        })
    }

    pub(super) fn shallow_clone(&self) -> Self {
        Self { pairs: self.pairs.shallow_clone(), dynamic: self.dynamic.shallow_clone() }
    }
}

/// Tokens up to which reading the weights back costs more than the product.
const FEW: i64 = 64;

impl Nf4Weight {
    /// Quantises a matrix `[out, in]` of any floating-point kind; the result is on its device.
    ///
    /// # Errors
    /// [`Error::Quantized`] for a tensor that is no matrix, or holds NaN or an infinite value; libtorch's.
    pub fn quantize(weight: &Tensor, nf4: Nf4) -> Result<Self> {
        Self::quantize_with("weight", weight, nf4, &Tables::new(weight.device())?)
    }

    pub(crate) fn quantize_with(name: &str, weight: &Tensor, nf4: Nf4, tables: &Tables) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let fail = |reason: &str| Error::Quantized { tensor: name.to_owned(), reason: reason.to_owned() };
        let (kind, device) = (weight.kind(), tables.pairs.device());
        if !matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half) {
            return Err(fail(&format!("is of kind {kind:?}; float32, bfloat16 and float16 are quantised")));
        }
        let [rows, columns] = weight.size()[..] else {
            return Err(fail(&format!("has shape {:?}; matrices are quantised", weight.size())));
        };
        let host = weight.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let (packed, scales) = format::quantize(host_slice(&host))
            .ok_or_else(|| fail("holds NaN or an infinite value, which has no place among 16 levels"))?;
        let scales = if nf4.double_quant && !scales.is_empty() {
            // libtorch's mean, which sums in an order of its own.
            let offset = Tensor::f_from_slice(&scales)?.f_mean(Kind::Float)?.f_double_value(&[])?;
            let (codes, largest) = format::quantize_scales(&scales, offset as f32);
            HeldScales::Double {
                codes: Tensor::f_from_slice(&codes)?.f_to_device(device)?,
                largest: Tensor::f_from_slice(&largest)?.f_to_device(device)?,
                map: tables.dynamic.shallow_clone(),
                offset,
                block: SCALES_BLOCK,
            }
        } else {
            HeldScales::Plain(Tensor::f_from_slice(&scales)?.f_to_device(device)?)
        };
        let packed = Tensor::f_from_slice(&packed)?.f_to_device(device)?;
        let tables = tables.shallow_clone();
        Ok(Self { shape: [rows, columns], packed, scales, block: BLOCK, kind, tables })
    }

    /// The shape `[out, in]`.
    #[must_use]
    pub fn size2(&self) -> (i64, i64) {
        self.shape.into()
    }

    /// The number of weights.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Bytes held: packed weights and scales, without the tables of 3 KiB that all weights of a model share.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        held(&self.packed)
            + match &self.scales {
                HeldScales::Plain(scales) => held(scales),
                HeldScales::Double { codes, largest, .. } => held(codes) + held(largest),
            }
    }

    /// Whether the scales are quantised too.
    #[must_use]
    pub fn double_quant(&self) -> bool {
        matches!(self.scales, HeldScales::Double { .. })
    }

    /// The matrix `[out, in]` in a floating-point kind: level times scale in float32, rounded once.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn dequantize(&self, kind: Kind) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        if self.packed.device() != Device::Cpu {
            return Ok(self.dequantize_by_operations()?.f_to_kind(kind)?);
        }
        self.rows(0, self.shape[0], kind)
    }

    /// `x [N, in]` times the transposed matrix, plus a bias `[out]`: `[N, out]`, all of the kind of `x`.
    ///
    /// For few tokens on the CPU without a gradient, as in decoding, the matrix is read back some rows at a time, which
    /// stay in the processor's cache. Otherwise it is read back whole, and lives until the product is made; where `x` has
    /// a gradient, libtorch keeps it until the backward pass is done.
    pub(crate) fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let [outputs, _] = self.shape;
        let (tokens, tile) = (x.size2()?.0, self.tile());
        if x.requires_grad() || x.device() != Device::Cpu || tokens > FEW || tile >= outputs {
            let weight = self.dequantize(x.kind())?.f_tr()?;
            return Ok(match bias {
                Some(bias) => bias.f_addmm(x, &weight)?,
                None => x.f_mm(&weight)?,
            });
        }
        let _no_grad = tch::no_grad_guard();
        let product = Tensor::f_empty([tokens, outputs], (x.kind(), x.device()))?;
        let mut first = 0;
        while first < outputs {
            let rows = tile.min(outputs - first);
            let weight = self.rows(first, rows, x.kind())?.f_tr()?;
            let part = product.f_narrow(1, first, rows)?;
            match bias {
                Some(bias) => drop(bias.f_narrow(0, first, rows)?.f_addmm_out(&part, x, &weight)?),
                None => drop(x.f_mm_out(&part, &weight)?),
            }
            first += rows;
        }
        Ok(product)
    }

    /// Rows that are read back at a time: they start with a block.
    fn tile(&self) -> i64 {
        const WEIGHTS: i64 = 1 << 20;
        let (inputs, block) = (self.shape[1].max(1), self.block as i64);
        // A block is a power of two.
        let step = (block >> inputs.trailing_zeros().min(block.trailing_zeros())).max(1);
        (WEIGHTS / inputs / step).max(1) * step
    }

    /// Rows of the matrix from `first` on, which starts a block, in main memory.
    fn rows(&self, first: i64, rows: i64, kind: Kind) -> Result<Tensor> {
        match kind {
            Kind::Float => self.rows_of::<f32>(first, rows, kind),
            Kind::BFloat16 => self.rows_of::<Bf16>(first, rows, kind),
            _ => Ok(self.rows_of::<f32>(first, rows, Kind::Float)?.f_to_kind(kind)?),
        }
    }

    /// One threaded pass. `kind` is that of `N`.
    fn rows_of<N: Number>(&self, first: i64, rows: i64, kind: Kind) -> Result<Tensor> {
        let mut out = Tensor::f_empty([rows, self.shape[1]], (kind, Device::Cpu))?;
        let scales = match &self.scales {
            HeldScales::Plain(scales) => Scales::Plain(host_slice(scales)),
            HeldScales::Double { codes, largest, map, offset, block } => Scales::Double {
                codes: host_slice(codes),
                largest: host_slice(largest),
                map: host_slice(map),
                offset: *offset as f32,
                block: *block,
            },
        };
        let place = (self.block, (first * self.shape[1]) as usize / self.block);
        format::dequantize(host_slice(&self.packed), scales, place, host_slice_mut::<N>(&mut out));
        Ok(out)
    }

    /// The same in tensor operations, on any device; float32.
    fn dequantize_by_operations(&self) -> Result<Tensor> {
        let scales = match &self.scales {
            HeldScales::Plain(scales) => scales.shallow_clone(),
            HeldScales::Double { codes, largest, map, offset, block } => {
                let count = codes.numel() as i64;
                let largest = largest.f_repeat_interleave_self_int(*block as i64, 0, None)?;
                let values = map.f_index_select(0, &codes.f_to_kind(Kind::Int)?)?;
                values.f_mul(&largest.f_narrow(0, 0, count)?)?.f_add_scalar(f64::from(*offset as f32))?
            }
        };
        let levels = self.tables.pairs.f_index_select(0, &self.packed.f_to_kind(Kind::Int)?)?.f_view(-1)?;
        let (count, block) = (self.count() as i64, self.block as i64);
        let whole = count / block;
        let mut blocks = levels.f_narrow(0, 0, whole * block)?.f_view([whole, block])?;
        let _ = blocks.f_mul_(&scales.f_narrow(0, 0, whole)?.f_unsqueeze(1)?)?;
        if whole * block < count {
            let mut rest = levels.f_narrow(0, whole * block, count - whole * block)?;
            let _ = rest.f_mul_(&scales.f_narrow(0, whole, 1)?)?;
        }
        Ok(levels.f_narrow(0, 0, count)?.f_view(self.shape)?)
    }

    /// The same weight: its tensors are shared, which nothing writes to.
    pub(crate) fn shallow_clone(&self) -> Self {
        let scales = match &self.scales {
            HeldScales::Plain(scales) => HeldScales::Plain(scales.shallow_clone()),
            HeldScales::Double { codes, largest, map, offset, block } => HeldScales::Double {
                codes: codes.shallow_clone(),
                largest: largest.shallow_clone(),
                map: map.shallow_clone(),
                offset: *offset,
                block: *block,
            },
        };
        let (packed, tables) = (self.packed.shallow_clone(), self.tables.shallow_clone());
        Self { shape: self.shape, packed, scales, block: self.block, kind: self.kind, tables }
    }

    pub(crate) fn hash(&self, hash: &mut Xxh3) -> Result<()> {
        for (part, tensor) in self.tensors()? {
            hash.update(part.as_bytes());
            let tensor = tensor.f_to_device(Device::Cpu)?;
            let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
            tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
            hash.update(&bytes);
        }
        Ok(())
    }
}

/// Reads a contiguous tensor in main memory whose elements are `T`s.
#[allow(unsafe_code)]
fn host_slice<T>(tensor: &Tensor) -> &[T] {
    debug_assert!(tensor.device() == Device::Cpu && tensor.is_contiguous());
    debug_assert_eq!(tensor.kind().elt_size_in_bytes(), size_of::<T>());
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: the callers pass contiguous tensors on the CPU of a kind as wide as `T`, which is a plain number; the
    // tensor keeps its storage alive for as long as the slice, and weights are never written to.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// Writes a contiguous tensor in main memory whose elements are `T`s.
#[allow(unsafe_code)]
fn host_slice_mut<T>(tensor: &mut Tensor) -> &mut [T] {
    debug_assert!(tensor.device() == Device::Cpu && tensor.is_contiguous());
    debug_assert_eq!(tensor.kind().elt_size_in_bytes(), size_of::<T>());
    if tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: the caller passes a tensor that it has just made, on the CPU, contiguous and of a kind as wide as `T`, which
    // is a plain number; nobody else has its storage.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: i64, columns: i64) -> Tensor {
        (Tensor::arange(rows * columns, (Kind::Float, Device::Cpu)) * 0.37).sin().view([rows, columns])
    }

    #[test]
    fn the_threaded_pass_and_the_operations_agree() {
        for (rows, columns) in [(3, 64), (7, 33), (130, 1030), (1, 1)] {
            for double_quant in [false, true] {
                let weight = Nf4Weight::quantize(&matrix(rows, columns), Nf4 { double_quant }).unwrap();
                let pass = weight.dequantize(Kind::Float).unwrap();
                assert_eq!(pass, weight.dequantize_by_operations().unwrap());
                assert_eq!(pass.to_kind(Kind::BFloat16), weight.dequantize(Kind::BFloat16).unwrap());
                assert_eq!(pass.to_kind(Kind::Half), weight.dequantize(Kind::Half).unwrap());
            }
        }
    }

    #[test]
    fn products_of_tiles_and_of_the_whole_agree() {
        for (rows, columns) in [(1200, 2048), (3000, 1030), (2100, 1001)] {
            let weight = Nf4Weight::quantize(&matrix(rows, columns), Nf4::default()).unwrap();
            assert!(weight.tile() < rows && weight.tile() * columns % 64 == 0);
            let bias = matrix(1, rows).view(-1);
            for kind in [Kind::Float, Kind::BFloat16] {
                let x = matrix(3, columns).to_kind(kind);
                let whole = x.mm(&weight.dequantize(kind).unwrap().tr());
                let largest = whole.abs().max().double_value(&[]);
                let tolerance = largest * if kind == Kind::Float { 1e-5 } else { 0.01 };
                for bias in [None, Some(bias.to_kind(kind))] {
                    let product = weight.product(&x, bias.as_ref()).unwrap();
                    let expected = bias.map_or(whole.shallow_clone(), |bias| &whole + bias);
                    assert_eq!((product.kind(), product.size()), (kind, expected.size()));
                    let off = (product - &expected).abs().max().double_value(&[]);
                    assert!(off <= tolerance, "{off} beside {expected:?}");
                }
            }
        }
    }

    #[test]
    fn a_weight_takes_little_more_than_four_bits() {
        let weight = |double_quant| Nf4Weight::quantize(&matrix(256, 1024), Nf4 { double_quant }).unwrap();
        let bits = |weight: &Nf4Weight| weight.bytes() as f64 * 8.0 / weight.count() as f64;
        assert_eq!(bits(&weight(false)), 4.5);
        assert_eq!(bits(&weight(true)), 4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0));
    }

    #[test]
    fn what_is_no_matrix_of_numbers_is_refused() {
        let refused = |weight: &Tensor| Nf4Weight::quantize(weight, Nf4::default()).unwrap_err().to_string();
        assert!(refused(&Tensor::from_slice(&[1.0f32])).contains("[1]"));
        assert!(refused(&Tensor::from_slice2(&[[1i64]])).contains("Int64"));
        assert!(refused(&Tensor::from_slice2(&[[1.0f32, f32::NAN]])).contains("NaN"));
    }
}
