//! Fetching libtorch: the Python wheel `torch`, whole for CUDA, and for the CPU a tenth of it.
//!
//! The wheel is a CUDA build, but its `libtorch_cpu.so` needs no more than libcudart and libcupti.
//! With those two, the headers, and a stub in place of `libtorch.so` (which would pull in
//! libtorch_cuda and with it all of cuDNN, cuBLAS and so on), it is a libtorch for the CPU.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::cache::{Cache, remove};
use crate::libtorch::{Build, Libtorch, VERSION, inspect};
use crate::prerequisites::{cxx, find_program, python, room};

/// The release of NVIDIA's runtime libraries that the wheel was built with.
const CUDA_RUNTIME: &str = "cuda-toolkit[cudart,cupti]==13.0.2";

/// Room while set-up works: what is downloaded, and what is unpacked from it.
fn room_needed(build: Build) -> u64 {
    match build {
        Build::Cpu => 3_000_000_000,
        Build::Cuda => 8_000_000_000,
    }
}

/// Fetches `build` into the cache, or waits for another set-up that does. It is filled in a folder
/// of its own and renamed when it is whole.
pub(crate) fn fill(cache: &Cache, build: Build, force: bool) -> Result<Libtorch> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(format!(
            "libtorch is fetched for Linux on x86-64 alone. Set LIBTORCH to a libtorch {VERSION} for this machine."
        ));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let python = python(&path)?;
    let lock = cache.lock(build)?;
    if !force && let Ok(present) = inspect(&cache.libtorch(build)) {
        return Ok(present);
    }
    let partial = cache.partial(build, &lock)?;
    let what = format!("libtorch {VERSION} ({build})");
    println!("setup: fetching {what} into {}, once for all clones", cache.root().display());
    let filled = room(cache.root(), room_needed(build), &what, "PERSONA_CACHE")
        .and_then(|()| in_folder(&partial, build, &python))
        .and_then(|whole| move_in(&whole, &cache.finished(build), &partial))
        .and_then(|()| inspect(&cache.libtorch(build)));
    remove(&partial);
    filled
}

/// Fetches into `folder`; gives the folder in it that is to become the finished one.
fn in_folder(folder: &Path, build: Build, python: &Path) -> Result<PathBuf> {
    let venv = folder.join("venv");
    let scratch = folder.join("tmp");
    fs::create_dir(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let mut make = Command::new(python);
    carry_out(make.args(["-m", "venv"]).arg(&venv), "no virtual environment could be made")?;
    let python = venv.join("bin/python");
    let torch = format!("torch=={VERSION}");
    match build {
        Build::Cpu => {
            // In this order: pip would complain about all that torch lacks if it came first.
            install(&python, &scratch, &[CUDA_RUNTIME])?;
            install(&python, &scratch, &["--no-deps", &torch])?;
        }
        Build::Cuda => install(&python, &scratch, &[&torch])?,
    }
    let site = site_packages(&venv)?;
    let whole = folder.join("libtorch");
    match build {
        Build::Cpu => cpu_part(&site, &whole)?,
        Build::Cuda => cuda_whole(&site, &whole)?,
    }
    loads(&python, &whole, build)?;
    Ok(whole)
}

fn install(python: &Path, scratch: &Path, what: &[&str]) -> Result<()> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--no-cache-dir", "--no-input", "--disable-pip-version-check"])
        .args(what);
    // The wheel is unpacked beside its destination: the usual place for temporary files may be small.
    pip.env("TMPDIR", scratch);
    for variable in ["PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PYTHONPATH", "PYTHONHOME"] {
        pip.env_remove(variable);
    }
    carry_out(
        &mut pip,
        "pip could not install it; its last lines above say why.\n\
         Without a network: copy a libtorch from another machine and set LIBTORCH to its folder.\n\
         Behind a proxy or with a mirror: set HTTPS_PROXY, or PIP_INDEX_URL, and call again",
    )
}

fn carry_out(command: &mut Command, failure: &str) -> Result<()> {
    let shown = crate::workspace::shown(command);
    println!("setup: {shown}");
    let status = command.status().map_err(|error| format!("`{shown}` does not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{failure}\n(`{shown}`: {status})")) }
}

