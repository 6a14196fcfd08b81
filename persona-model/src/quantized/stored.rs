//! A weight as bitsandbytes keeps it in safetensors: the packed weights under the weight's own name, its other parts
//! under names below it, and what is no tensor as JSON in a tensor of bytes.

use std::collections::BTreeMap;
use std::fmt::Write;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use tch::{Device, Tensor};

use super::config::{kind_of, name_of};
use super::format::LEVELS;
use super::weight::{HeldScales, Nf4Weight, Tables};
use crate::error::Result;

const SCALES: &str = ".absmax";
const LEVEL_MAP: &str = ".quant_map";
const LARGEST: &str = ".nested_absmax";
const SCALE_MAP: &str = ".nested_quant_map";
const STATE: &str = ".quant_state.bitsandbytes__nf4";
const OTHER_STATE: &str = ".quant_state.bitsandbytes__fp4";

/// The endings that a quantised weight's name has for its parts.
pub(super) const PARTS: [&str; 6] = ["", SCALES, LEVEL_MAP, LARGEST, SCALE_MAP, STATE];

/// The part that a weight in FP4 has in place of the NF4 one.
pub(super) fn is_fp4(part: &str) -> bool {
    part == OTHER_STATE
}

/// What is no tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: [i64; 2],
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

impl Nf4Weight {
    /// The parts as bitsandbytes keeps them, by the ending of their names: the packed weights `[n, 1]` (no ending),
    /// `.absmax`, `.quant_map`, `.quant_state.bitsandbytes__nf4`, and with double quantisation `.nested_absmax` and
    /// `.nested_quant_map`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn tensors(&self) -> Result<Vec<(&'static str, Tensor)>> {
        let [rows, columns] = self.shape;
        let mut state = format!(
            r#"{{"quant_type": "nf4", "blocksize": {}, "dtype": "{}", "shape": [{rows}, {columns}]"#,
            self.block,
            name_of(self.kind)
        );
        let mut parts = vec![("", self.packed.f_view([-1, 1])?), (LEVEL_MAP, Tensor::f_from_slice(&LEVELS)?)];
        match &self.scales {
            HeldScales::Plain(scales) => parts.push((SCALES, scales.shallow_clone())),
            HeldScales::Double { codes, largest, map, offset, block } => {
                parts.push((SCALES, codes.shallow_clone()));
                parts.push((LARGEST, largest.shallow_clone()));
                parts.push((SCALE_MAP, map.shallow_clone()));
                let offset = python_float(*offset);
                // Writing to a string does not fail.
                let _ = write!(
                    state,
                    r#", "nested_blocksize": {block}, "nested_dtype": "float32", "nested_offset": {offset}"#
                );
            }
        }
        state.push('}');
        parts.push((STATE, Tensor::f_from_slice(state.as_bytes())?));
        Ok(parts)
    }

    /// Reads a matrix `[out, in]` from its parts in a file; the error says what is wrong with them.
    pub(super) fn read(
        parts: &BTreeMap<&'static str, TensorView<'_>>,
        shape: [i64; 2],
        double_quant: bool,
        tables: &Tables,
    ) -> Result<Self, String> {
        let part = |ending: &'static str| parts.get(ending).ok_or(format!("{ending} is missing"));
        let state = part(STATE)?;
        if state.dtype() != Dtype::U8 {
            return Err(format!("{STATE} has kind {:?}, not U8", state.dtype()));
        }
        let state: State =
            serde_json::from_slice(state.data()).map_err(|error| format!("{STATE}: {error}"))?;
        if state.quant_type != "nf4" {
            return Err(format!("quant_type is `{}`; `nf4` is read", state.quant_type));
        }
        if state.shape != shape {
            return Err(format!("its state gives shape {:?}, the model has {shape:?}", state.shape));
        }
        let kind = kind_of(&state.dtype).ok_or(format!("its state gives dtype `{}`", state.dtype))?;
        let size = |key: &str, size: usize| {
            let known = size.is_power_of_two() && (32..=4096).contains(&size);
            if known {
                Ok(size)
            } else {
                Err(format!("{key} is {size}; powers of two from 32 to 4096 are known"))
            }
        };
        let block = size("blocksize", state.blocksize)?;
        let count = shape.iter().product::<i64>() as usize;
        let packed = bytes(part("")?, "", &[count.div_ceil(2), 1])?;
        let levels = floats(part(LEVEL_MAP)?, LEVEL_MAP, LEVELS.len())?;
        if levels != LEVELS {
            return Err(format!("{LEVEL_MAP} holds other levels than NF4's"));
        }
        let blocks = count.div_ceil(block);
        let device = tables.pairs.device();
        let tensor = |values: &[f32]| on(device, Tensor::f_from_slice(values));
        let nested = (state.nested_blocksize, state.nested_dtype, state.nested_offset);
        let scales = match (double_quant, nested) {
            (false, (None, None, None)) => {
                let scales = floats(part(SCALES)?, SCALES, blocks)?;
                magnitudes(&scales, SCALES)?;
                if let Some(ending) = [LARGEST, SCALE_MAP].iter().find(|ending| parts.contains_key(*ending)) {
                    return Err(format!("{ending} is there, which single quantisation has not"));
                }
                HeldScales::Plain(tensor(&scales)?)
            }
            (true, (Some(nested), Some(dtype), Some(offset))) => {
                let nested = size("nested_blocksize", nested)?;
                if dtype != "float32" || !offset.is_finite() {
                    return Err(format!("nested_dtype is `{dtype}`, nested_offset {offset}"));
                }
                let codes = bytes(part(SCALES)?, SCALES, &[blocks])?;
                let largest = floats(part(LARGEST)?, LARGEST, blocks.div_ceil(nested))?;
                magnitudes(&largest, LARGEST)?;
                let map = floats(part(SCALE_MAP)?, SCALE_MAP, 256)?;
                if !map.iter().all(|value| value.abs() <= 1.0) || !map.is_sorted() {
                    return Err(format!("{SCALE_MAP} is no ascending map to -1..1"));
                }
                let shared = map == *super::format::DYNAMIC;
                let map = if shared { tables.dynamic.shallow_clone() } else { tensor(&map)? };
                let (codes, largest) = (on(device, Tensor::f_from_slice(codes))?, tensor(&largest)?);
                HeldScales::Double { codes, largest, map, offset, block: nested }
            }
            (true, _) => {
                return Err("its state gives no nested_blocksize, nested_dtype and nested_offset, but config.json has \
                            bnb_4bit_use_double_quant"
                    .to_owned());
            }
            (false, _) => {
                return Err("its state is that of double quantisation, but config.json has no \
                            bnb_4bit_use_double_quant"
                    .to_owned());
            }
        };
        let packed = on(device, Tensor::f_from_slice(packed))?;
        Ok(Self { shape, packed, scales, block, kind, tables: tables.shallow_clone() })
    }
}

