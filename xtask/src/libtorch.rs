//! A libtorch on disk: is it whole, which version, with or without CUDA.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// The version that torch-sys 0.24 asks for, exactly.
pub(crate) const VERSION: &str = "2.11.0";

/// torch-sys' own way round the version check, honoured here too.
const BYPASS: &str = "LIBTORCH_BYPASS_VERSION_CHECK";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    Cpu,
    Cuda,
}

impl Build {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
        })
    }
}

/// A folder that holds what building and running need.
#[derive(Debug, PartialEq)]
pub(crate) struct Libtorch {
    /// The folder itself, links resolved.
    pub(crate) path: PathBuf,
    /// With its suffix, such as `2.11.0+cu130`.
    pub(crate) version: String,
    pub(crate) build: Build,
}

impl fmt::Display for Libtorch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "libtorch {} ({})", self.version, self.build)
    }
}

/// Looks at `folder`; an error says what is missing or wrong in it.
pub(crate) fn inspect(folder: &Path) -> Result<Libtorch> {
    let path = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    for part in [
        "lib/libtorch.so",
        "lib/libtorch_cpu.so",
        "lib/libc10.so",
        "include/torch/csrc/api/include/torch/torch.h",
    ] {
        if !path.join(part).is_file() {
            return Err(format!("{} is not a libtorch: it has no {part}", folder.display()));
        }
    }
    let version = version(&path).ok_or_else(|| {
        format!(
            "{}: no version in build-version, version.py or include/torch/headeronly/version.h",
            folder.display()
        )
    })?;
    let plain = version.split('+').next().unwrap_or(&version);
    if plain != VERSION && std::env::var_os(BYPASS).is_none() {
        return Err(format!(
            "{} is libtorch {version}; exactly {VERSION} is needed ({BYPASS}=1 uses it all the same)",
            folder.display()
        ));
    }
    let build = if path.join("lib/libtorch_cuda.so").is_file() { Build::Cuda } else { Build::Cpu };
    Ok(Libtorch { path, version, build })
}

/// From the file of a libtorch archive, of a Python wheel, or from the headers.
fn version(folder: &Path) -> Option<String> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let plain = || read("build-version").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let wheel = || {
        let text = read("version.py")?;
        let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        Some(value.trim_matches(['\'', '"']).to_owned())
    };
    let header = || {
        let text = read("include/torch/headeronly/version.h")?;
        let number = |part: &str| {
            let start = format!("#define TORCH_VERSION_{part} ");
            text.lines().find_map(|line| line.strip_prefix(start.as_str())).map(str::trim)
        };
        Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
    };
    plain().or_else(wheel).or_else(header)
}

/// Writes the files `inspect` asks for.
#[cfg(test)]
pub(crate) fn fake(folder: &Path, version: &str) {
    for part in ["lib/libtorch.so", "lib/libtorch_cpu.so", "lib/libc10.so"] {
        write(&folder.join(part), "");
    }
    write(&folder.join("include/torch/csrc/api/include/torch/torch.h"), "");
    write(&folder.join("build-version"), version);
}

#[cfg(test)]
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_any_of_three_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fake(at, "2.11.0\n");
        assert_eq!(inspect(at).unwrap().version, "2.11.0");
        fs::remove_file(at.join("build-version")).unwrap();
        assert!(inspect(at).unwrap_err().contains("no version in"));
        let header = "#define TORCH_VERSION_MAJOR 2\n\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";
        write(&at.join("include/torch/headeronly/version.h"), header);
        assert_eq!(inspect(at).unwrap().version, "2.11.0");
        write(&at.join("version.py"), "__all__ = []\n__version__ = '2.11.0+cu130'\ndebug = False\n");
        assert_eq!(inspect(at).unwrap().version, "2.11.0+cu130");
    }

    #[test]
    fn another_version_is_refused_with_both_named() {
        let folder = tempfile::tempdir().unwrap();
        fake(folder.path(), "2.4.0");
        let message = inspect(folder.path()).unwrap_err();
        assert!(message.contains("2.4.0") && message.contains("exactly 2.11.0"), "{message}");
        fake(folder.path(), "2.11.1+cpu");
        assert!(inspect(folder.path()).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(inspect(folder.path()).unwrap_err().contains("no lib/libtorch.so"));
        assert!(inspect(&folder.path().join("nowhere")).unwrap_err().contains("nowhere"));
        fake(folder.path(), VERSION);
        fs::remove_dir_all(folder.path().join("include")).unwrap();
        assert!(inspect(folder.path()).unwrap_err().contains("torch.h"));
    }

    #[test]
    fn libtorch_cuda_makes_the_difference() {
        let folder = tempfile::tempdir().unwrap();
        fake(folder.path(), VERSION);
        assert_eq!(inspect(folder.path()).unwrap().build, Build::Cpu);
        write(&folder.path().join("lib/libtorch_cuda.so"), "");
        assert_eq!(inspect(folder.path()).unwrap().build, Build::Cuda);
    }
}