fn site_packages(venv: &Path) -> Result<PathBuf> {
    entries(&venv.join("lib"))?
        .into_iter()
        .map(|folder| folder.join("site-packages"))
        .find(|site| site.join("torch").is_dir())
        .ok_or_else(|| format!("{} has no site-packages with torch in it", venv.display()))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let say = |error| format!("{}: {error}", folder.display());
    fs::read_dir(folder).map_err(say)?.map(|entry| entry.map(|entry| entry.path()).map_err(say)).collect()
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Moves what the CPU needs out of `site` into `whole` and makes the stub.
fn cpu_part(site: &Path, whole: &Path) -> Result<()> {
    let lib = whole.join("lib");
    fs::create_dir_all(&lib).map_err(|error| format!("{}: {error}", lib.display()))?;
    let torch = site.join("torch");
    rename(&torch.join("include"), &whole.join("include"))?;
    let mut wanted = entries(&torch.join("lib"))?;
    wanted
        .retain(|file| matches!(name(file).as_str(), "libtorch_cpu.so" | "libc10.so") || is(file, "libgomp"));
    let nvidia = site.join("nvidia");
    for package in if nvidia.is_dir() { entries(&nvidia)? } else { Vec::new() } {
        let folder = package.join("lib");
        let files = if folder.is_dir() { entries(&folder)? } else { Vec::new() };
        wanted.extend(files.into_iter().filter(|file| is(file, "libcudart") || is(file, "libcupti")));
    }
    for file in &wanted {
        rename(file, &lib.join(name(file)))?;
    }
    plain_libgomp(&lib)?;
    stub(&lib)?;
    let version = whole.join("build-version");
    fs::write(&version, format!("{VERSION}\n")).map_err(|error| format!("{}: {error}", version.display()))
}

/// The wheel and its NVIDIA libraries, which find each other by their relative places.
fn cuda_whole(site: &Path, whole: &Path) -> Result<()> {
    rename(site, whole)?;
    let torch = whole.join("torch");
    plain_libgomp(&torch.join("lib"))?;
    let found = inspect(&torch)?;
    // torch-sys checks the version by this file alone, which wheels do not have.
    let version = torch.join("build-version");
    fs::write(&version, format!("{}\n", found.version))
        .map_err(|error| format!("{}: {error}", version.display()))
}

/// `libNAME.so`, with or without numbers after it.
fn is(file: &Path, library: &str) -> bool {
    name(file).strip_prefix(library).is_some_and(|rest| rest.starts_with(".so") || rest.starts_with('-'))
}

/// torch-sys links `-lgomp`, which finds a file without a number.
fn plain_libgomp(lib: &Path) -> Result<()> {
    let plain = lib.join("libgomp.so");
    if plain.exists() {
        return Ok(());
    }
    match entries(lib)?.iter().find(|file| is(file, "libgomp")) {
        Some(file) => symlink(name(file), &plain).map_err(|error| format!("{}: {error}", plain.display())),
        None => Ok(()),
    }
}

/// A `libtorch.so` that holds nothing and needs libtorch_cpu and libc10.
fn stub(lib: &Path) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let compiler = match find_program("cc", &path) {
        Some(compiler) => compiler,
        None => cxx(env::var_os("CXX").as_deref(), &path)?,
    };
    let mut link = Command::new(compiler);
    link.args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-x", "none", "-o", "libtorch.so", "-L."]);
    link.args([
        "-Wl,--no-as-needed",
        "-ltorch_cpu",
        "-lc10",
        "-Wl,-soname,libtorch.so",
        "-Wl,-rpath,$ORIGIN",
    ]);
    carry_out(link.current_dir(lib), "the stub of libtorch.so could not be linked")
}

