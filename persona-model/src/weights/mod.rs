//! Weights in safetensors files: strict loading with a report, atomic saving.

mod checkpoint;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

pub(crate) use self::checkpoint::{Checkpoint, Headers, Index};
use self::checkpoint::{MappedFile, kind_of, tensor_of};
#[cfg(feature = "hub")]
pub(crate) use self::checkpoint::{shard_names, weight_files};
pub(crate) use self::write::write_with_config;
pub use self::write::{write_atomically, write_tensors};
use crate::error::{Error, Result};
use crate::parameters::{Init, ParameterSpec, Parameters};

/// What a model makes of a tensor's name in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorName {
    /// The parameter of this name.
    Parameter(String),
    /// Known and not needed: a buffer, or a copy of a tied weight.
    Ignored,
    /// A copy of the parameter of this name: not needed where the values are equal, refused where they differ.
    CopyOf(String),
}

/// What loading a checkpoint found. Loading is strict: anything missing, unexpected or of another shape is an error that
/// carries this report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// How many parameters were filled.
    pub loaded: usize,
    /// Parameters that no file holds.
    pub missing: Vec<String>,
    /// Parameters that no file holds and that start afresh, as the caller asked by name.
    pub initialised: Vec<String>,
    /// Tensors that are no parameter of the model.
    pub unexpected: Vec<String>,
    /// Tensors of another shape, each with both shapes.
    pub mismatched: Vec<String>,
    /// Tensors whose kind was changed, each with both kinds.
    pub cast: Vec<String>,
    /// Weights that are held in NF4.
    pub quantized: Vec<String>,
    /// Tensors that the model knows and does not need, such as attention masks and copies of tied weights.
    pub ignored: Vec<String>,
}

impl LoadReport {
    /// Whether the files hold exactly the model's parameters.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }

    /// Adds what loading further files found.
    pub(crate) fn extend(&mut self, more: Self) {
        self.loaded += more.loaded;
        self.missing.extend(more.missing);
        self.initialised.extend(more.initialised);
        self.unexpected.extend(more.unexpected);
        self.mismatched.extend(more.mismatched);
        self.cast.extend(more.cast);
        self.quantized.extend(more.quantized);
        self.ignored.extend(more.ignored);
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} loaded", self.loaded)?;
        for (what, names) in [
            ("missing", &self.missing),
            ("initialised", &self.initialised),
            ("unexpected", &self.unexpected),
            ("of another shape", &self.mismatched),
            ("cast", &self.cast),
            ("in NF4", &self.quantized),
            ("ignored", &self.ignored),
        ] {
            if let Some(first) = names.first() {
                write!(
                    f,
                    ", {} {what} ({first}{})",
                    names.len(),
                    if names.len() > 1 { ", ..." } else { "" }
                )?;
            }
        }
        Ok(())
    }
}

/// Fills `parameters` from the safetensors of a folder in the Hugging Face layout (`model.safetensors`, or the shards
/// of `model.safetensors.index.json`), or from one safetensors file. Values are cast to the parameters' kind.
///
/// The parameters are untouched when anything does not fit: everything is compared before the first value is copied.
///
/// # Errors
/// [`Error::Load`] with the report unless the files hold exactly the model's parameters; [`Error::NoWeights`],
/// [`Error::Safetensors`], [`Error::Shards`] and [`Error::Io`] for the files themselves.
pub fn load(
    path: &Path,
    parameters: &mut Parameters,
    name_of: &dyn Fn(&str) -> TensorName,
) -> Result<LoadReport> {
    let checkpoint = Checkpoint::open(path)?;
    let index = checkpoint.index(name_of)?;
    let (found, report) = checkpoint.compare(index, parameters.specs(), parameters.kind())?;
    let report = checkpoint.exact(report)?;
    checkpoint.copy(&found, parameters)?;
    Ok(report)
}

