//! The files of a checkpoint, mapped into memory, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::{LoadReport, TensorName};
use crate::error::{Error, Result};
use crate::parameters::{ParameterSpec, Parameters};

/// The files of a checkpoint, mapped into memory.
pub(crate) struct Checkpoint {
    path: PathBuf,
    pub(super) files: Vec<MappedFile>,
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

    /// The content of the file as one tensor, and where in it each parameter begins: None where there are several files,
    /// or a tensor of another kind or at an odd place.
    pub(crate) fn mapped(
        &self,
        found: &Found,
        specs: &[ParameterSpec],
        kind: Kind,
    ) -> Result<Option<(Tensor, Vec<i64>)>> {
        let ([file], Some(headers)) = (self.files.as_slice(), self.headers().ok()) else { return Ok(None) };
        let size = kind.elt_size_in_bytes();
        let mut offsets = Vec::with_capacity(specs.len());
        for spec in specs {
            let Some(entry) = found.get(&spec.name) else { return Ok(None) };
            let view = headers.view(entry)?;
            let start = (view.data().as_ptr() as usize).wrapping_sub(file.map.as_ptr() as usize);
            if kind_of(view.dtype()) != Some(kind) || !start.is_multiple_of(size) {
                return Ok(None);
            }
            offsets.push((start / size) as i64);
        }
        let Some(path) = file.path.to_str() else { return Ok(None) };
        let elements = (file.map.len() / size) as i64;
        // Mapped once more, by libtorch, whose tensors keep it for as long as they live; what is written stays here.
        Ok(Some((Tensor::f_from_file(path, false, elements, (kind, Device::Cpu))?, offsets)))
    }

    /// Copies the parameters' values out of the files.
    pub(crate) fn copy(&self, found: &Found, parameters: &mut Parameters) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let headers = self.headers()?;
        for (spec, leaf) in parameters.specs().iter().zip(parameters.leaves()) {
            if let Some(entry) = found.get(&spec.name) {
                headers.copy(entry, leaf)?;
                if let Some(file) = self.files.get(entry.file) {
                    file.forget(headers.view(entry)?.data());
                }
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

    /// Copies the values of a tensor into a leaf of its shape, on whatever device, straight from the file.
    fn copy(&self, entry: &Entry, leaf: &Tensor) -> Result<()> {
        let view = self.view(entry)?;
        let kind = kind_of(view.dtype()).unwrap_or(Kind::Float);
        let bytes = view.data();
        if bytes.as_ptr().align_offset(kind.elt_size_in_bytes().max(1)) != 0 {
            leaf.shallow_clone().f_copy_(&self.tensor(entry)?)?;
            return Ok(());
        }
        let shape = leaf.size();
        let mut strides = vec![1; shape.len()];
        for at in (1..shape.len()).rev() {
            strides[at - 1] = strides[at] * shape[at];
        }
        #[allow(unsafe_code)]
        // SAFETY: the tensor is only read, and gone before the map is; the header's check has found as many bytes as the
        // shape needs, and the shape has been compared with the leaf's.
        let values = unsafe { Tensor::f_from_blob(bytes.as_ptr(), &shape, &strides, kind, Device::Cpu) }?;
        leaf.shallow_clone().f_copy_(&values)?;
        Ok(())
    }

    /// The values of a tensor, copied.
    pub(crate) fn tensor(&self, entry: &Entry) -> Result<Tensor> {
        let view = self.view(entry)?;
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        tensor_of(&view, &shape)
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

/// A file, mapped.
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    pub(super) map: memmap2::Mmap,
}

impl MappedFile {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io(&path))?;
        #[allow(unsafe_code)]
        // SAFETY: the map is only read. A file that another process cuts while it is mapped ends this process, which
        // is the known price of mapping; checkpoints are replaced by renaming, which leaves a mapped file alone.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&path))?;
        Ok(Self { path, map })
    }

    /// Gives the pages of these bytes back, which would count as memory of this process until the map is gone.
    fn forget(&self, bytes: &[u8]) {
        let start = (bytes.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize);
        #[cfg(unix)]
        if let Some(start) = start.filter(|start| start + bytes.len() <= self.map.len()) {
            #[allow(unsafe_code)]
            // SAFETY: the map is of a file and only read, so that a page that is looked at again is read again.
            let advised = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, bytes.len())
            };
            // It is advice: where it is not taken, memory is higher for a while.
            drop(advised);
        }
    }

    pub(super) fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map)
            .map_err(|source| Error::Safetensors { path: self.path.clone(), source })
    }
}

pub(super) fn kind_of(dtype: Dtype) -> Option<Kind> {
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

pub(super) fn tensor_of(view: &TensorView<'_>, shape: &[i64]) -> Result<Tensor> {
    let kind = kind_of(view.dtype()).unwrap_or(Kind::Float);
    Ok(Tensor::f_from_data_size(view.data(), shape, kind)?)
}
