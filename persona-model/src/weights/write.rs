//! Files that appear whole or not at all.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, View};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

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
