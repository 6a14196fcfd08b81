//! Which device computes, and in which precision.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::error::{Error, Result};

/// The kind of number in which matrix products are computed. Log-probabilities, normalisation, the residual stream and
/// master weights stay in float32 whatever is chosen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32 throughout.
    #[default]
    Fp32,
    /// bfloat16 products.
    Bf16,
}

impl Precision {
    /// The tensor kind of the products.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// The device of a name: `cpu`, `cuda`, `cuda:N`, or `auto` (CUDA where it is there, else the CPU).
///
/// # Errors
/// [`Error::Device`] when the name is unknown or CUDA was asked for and is not there: nothing falls back in silence.
pub fn device(name: &str) -> Result<Device> {
    let fail = |reason: String| Error::Device { asked: name.to_owned(), reason };
    let cuda = |index: usize| match cuda_status() {
        Ok(count) if index < *count => Ok(Device::Cuda(index)),
        Ok(count) => Err(fail(format!("there are {count} CUDA devices, numbered from 0"))),
        Err(reason) => Err(fail(reason.clone())),
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(if cuda_status().is_ok() { Device::Cuda(0) } else { Device::Cpu }),
        "cuda" => cuda(0),
        other => match other.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(index)) => cuda(index),
            _ => Err(fail("give cpu, cuda, cuda:N or auto".to_owned())),
        },
    }
}

/// The number of usable CUDA devices, or why there is none.
///
/// The linker drops `libtorch_cuda`, which nothing refers to; it is loaded here, once, and only where NVIDIA's driver is
/// installed, so that one binary serves machines with and without a GPU.
///
/// # Errors
/// The reason, in words.
pub fn cuda_status() -> &'static Result<usize, String> {
    static STATUS: OnceLock<Result<usize, String>> = OnceLock::new();
    STATUS.get_or_init(|| {
        if !load_library(c"libcuda.so.1") {
            return Err("no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded); use cpu".to_owned());
        }
        if !load_library(c"libtorch_cuda.so") {
            return Err("the driver is there but libtorch_cuda.so cannot be loaded: the libtorch in use is a CPU build; \
                        remove the .libtorch link and run the set-up again on this machine"
                .to_owned());
        }
        if !tch::Cuda::is_available() {
            return Err("libtorch_cuda.so is loaded but finds no usable device; see nvidia-smi and CUDA_VISIBLE_DEVICES"
                .to_owned());
        }
        usize::try_from(tch::Cuda::device_count()).map_err(|_| "libtorch counts no CUDA device".to_owned())
    })
}

/// Loads a shared library for the rest of the process; false when it is not there.
#[allow(unsafe_code)]
fn load_library(name: &std::ffi::CStr) -> bool {
    // SAFETY: `name` is a C string; the libraries named above have only initialisers that are safe to run, and the
    // handle is kept open for good.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    !handle.is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_errors_that_say_what_is_known() {
        let message = device("gpu").unwrap_err().to_string();
        assert!(message.contains("`gpu`") && message.contains("cuda:N"), "{message}");
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
    }

    #[test]
    fn cuda_is_an_error_with_a_reason_where_it_is_not_there() {
        match cuda_status() {
            Ok(count) => assert!(device(&format!("cuda:{count}")).is_err()),
            Err(reason) => assert!(device("cuda").unwrap_err().to_string().contains(reason.as_str())),
        }
    }
}
