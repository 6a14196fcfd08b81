//! Loading a checkpoint whose linear layers are, or become, NF4.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use tch::Device;

use super::stored::{PARTS, is_fp4};
use super::weight::{Nf4Weight, Tables};
use super::{LoadOptions, Nf4, config};
use crate::config::OtherKeys;
use crate::error::{Error, Result};
use crate::layers::Layout;
use crate::parameters::{ParameterSpec, Parameters};
use crate::weights::{self, Checkpoint, Headers, Index, LoadReport, TensorName};

/// Fills the parameters of a model from a folder, as [`crate::load`] does, with the linear layers in NF4 where the options
/// or the folder's `config.json` say so. `layout_of` tells the weights that may be: None for all others.
///
/// A float checkpoint is quantised a tensor at a time; it is never in memory as a whole.
pub(crate) fn load(
    folder: &Path,
    specs: Vec<ParameterSpec>,
    device: Device,
    options: LoadOptions,
    layout_of: &dyn Fn(&str) -> Option<Layout>,
    name_of: &dyn Fn(&str) -> TensorName,
) -> Result<(Parameters, LoadReport)> {
    let keys: OtherKeys = crate::config::read(folder)?;
    let stored = config::read(&keys)?;
    if let (Some(stored), Some(asked)) = (stored, options.quantize)
        && stored != asked
    {
        let reason = format!(
            "is {}, and another was asked for; load the checkpoint as it is, or quantise the float one",
            stored.double_quant
        );
        return Err(Error::Config { key: "quantization_config.bnb_4bit_use_double_quant", reason });
    }
    if stored.is_none() && options.quantize.is_none() {
        if options.mapped && device == Device::Cpu {
            return weights::map_new(folder, specs, options.kind, name_of);
        }
        return weights::load_new(folder, specs, device, options.kind, name_of);
    }
    let checkpoint = Checkpoint::open(folder)?;
    let mut index = checkpoint.index(name_of)?;
    let headers = checkpoint.headers()?;
    let (mut read, mut problems) = (BTreeMap::new(), Vec::new());
    if let Some(nf4) = stored {
        let tables = Tables::new(device)?;
        for (spec, layout) in specs.iter().filter_map(|spec| Some((spec, layout_of(&spec.name)?))) {
            match read_stored(spec, layout, nf4, &tables, &mut index, &headers)? {
                Some(Ok(weight)) => drop(read.insert(spec.name.clone(), weight)),
                Some(Err(problem)) => problems.push((spec.name.clone(), problem)),
                None => {}
            }
        }
    }
    let problem = |spec: &ParameterSpec| problems.iter().any(|(name, _)| *name == spec.name);
    let rest = specs.into_iter().filter(|spec| !read.contains_key(&spec.name) && !problem(spec));
    let mut rest: Vec<ParameterSpec> = rest.collect();
    let (found, mut report) = checkpoint.compare(index, &rest, options.kind)?;
    report.mismatched.extend(problems.into_iter().map(|(name, problem)| format!("{name}: {problem}")));
    report.loaded += read.len();
    report.quantized = read.keys().cloned().collect();
    let mut report = checkpoint.exact(report)?;
    if let (Some(nf4), None) = (options.quantize, stored) {
        let tables = Tables::new(device)?;
        let _no_grad = tch::no_grad_guard();
        for (name, layout) in rest.iter().filter_map(|spec| Some((&spec.name, layout_of(&spec.name)?))) {
            let Some(entry) = found.get(name) else { continue };
            let weight = headers.tensor(entry)?.f_to_kind(options.kind)?;
            let weight = if layout == Layout::InOut { weight.f_tr()? } else { weight };
            read.insert(name.clone(), Nf4Weight::quantize_with(name, &weight, nf4, &tables)?);
        }
        if read.is_empty() {
            let reason = "was asked for, and this model has no linear layer that may be".to_owned();
            return Err(Error::Quantized { tensor: "NF4".to_owned(), reason });
        }
        rest.retain(|spec| !read.contains_key(&spec.name));
        report.quantized = read.keys().cloned().collect();
    }
    let mut parameters = Parameters::zeros(rest, device, options.kind)?;
    checkpoint.copy(&found, &mut parameters)?;
    for (name, weight) in read {
        parameters.hold(name, weight);
    }
    Ok((parameters, report))
}

/// Takes a quantised weight's parts out of the index, and reads them; None where the weight lies there in float, as
/// modules do that were left out when the checkpoint was made.
fn read_stored(
    spec: &ParameterSpec,
    layout: Layout,
    nf4: Nf4,
    tables: &Tables,
    index: &mut Index,
    headers: &Headers<'_>,
) -> Result<Option<Result<Nf4Weight, String>>> {
    let Some(entry) = index.found.get(&spec.name) else { return Ok(None) };
    if !matches!(headers.view(entry)?.dtype(), Dtype::U8 | Dtype::I8) {
        return Ok(None);
    }
    let mut parts = BTreeMap::new();
    for ending in PARTS {
        if let Some(entry) = index.found.remove(&format!("{}{ending}", spec.name)) {
            parts.insert(ending, headers.view(&entry)?);
        }
    }
    let mut below = index.found.keys().filter_map(|name| name.strip_prefix(spec.name.as_str()));
    if below.any(is_fp4) {
        return Ok(Some(Err("its state is that of fp4; nf4 is read".to_owned())));
    }
    let [rows, columns] = spec.shape[..] else {
        return Ok(Some(Err(format!("has shape {:?}; matrices are quantised", spec.shape))));
    };
    // Checkpoints hold the weight of a `Conv1D` transposed, as the `nn.Linear` that it becomes.
    let shape = if layout == Layout::InOut { [columns, rows] } else { [rows, columns] };
    Ok(Some(Nf4Weight::read(&parts, shape, nf4.double_quant, tables)))
}