/// Has the loader open the libraries, so that a set-up that ends well is one that works.
fn loads(python: &Path, whole: &Path, build: Build) -> Result<()> {
    let (lib, libraries) = match build {
        Build::Cpu => (whole.join("lib"), ["libtorch.so"].as_slice()),
        Build::Cuda => (whole.join("torch/lib"), ["libtorch.so", "libtorch_cuda.so"].as_slice()),
    };
    // A Python that was built without ctypes cannot look, and is let pass.
    let script = "import sys\ntry:\n    import ctypes\nexcept ImportError:\n    sys.exit(0)\n\
        for library in sys.argv[1:]:\n    ctypes.CDLL(library)\n";
    let mut probe = Command::new(python);
    probe.args(["-I", "-S", "-c", script]).args(libraries.iter().map(|library| lib.join(library)));
    let output = probe
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .map_err(|error| format!("{} does not start: {error}", python.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("the fetched libtorch does not load: {}", stderr.lines().last().unwrap_or_default()))
}

/// Puts the finished folder in its place; what lay there goes with the partial folder.
fn move_in(whole: &Path, finished: &Path, partial: &Path) -> Result<()> {
    if finished.exists() {
        rename(finished, &partial.join("old"))?;
    }
    rename(whole, finished)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(file: &Path) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o"]).arg(file);
        assert!(compiler.status().unwrap().success());
    }

    /// What pip leaves, with libraries that hold nothing.
    fn site(folder: &Path) -> PathBuf {
        let site = folder.join("venv/lib/python3.11/site-packages");
        for name in ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libtorch.so", "libtorch_cuda.so"] {
            library(&site.join("torch/lib").join(name));
        }
        for name in ["libcudart.so.13", "libcupti.so.13", "libcublas.so.13"] {
            library(&site.join("nvidia/cu13/lib").join(name));
        }
        let header = site.join("torch/include/torch/csrc/api/include/torch/torch.h");
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        fs::write(header, "").unwrap();
        fs::write(site.join("torch/version.py"), "__version__ = '2.11.0+cu130'\n").unwrap();
        site
    }

    #[test]
    fn the_cpu_part_is_a_libtorch_without_cuda() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(folder.path());
        assert_eq!(site_packages(&folder.path().join("venv")).unwrap(), site);
        let whole = folder.path().join("libtorch");
        cpu_part(&site, &whole).unwrap();
        fs::remove_dir_all(folder.path().join("venv")).unwrap();

        let libtorch = inspect(&whole).unwrap();
        assert_eq!((libtorch.build, libtorch.version.as_str()), (Build::Cpu, VERSION));
        let mut names: Vec<_> = entries(&whole.join("lib")).unwrap().iter().map(|file| name(file)).collect();
        names.sort();
        let expected = [
            "libc10.so",
            "libcudart.so.13",
            "libcupti.so.13",
            "libgomp.so",
            "libgomp.so.1",
            "libtorch.so",
            "libtorch_cpu.so",
        ];
        assert_eq!(names, expected);
        let stub = fs::read(whole.join("lib/libtorch.so")).unwrap();
        for word in ["libtorch_cpu.so", "libc10.so", "$ORIGIN"] {
            assert!(stub.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn the_cuda_build_keeps_the_wheel_and_gets_a_version_file() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(folder.path());
        let whole = folder.path().join("libtorch");
        cuda_whole(&site, &whole).unwrap();
        let libtorch = inspect(&whole.join("torch")).unwrap();
        assert_eq!((libtorch.build, libtorch.version.as_str()), (Build::Cuda, "2.11.0+cu130"));
        assert_eq!(fs::read_to_string(whole.join("torch/build-version")).unwrap().trim(), "2.11.0+cu130");
        assert!(whole.join("nvidia/cu13/lib/libcublas.so.13").is_file());
    }

    #[test]
    fn a_finished_folder_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, finished) = (folder.path().join("partial"), folder.path().join("finished"));
        for (at, text) in [(&partial.join("libtorch"), "new"), (&finished, "old")] {
            fs::create_dir_all(at).unwrap();
            fs::write(at.join("file"), text).unwrap();
        }
        move_in(&partial.join("libtorch"), &finished, &partial).unwrap();
        assert_eq!(fs::read_to_string(finished.join("file")).unwrap(), "new");
        assert_eq!(fs::read_to_string(partial.join("old/file")).unwrap(), "old");
    }

    #[test]
    fn a_command_that_fails_is_shown_with_the_advice() {
        let message = carry_out(&mut Command::new("false"), "do this instead").unwrap_err();
        assert!(message.starts_with("do this instead") && message.contains("`false`"), "{message}");
    }
}
