//! Weights in safetensors files: strict loading with a report, atomic saving.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, View};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

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
    let mut parameters = Parameters::new(specs, seed, device, kind)?;
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

/// The files of a checkpoint, mapped into memory.
pub(crate) struct Checkpoint {
    path: PathBuf,
    files: Vec<MappedFile>,
}

/// A tensor of a checkpoint: its file, and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    file: usize,
    pub(crate) name: String,
}

/// By parameter: its tensor in the files.
pub(crate) type Found = BTreeMap<String, Entry>;

/// What the files hold.
pub(crate) struct Index {
    pub(crate) found: Found,
    /// Tensors that should hold the same values as a parameter, each with the parameter's name.
    copies: Vec<(String, Entry)>,
    ignored: Vec<String>,
}

impl Checkpoint {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let files = weight_files(path)?.into_iter().map(MappedFile::open).collect::<Result<_>>()?;
        Ok(Self { path: path.to_path_buf(), files })
    }

    /// Lists every tensor under the parameter that it is.
    pub(crate) fn index(&self, name_of: &dyn Fn(&str) -> TensorName) -> Result<Index> {
        let mut index = Index { found: Found::new(), copies: Vec::new(), ignored: Vec::new() };
        for (at, file) in self.files.iter().enumerate() {
            for name in file.tensors()?.names() {
                let entry = Entry { file: at, name: name.to_owned() };
                let parameter = match name_of(name) {
                    TensorName::Parameter(parameter) => parameter,
                    TensorName::CopyOf(parameter) => {
                        index.copies.push((parameter, entry));
                        continue;
                    }
                    TensorName::Ignored => {
                        index.ignored.push(name.to_owned());
                        continue;
                    }
                };
                if let Some(other) = index.found.insert(parameter, entry) {
                    let (first, second) = (self.files[other.file].path.display(), file.path.display());
                    let reason = format!("{name} is there twice, in {first} and in {second}");
                    return Err(Error::Shards { path: file.path.clone(), reason });
                }
            }
        }
        Ok(index)
    }

    /// The headers of all files.
    pub(crate) fn headers(&self) -> Result<Headers<'_>> {
        let files = self.files.iter().map(|file| Ok((file.path.as_path(), file.tensors()?)));
        Ok(Headers(files.collect::<Result<_>>()?))
    }

    /// Finds every parameter's tensor, and reports all that does not fit.
    pub(crate) fn compare(
        &self,
        index: Index,
        specs: &[ParameterSpec],
        wanted: Kind,
    ) -> Result<(Found, LoadReport)> {
        let headers = self.headers()?;
        let Index { found: mut all, copies, ignored } = index;
        let mut report = LoadReport { ignored, ..LoadReport::default() };
        let mut found = Found::new();
        for spec in specs {
            let Some(entry) = all.remove(&spec.name) else {
                report.missing.push(spec.name.clone());
                continue;
            };
            let (view, name) = (headers.view(&entry)?, &entry.name);
            let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            if shape != spec.shape {
                report.mismatched.push(format!("{name}: file {shape:?}, model {:?}", spec.shape));
            }
            match kind_of(view.dtype()) {
                Some(kind) if kind != wanted => report.cast.push(format!("{name}: {kind:?} to {wanted:?}")),
                Some(_) => {}
                None => {
                    report.mismatched.push(format!("{name}: kind {:?} holds no weights", view.dtype()));
                }
            }
            found.insert(spec.name.clone(), entry);
        }
        for (parameter, copy) in copies {
            if let Some(original) = found.get(&parameter) {
                let (one, other) = (headers.view(original)?, headers.view(&copy)?);
                let same = one.dtype() == other.dtype() && one.shape() == other.shape();
                if !same || one.data() != other.data() {
                    let (name, original) = (&copy.name, &original.name);
                    report.mismatched.push(format!("{name}: differs from {original}, which it should copy"));
                }
            }
            report.ignored.push(copy.name);
        }
        report.unexpected = all.into_values().map(|entry| entry.name).collect();
        report.loaded = found.len();
        Ok((found, report))
    }

    /// The report with its names in order, where the files hold exactly the model's parameters.
    pub(crate) fn exact(&self, mut report: LoadReport) -> Result<LoadReport> {
        for names in [&mut report.unexpected, &mut report.mismatched, &mut report.cast, &mut report.ignored] {
            names.sort();
        }
        if !report.is_exact() {
            return Err(Error::Load { path: self.path.clone(), report: Box::new(report) });
        }
        Ok(report)
    }

    /// Copies the parameters' values out of the files.
    pub(crate) fn copy(&self, found: &Found, parameters: &mut Parameters) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let headers = self.headers()?;
        for (spec, leaf) in parameters.specs().iter().zip(parameters.leaves()) {
            if let Some(entry) = found.get(&spec.name) {
                leaf.shallow_clone().f_copy_(&headers.tensor(entry)?)?;
            }
        }
        Ok(())
    }
}

/// The headers of a checkpoint's files, and through them its tensors.
pub(crate) struct Headers<'a>(Vec<(&'a Path, SafeTensors<'a>)>);

