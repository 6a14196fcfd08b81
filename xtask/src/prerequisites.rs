//! What set-up needs from the machine; each thing that is missing is named with the line that
//! installs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The oldest Python that the wheel is made for.
const OLDEST_PYTHON: (u32, u32) = (3, 10);

/// A program on `path`, a list of folders as in `PATH`.
pub(crate) fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The C++ compiler that the build of torch-sys will call: `CXX`, else `c++`.
pub(crate) fn cxx(named: Option<&OsStr>, path: &OsStr) -> Result<PathBuf> {
    if let Some(named) = named.filter(|name| !name.is_empty()) {
        // CXX may carry flags or a wrapper ("ccache g++"): its first word has to be there.
        let text = named.to_string_lossy();
        let first = text.split_whitespace().next().unwrap_or_default();
        let found = if first.contains('/') {
            Some(PathBuf::from(first)).filter(|file| is_executable(file))
        } else {
            find_program(first, path)
        };
        return found
            .ok_or_else(|| format!("CXX is `{text}`, and there is no such program; unset it or correct it"));
    }
    find_program("c++", path).ok_or_else(|| {
        let other = ["g++", "clang++"].iter().find(|name| find_program(name, path).is_some());
        match other {
            Some(name) => format!("there is no `c++`, but there is `{name}`: export CXX={name}"),
            None => "a C++ compiler is missing (no `c++` on PATH)\n  \
                Debian, Ubuntu: apt-get install g++\n  \
                Fedora: dnf install gcc-c++"
                .to_owned(),
        }
    })
}

/// A Python that can make a virtual environment with pip in it.
pub(crate) fn python(path: &OsStr) -> Result<PathBuf> {
    let python = find_program("python3", path).ok_or(
        "Python 3 is missing (no `python3` on PATH); it fetches libtorch\n  \
        Debian, Ubuntu: apt-get install python3 python3-venv\n  \
        Fedora: dnf install python3\n\
        Or set LIBTORCH to a libtorch that is already on this machine.",
    )?;
    let probe = "import sys\nprint(*sys.version_info[:2], flush=True)\nimport venv, ensurepip";
    let output = Command::new(&python)
        .args(["-c", probe])
        .env("PATH", path)
        .output()
        .map_err(|error| format!("{} does not start: {error}", python.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap_or("it printed nothing").trim();
    let mut numbers = stdout.split_whitespace().map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(format!("{} does not work: {last}", python.display()));
    };
    if (major, minor) < OLDEST_PYTHON {
        return Err(format!(
            "{} is Python {major}.{minor}; the wheel of libtorch needs {}.{} or newer.\n\
             Put a newer python3 first on PATH, or set LIBTORCH to a libtorch that is already on this machine.",
            python.display(),
            OLDEST_PYTHON.0,
            OLDEST_PYTHON.1
        ));
    }
    if !output.status.success() {
        return Err(format!(
            "{} cannot make virtual environments ({last})\n  Debian, Ubuntu: apt-get install python3-venv",
            python.display()
        ));
    }
    Ok(python)
}

/// Refuses where less than `needed` bytes are free in `folder`; `variable` names another one. A machine without `df` is
/// trusted.
pub(crate) fn room(folder: &Path, needed: u64, what: &str, variable: &str) -> Result<()> {
    match free(folder) {
        Some(bytes) if bytes < needed => Err(format!(
            "{what} needs {} in {}, and {} are free.\n\
             Make room, or set {variable} to a folder on a larger disk.",
            gigabytes(needed),
            folder.display(),
            gigabytes(bytes)
        )),
        _ => Ok(()),
    }
}

/// Free bytes for us where `folder` lies, or will lie.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    let present = folder.ancestors().find(|ancestor| ancestor.exists())?;
    let output = Command::new("df").arg("-Pk").arg(present).output().ok()?;
    free_in(&String::from_utf8_lossy(&output.stdout))
}

/// The fourth column of the last line of `df -Pk`, in bytes.
fn free_in(listing: &str) -> Option<u64> {
    let kilobytes: u64 = listing.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kilobytes * 1024)
}

pub(crate) fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A folder with one program in it, as a `PATH`.
    fn path_with(name: &str, script: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn an_empty_path_names_what_to_install() {
        let nothing = OsStr::new("");
        assert!(cxx(None, nothing).unwrap_err().contains("apt-get install g++"));
        assert!(python(nothing).unwrap_err().contains("apt-get install python3"));
    }

    #[test]
    fn a_compiler_under_another_name_is_pointed_to() {
        let folder = path_with("clang++", "true");
        assert!(cxx(None, folder.path().as_os_str()).unwrap_err().contains("export CXX=clang++"));
        let found = cxx(Some(OsStr::new("clang++ -O1")), folder.path().as_os_str());
        assert_eq!(found, Ok(folder.path().join("clang++")));
        let wrong = cxx(Some(OsStr::new("icpc")), folder.path().as_os_str());
        assert!(wrong.unwrap_err().contains("CXX is `icpc`"));
    }

    #[test]
    fn a_file_that_cannot_be_run_is_no_program() {
        let folder = path_with("c++", "true");
        fs::set_permissions(folder.path().join("c++"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(cxx(None, folder.path().as_os_str()).is_err());
    }

    #[test]
    fn a_python_without_venv_names_the_package() {
        let script = "echo 3 11; echo \"ModuleNotFoundError: No module named 'ensurepip'\" >&2; exit 1";
        let folder = path_with("python3", script);
        let message = python(folder.path().as_os_str()).unwrap_err();
        assert!(
            message.contains("apt-get install python3-venv") && message.contains("ensurepip"),
            "{message}"
        );
    }

    #[test]
    fn an_old_or_broken_python_is_named() {
        let old = path_with("python3", "echo 3 8");
        assert!(python(old.path().as_os_str()).unwrap_err().contains("is Python 3.8"));
        let broken = path_with("python3", "echo 'pyenv: python3: not installed' >&2; exit 127");
        assert!(python(broken.path().as_os_str()).unwrap_err().contains("pyenv: python3: not installed"));
    }

    #[test]
    fn a_good_python_is_taken() {
        let folder = path_with("python3", "echo 3 12");
        assert_eq!(python(folder.path().as_os_str()), Ok(folder.path().join("python3")));
    }

    #[test]
    fn disk_room_is_read_and_refused_by_name() {
        let listing = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 100 60 40 60% /\n";
        assert_eq!(free_in(listing), Some(40 * 1024));
        assert_eq!(free_in(""), None);
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("not/yet/there");
        assert!(free(&below).unwrap() > 0);
        let message = room(&below, u64::MAX, "libtorch", "PERSONA_CACHE").unwrap_err();
        assert!(message.contains("not/yet/there") && message.contains("PERSONA_CACHE"), "{message}");
        assert_eq!(room(&below, 1, "libtorch", "PERSONA_CACHE"), Ok(()));
    }
}