fn on(device: Device, tensor: Result<Tensor, tch::TchError>) -> Result<Tensor, String> {
    tensor.and_then(|tensor| tensor.f_to_device(device)).map_err(|error| error.to_string())
}

fn bytes<'a>(view: &TensorView<'a>, ending: &str, shape: &[usize]) -> Result<&'a [u8], String> {
    fits(view, ending, Dtype::U8, shape)?;
    Ok(view.data())
}

fn floats(view: &TensorView<'_>, ending: &str, count: usize) -> Result<Vec<f32>, String> {
    fits(view, ending, Dtype::F32, &[count])?;
    Ok(view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn fits(view: &TensorView<'_>, ending: &str, dtype: Dtype, shape: &[usize]) -> Result<(), String> {
    if (view.dtype(), view.shape()) == (dtype, shape) {
        return Ok(());
    }
    let what = if ending.is_empty() { "the packed weight" } else { ending };
    Err(format!("{what}: file {:?} {:?}, not {dtype:?} {shape:?}", view.dtype(), view.shape()))
}

/// Scales are finite and not negative.
fn magnitudes(scales: &[f32], ending: &str) -> Result<(), String> {
    match scales.iter().find(|scale| !(scale.is_finite() && **scale >= 0.0)) {
        Some(scale) => Err(format!("{ending} holds {scale}, which is no magnitude")),
        None => Ok(()),
    }
}

/// A number as Python's `json` writes it, so that what is read and written again stays the same bytes.
fn python_float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::Nf4;

    #[test]
    fn numbers_are_written_as_python_does() {
        for (value, text) in [
            (0.055_741_000_920_534_134, "0.055741000920534134"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (0.0001, "0.0001"),
            (0.00005, "5e-05"),
            (1.25e-10, "1.25e-10"),
            (-2.5e-7, "-2.5e-07"),
            (1e16, "1e+16"),
            (3e22, "3e+22"),
        ] {
            assert_eq!(python_float(value), text);
        }
    }

    #[test]
    fn the_state_is_pythons_json() {
        let matrix = Tensor::ones([2, 3], (Kind::BFloat16, Device::Cpu)) * 0.5;
        let state = |double_quant| {
            let weight = Nf4Weight::quantize(&matrix, Nf4 { double_quant }).unwrap();
            let parts = weight.tensors().unwrap();
            let state = &parts.iter().find(|(ending, _)| *ending == STATE).unwrap().1;
            String::from_utf8(Vec::<u8>::try_from(state).unwrap()).unwrap()
        };
        let plain = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 3]"#;
        assert_eq!(state(false), format!("{plain}}}"));
        let nested = r#""nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}"#;
        assert_eq!(state(true), format!("{plain}, {nested}"));
    }
}