impl<'a> Headers<'a> {
    pub(crate) fn view(&self, entry: &Entry) -> Result<TensorView<'a>> {
        let (path, tensors) = &self.0[entry.file];
        let failed = |source| Error::Safetensors { path: path.to_path_buf(), source };
        tensors.tensor(&entry.name).map_err(failed)
    }

    /// The values of a tensor, copied.
    pub(crate) fn tensor(&self, entry: &Entry) -> Result<Tensor> {
        let view = self.view(entry)?;
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        tensor_of(&view, &shape)
    }
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

/// Writes tensors to one safetensors file, with `format = pt` and the given metadata. The file appears whole or not at
/// all: it is written under a temporary name beside its place, synced, and renamed.
///
/// # Errors
/// [`Error::Io`], disk full above all; what stood at `path` before is then untouched.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, String)]) -> Result<()> {
    Staged::write(path, &tensor_bytes(path, tensors, metadata)?)?.publish()
}

fn tensor_bytes(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, String)]) -> Result<Vec<u8>> {
    let views: Vec<(&str, HostTensor)> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), HostTensor::new(tensor)?)))
        .collect::<Result<_>>()?;
    let mut header = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    header.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    safetensors::serialize(views, Some(header))
        .map_err(|source| Error::Safetensors { path: path.to_path_buf(), source })
}

/// Writes a file whole or not at all: a temporary file in the same folder, synced, then renamed.
///
/// # Errors
/// [`Error::Io`]; what stood at `path` before is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    Staged::write(path, bytes)?.publish()
}

/// Writes weights and the configuration that belongs to them: both are on the disk before either takes its place, so
/// that a full disk leaves neither beside the other's predecessor.
pub(crate) fn write_with_config(
    (weights, tensors): (&Path, &[(String, Tensor)]),
    (config, text): (&Path, &[u8]),
) -> Result<()> {
    let weights = Staged::write(weights, &tensor_bytes(weights, tensors, &[])?)?;
    let config = Staged::write(config, text)?;
    weights.publish()?;
    config.publish()
}

/// A file that is written and has not yet taken its place. Dropped, it is gone.
struct Staged {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl Staged {
    fn write(path: &Path, bytes: &[u8]) -> Result<Self> {
        use std::io::Write;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(path))?;
        file.write_all(bytes).map_err(Error::io(path))?;
        file.as_file().sync_all().map_err(Error::io(path))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o644);
            file.as_file().set_permissions(mode).map_err(Error::io(path))?;
        }
        Ok(Self { path: path.to_path_buf(), file })
    }

    fn publish(self) -> Result<()> {
        let Self { path, file } = self;
        file.persist(&path).map_err(|error| Error::Io { path, source: error.error })?;
        Ok(())
    }
}

/// The safetensors files of a checkpoint.
pub(crate) fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    if !path.is_dir() {
        let missing = std::io::Error::new(std::io::ErrorKind::NotFound, "no such model folder");
        return Err(Error::Io { path: path.to_path_buf(), source: missing });
    }
    let single = path.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index_path = path.join("model.safetensors.index.json");
    if !index_path.is_file() {
        return Err(Error::NoWeights { path: path.to_path_buf() });
    }
    Ok(shard_names(&index_path)?.into_iter().map(|name| path.join(name)).collect())
}

/// The names of the shards in an index, each once.
pub(crate) fn shard_names(index_path: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index_path).map_err(Error::io(index_path))?;
    let index: Index = serde_json::from_str(&text).map_err(Error::json(index_path))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    // The names come from a file that somebody else wrote: they must not lead out of the folder.
    let path = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref()));
    if let Some(name) = path {
        let reason = format!("shard name {name:?} is a path; a shard lies beside its index");
        return Err(Error::Shards { path: index_path.to_path_buf(), reason });
    }
    Ok(names)
}

struct MappedFile {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl MappedFile {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io(&path))?;
        #[allow(unsafe_code)]
        // SAFETY: the map is only read. A file that another process cuts while it is mapped ends this process, which
        // is the known price of mapping; checkpoints are replaced by renaming, which leaves a mapped file alone.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&path))?;
        Ok(Self { path, map })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map)
            .map_err(|source| Error::Safetensors { path: self.path.clone(), source })
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

fn tensor_of(view: &TensorView<'_>, shape: &[i64]) -> Result<Tensor> {
    let kind = kind_of(view.dtype()).unwrap_or(Kind::Float);
    Ok(Tensor::f_from_data_size(view.data(), shape, kind)?)
}

/// A tensor as bytes in main memory, ready to be written.
struct HostTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl HostTensor {
    fn new(tensor: &Tensor) -> Result<Self> {
        let host = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let (dtype, width) = match host.kind() {
            Kind::Float => (Dtype::F32, 4),
            Kind::Half => (Dtype::F16, 2),
            Kind::BFloat16 => (Dtype::BF16, 2),
            Kind::Double => (Dtype::F64, 8),
            Kind::Int64 => (Dtype::I64, 8),
            Kind::Int => (Dtype::I32, 4),
            Kind::Uint8 => (Dtype::U8, 1),
            other => {
                return Err(Error::Batch(format!(
                    "tensors of kind {other:?} are not written to safetensors"
                )));
            }
        };
        let mut bytes = vec![0; host.numel() * width];
        host.f_copy_data_u8(&mut bytes, host.numel())?;
        Ok(Self { dtype, shape: host.size().iter().map(|&size| size as usize).collect(), bytes })
    }
}

impl View for HostTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