/// Makes parameters of these shapes and fills them as [`load`] does. Memory is asked for only once the files are known
/// to hold these shapes, so that a configuration that lies about sizes costs nothing.
pub(crate) fn load_new(
    path: &Path,
    specs: Vec<ParameterSpec>,
    device: Device,
    kind: Kind,
    name_of: &dyn Fn(&str) -> TensorName,
) -> Result<(Parameters, LoadReport)> {
    load_partly(path, specs, (device, kind), name_of, (0, &|_| false))
}

/// As [`load_new`] on the CPU, with the values left in their file where it holds all of them as they are wanted.
pub(crate) fn map_new(
    path: &Path,
    specs: Vec<ParameterSpec>,
    kind: Kind,
    name_of: &dyn Fn(&str) -> TensorName,
) -> Result<(Parameters, LoadReport)> {
    let checkpoint = Checkpoint::open(path)?;
    let (found, report) = checkpoint.compare(checkpoint.index(name_of)?, &specs, kind)?;
    let report = checkpoint.exact(report)?;
    match checkpoint.mapped(&found, &specs, kind)? {
        Some((flat, offsets)) => Ok((Parameters::mapped(flat, specs, offsets)?, report)),
        None => {
            let mut parameters = Parameters::unset(specs, Device::Cpu, kind)?;
            checkpoint.copy(&found, &mut parameters)?;
            Ok((parameters, report))
        }
    }
}

/// As [`load_new`]; parameters whose names `fresh` takes may be missing: they start as their specs say, drawn from
/// `seed`, and are reported.
pub(crate) fn load_partly(
    path: &Path,
    mut specs: Vec<ParameterSpec>,
    (device, kind): (Device, Kind),
    name_of: &dyn Fn(&str) -> TensorName,
    (seed, fresh): (u64, &dyn Fn(&str) -> bool),
) -> Result<(Parameters, LoadReport)> {
    let checkpoint = Checkpoint::open(path)?;
    let index = checkpoint.index(name_of)?;
    let (found, mut report) = checkpoint.compare(index, &specs, kind)?;
    (report.initialised, report.missing) =
        std::mem::take(&mut report.missing).into_iter().partition(|name| fresh(name));
    let report = checkpoint.exact(report)?;
    for spec in &mut specs {
        if found.contains_key(&spec.name) {
            spec.init = Init::Zeros;
        }
    }
    let whole = report.initialised.is_empty();
    let mut parameters = if whole {
        Parameters::unset(specs, device, kind)
    } else {
        Parameters::new(specs, seed, device, kind)
    }?;
    checkpoint.copy(&found, &mut parameters)?;
    Ok((parameters, report))
}

/// Whether the safetensors of a folder, or one file, hold a tensor of this name.
pub(crate) fn holds(path: &Path, name: &str) -> Result<bool> {
    for file in &Checkpoint::open(path)?.files {
        if file.tensors()?.tensor(name).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads every tensor of one safetensors file, and its metadata.
///
/// # Errors
/// [`Error::Io`] and [`Error::Safetensors`]; [`Error::Shards`] for a kind of number that libtorch does not have.
pub fn read_tensors(path: &Path) -> Result<(BTreeMap<String, Tensor>, HashMap<String, String>)> {
    let file = MappedFile::open(path.to_path_buf())?;
    let tensors = file.tensors()?;
    let mut read = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        if kind_of(view.dtype()).is_none() {
            let reason = format!("{name}: libtorch has no kind {:?}", view.dtype());
            return Err(Error::Shards { path: path.to_path_buf(), reason });
        }
        read.insert(name.to_owned(), tensor_of(&view, &shape)?);
    }
    let (_, metadata) = SafeTensors::read_metadata(&file.map)
        .map_err(|source| Error::Safetensors { path: path.into(), source })?;
    Ok((read, metadata.metadata().clone().unwrap_or_default()))
}

/// The shape of every tensor of one safetensors file, by name; the values are not read.
pub(crate) fn shapes(path: &Path) -> Result<BTreeMap<String, Vec<i64>>> {
    let file = MappedFile::open(path.to_path_buf())?;
    let tensors = file.tensors()?;
    let shape = |view: &[usize]| view.iter().map(|&size| size as i64).collect();
    Ok(tensors.iter().map(|(name, view)| (name.to_owned(), shape(view.shape()))).collect())
}
