//! Files that appear whole or not at all.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, View};
use tch::{Kind, Tensor};
use tempfile::TempPath;

use crate::error::{Error, Result};

/// Writes tensors to one safetensors file, with `format = pt` and the given metadata. The file appears whole or not at
/// all: it is written under a temporary name beside its place, synced, and renamed.
///
/// # Errors
/// [`Error::Io`], disk full above all; what stood at `path` before is then untouched.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, String)]) -> Result<()> {
    Staged::tensors(path, tensors, metadata)?.publish()
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
    let weights = Staged::tensors(weights, tensors, &[])?;
    let config = Staged::write(config, text)?;
    weights.publish()?;
    config.publish()
}

/// A file that is written and has not yet taken its place. Dropped, it is gone.
struct Staged {
    path: PathBuf,
    file: TempPath,
}

impl Staged {
    fn write(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = Self::place(path)?;
        std::fs::write(&file, bytes).map_err(Error::io(path))?;
        Self::sync(path, file)
    }

    /// Reads the tensors one after the other, while they are written.
    fn tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, String)]) -> Result<Self> {
        let failed = Cell::new(None);
        let views: Vec<(&str, StoredTensor<'_>)> = tensors
            .iter()
            .map(|(name, tensor)| Ok((name.as_str(), StoredTensor::new(tensor, &failed)?)))
            .collect::<Result<_>>()?;
        let mut header = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        header.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let file = Self::place(path)?;
        safetensors::serialize_to_file(views, Some(header), &file).map_err(|error| match error {
            SafeTensorError::IoError(source) => Error::Io { path: path.to_path_buf(), source },
            source => Error::Safetensors { path: path.to_path_buf(), source },
        })?;
        failed.take().map_or(Ok(()), Err)?;
        Self::sync(path, file)
    }

    fn place(path: &Path) -> Result<TempPath> {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(tempfile::NamedTempFile::new_in(folder).map_err(Error::io(path))?.into_temp_path())
    }

    fn sync(path: &Path, file: TempPath) -> Result<Self> {
        let written = OpenOptions::new().write(true).open(&file).map_err(Error::io(path))?;
        written.sync_all().map_err(Error::io(path))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o644);
            written.set_permissions(mode).map_err(Error::io(path))?;
        }
        Ok(Self { path: path.to_path_buf(), file })
    }

    fn publish(self) -> Result<()> {
        let Self { path, file } = self;
        file.persist(&path).map_err(|error| Error::Io { path, source: error.error })?;
        Ok(())
    }
}

/// A tensor whose bytes are read when they are written.
struct StoredTensor<'a> {
    tensor: &'a Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The error of reading, which [`View::data`] cannot return.
    failed: &'a Cell<Option<Error>>,
}

impl<'a> StoredTensor<'a> {
    fn new(tensor: &'a Tensor, failed: &'a Cell<Option<Error>>) -> Result<Self> {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Double => Dtype::F64,
            Kind::Int64 => Dtype::I64,
            Kind::Int => Dtype::I32,
            Kind::Uint8 => Dtype::U8,
            other => {
                return Err(Error::Batch(format!(
                    "tensors of kind {other:?} are not written to safetensors"
                )));
            }
        };
        let shape = tensor.size().iter().map(|&size| size as usize).collect();
        Ok(Self { tensor, dtype, shape, failed })
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let host = self.tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0; self.data_len()];
        host.f_copy_data_u8(&mut bytes, host.numel())?;
        Ok(bytes)
    }
}

impl View for StoredTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.bytes().unwrap_or_else(|error| {
            self.failed.set(Some(error));
            Vec::new()
        });
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn the_file_holds_what_safetensors_makes_of_the_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let numbers = Tensor::from_slice(&[1.5f32, -2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
        let tensors = [
            ("b".to_owned(), numbers.tr()),
            ("a".to_owned(), numbers.to_kind(Kind::BFloat16)),
            ("c".to_owned(), Tensor::from_slice(&[7i64])),
            ("none".to_owned(), numbers.narrow(0, 0, 0)),
        ];
        write_tensors(&path, &tensors, &[]).unwrap();
        let floats: Vec<u8> =
            [1.5f32, 4.0, -2.0, 5.0, 3.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let halves: Vec<u8> =
            [1.5f32, -2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()[2..].to_vec()).collect();
        let long = 7i64.to_le_bytes();
        let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let views = [
            ("b", view(Dtype::F32, &[3, 2], &floats)),
            ("a", view(Dtype::BF16, &[2, 3], &halves)),
            ("c", view(Dtype::I64, &[1], &long)),
            ("none", view(Dtype::F32, &[0, 3], &[])),
        ];
        let header = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        assert_eq!(std::fs::read(&path).unwrap(), safetensors::serialize(views, Some(header)).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    }
}
