//! Kernels for the CPU where libtorch's are slow.
//!
//! A step of decoding multiplies few rows with every weight: it is bound by reading the weights, of which libtorch's
//! products reach a fifth of the memory's speed, and its attention computes with padding and copies. The kernels of `few`
//! and `step` read every weight once in the order in which it lies, and every row's keys and values alone. Numbers are
//! float32; weights may be bfloat16. A row's result has the same bits whatever rows are beside it.
//!
//! Training, prefill and encoders multiply many rows: `matrix`, which `linear`, `rows` (attention) and `gate` (activations)
//! use, with the gradients.
//!
//! They need x86 with AVX-512, or AVX2 and FMA, and contiguous tensors in main memory. Everything else goes through
//! libtorch.

#[cfg(target_arch = "x86_64")]
mod exp;
mod few;
mod gate;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod linear;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod panel;
mod rows;
mod step;

pub(crate) use self::gate::{Gate, gate};
pub(crate) use self::linear::{gated_linear, linear};
pub(crate) use self::rows::{Heads, attend_rows};
pub(crate) use self::step::attend_step;

use tch::{Device, Kind, Tensor};

/// The numbers of a contiguous tensor in main memory.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    Float(&'a [f32]),
    /// bfloat16, by its bits.
    BFloat16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    /// None for a tensor that the kernels do not read.
    #[allow(unsafe_code)]
    fn of(tensor: &'a Tensor) -> Option<Self> {
        if tensor.device() != Device::Cpu || !tensor.is_contiguous() || tensor.numel() == 0 {
            return None;
        }
        let (start, count) = (tensor.data_ptr(), tensor.numel());
        // SAFETY: a contiguous tensor in main memory has so many elements of its kind from its start on, and keeps its
        // storage alive for as long as the slice. Nothing is written to it meanwhile: models are not shared by threads.
        match tensor.kind() {
            Kind::Float => Some(Self::Float(unsafe { std::slice::from_raw_parts(start.cast(), count) })),
            Kind::BFloat16 => {
                Some(Self::BFloat16(unsafe { std::slice::from_raw_parts(start.cast(), count) }))
            }
            _ => None,
        }
    }

    fn float(self) -> Option<&'a [f32]> {
        match self {
            Self::Float(numbers) => Some(numbers),
            Self::BFloat16(_) => None,
        }
    }
}

/// Numbers that threads write, each to places of its own.
#[derive(Clone, Copy)]
struct Output<T = f32> {
    start: *mut T,
    len: usize,
}

// SAFETY: who shares it sees to it that no two threads write to one place.
#[allow(unsafe_code)]
unsafe impl<T> Sync for Output<T> {}

impl Output<u16> {
    /// None for a tensor that is not contiguous bfloat16 in main memory.
    fn of_bfloat16(tensor: &mut Tensor) -> Option<Self> {
        Self::of_kind(tensor, Kind::BFloat16)
    }
}

impl Output {
    /// None for a tensor that is not contiguous float32 in main memory.
    fn of(tensor: &mut Tensor) -> Option<Self> {
        Self::of_kind(tensor, Kind::Float)
    }
}

impl<T> Output<T> {
    fn of_kind(tensor: &mut Tensor, kind: Kind) -> Option<Self> {
        let holds = tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.is_contiguous();
        holds.then(|| Self { start: tensor.data_ptr().cast(), len: tensor.numel() })
    }

    /// The place of an index, of which `count` numbers follow. Panics where there are fewer.
    #[allow(unsafe_code)]
    fn at(self, index: usize, count: usize) -> *mut T {
        assert!(
            index.checked_add(count).is_some_and(|end| end <= self.len),
            "{index} + {count} of {}",
            self.len
        );
        // SAFETY: the index lies within the storage, as was just checked.
        unsafe { self.start.add(index) }
    }
}

/// The instructions that this processor has, of those that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    Avx512,
    Avx2,
}

impl Instructions {
    /// None where libtorch computes everything.
    fn here() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                return Some(Self::Avx512);
            }
            if avx2 {
                return Some(Self::Avx2);
            }
        }
        None
    }
}
