//! The folder outside the clone, shared by all clones, that holds the fetched libtorch; and the
//! lock that lets one set-up at a time fill it.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::libtorch::{Build, VERSION};

pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(crate) fn find() -> Result<Self> {
        let root = root_from(|name| env::var_os(name).filter(|value| !value.is_empty()))
            .ok_or("no place for the cache: HOME is not set; set PERSONA_CACHE to a folder")?;
        let root = std::path::absolute(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        Ok(Self { root })
    }

    /// A cache for tests.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a finished build lies. Nothing half-filled is ever under this name.
    pub(crate) fn finished(&self, build: Build) -> PathBuf {
        self.root.join(format!("libtorch-{VERSION}-{}", build.name()))
    }

    /// The libtorch folder inside it: the wheel keeps its NVIDIA libraries beside `torch`.
    pub(crate) fn libtorch(&self, build: Build) -> PathBuf {
        match build {
            Build::Cpu => self.finished(build),
            Build::Cuda => self.finished(build).join("torch"),
        }
    }

    fn partial_prefix(build: Build) -> String {
        format!(".partial-{}-", build.name())
    }

    /// Waits until no other set-up fills this build.
    pub(crate) fn lock(&self, build: Build) -> Result<Lock> {
        let say = |path: &Path, error| {
            format!(
                "{}: {error}\nThe cache must be a writable folder; PERSONA_CACHE names another one.",
                path.display()
            )
        };
        fs::create_dir_all(&self.root).map_err(|error| say(&self.root, error))?;
        let path = self.root.join(format!("{}.lock", build.name()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| say(&path, error))?;
        let mut alone = true;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only for the message: the lock itself does not depend on what the file says.
                let _ = file.read_to_string(&mut owner);
                println!("setup: waiting for process {}, which is fetching the same libtorch", owner.trim());
                file.lock().map_err(|error| say(&path, error))?;
            }
            Err(TryLockError::Error(error)) => {
                eprintln!("setup: {} cannot be locked ({error}); going on without", path.display());
                alone = false;
            }
        }
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Lock { _file: file, alone })
    }

    /// A new folder to fill. The lock's holder is the only one filling, so every other such folder
    /// is what a set-up that died has left, and goes. Where nothing can be locked, only those go whose
    /// process is no more.
    pub(crate) fn partial(&self, build: Build, held: &Lock) -> Result<PathBuf> {
        let prefix = Self::partial_prefix(build);
        let entries =
            fs::read_dir(&self.root).map_err(|error| format!("{}: {error}", self.root.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Some(owner) = name.strip_prefix(&prefix) else { continue };
            if held.alone || !fills(owner) {
                println!("setup: removing what an interrupted set-up left, {}", entry.path().display());
                remove(&entry.path());
            }
        }
        let folder = self.root.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(folder)
    }
}

/// Held while a build is being filled. The system lets go of it when the process ends, however it
/// ends, so a dead set-up never blocks a live one.
pub(crate) struct Lock {
    _file: File,
    /// Whether the system holds the lock; not every file system can.
    alone: bool,
}

/// Whether the process of this number is there and another than this one. Set-up runs on Linux alone.
fn fills(process: &str) -> bool {
    process != std::process::id().to_string() && Path::new("/proc").join(process).exists()
}

/// Removes a folder of ours. One that resists (a pip that outlived its set-up still writes there) is
/// no reason to stop: the next call to fetch removes it.
pub(crate) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("setup: {} is left: {error}", folder.display());
    }
}

fn root_from(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let under = |name: &str, rest: &str| variable(name).map(|folder| Path::new(&folder).join(rest));
    variable("PERSONA_CACHE")
        .map(PathBuf::from)
        .or_else(|| under("XDG_CACHE_HOME", "persona"))
        .or_else(|| under("HOME", ".cache/persona"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_special_variable_wins() {
        let all = [("PERSONA_CACHE", "/p"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        let found = |skip: usize| {
            root_from(|name| {
                all.iter().skip(skip).find(|(key, _)| *key == name).map(|(_, value)| value.into())
            })
        };
        assert_eq!(found(0), Some("/p".into()));
        assert_eq!(found(1), Some("/x/persona".into()));
        assert_eq!(found(2), Some("/h/.cache/persona".into()));
        assert_eq!(found(3), None);
    }

    #[test]
    fn leftovers_of_a_dead_set_up_go_and_finished_builds_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let leftover = folder.path().join(".partial-cpu-1");
        fs::create_dir_all(leftover.join("venv")).unwrap();
        fs::create_dir_all(folder.path().join(".partial-cuda-1")).unwrap();
        fs::create_dir_all(cache.finished(Build::Cpu)).unwrap();
        let lock = cache.lock(Build::Cpu).unwrap();
        let fresh = cache.partial(Build::Cpu, &lock).unwrap();
        assert!(!leftover.exists());
        assert!(fresh.is_dir());
        assert!(cache.finished(Build::Cpu).is_dir());
        assert!(folder.path().join(".partial-cuda-1").is_dir(), "the other build has its own lock");
    }

    #[test]
    fn without_a_lock_the_folder_of_a_live_set_up_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let partial = |process: u32| folder.path().join(format!(".partial-cpu-{process}"));
        // The process of number 1 is always there.
        for process in [1, dead.id(), std::process::id()] {
            fs::create_dir_all(partial(process).join("venv")).unwrap();
        }
        let lock = Lock { alone: false, ..cache.lock(Build::Cpu).unwrap() };
        let fresh = cache.partial(Build::Cpu, &lock).unwrap();
        assert!(partial(1).join("venv").is_dir());
        assert!(!partial(dead.id()).exists());
        assert_eq!((fresh.join("venv").exists(), fresh), (false, partial(std::process::id())));
    }

    #[test]
    fn a_held_lock_keeps_others_out_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let lock = cache.lock(Build::Cpu).unwrap();
        let file = File::open(folder.path().join("cpu.lock")).unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        let written = fs::read_to_string(folder.path().join("cpu.lock")).unwrap();
        assert_eq!(written, std::process::id().to_string());
        drop(lock);
        assert!(file.try_lock().is_ok());
    }

    #[test]
    fn a_cache_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let message = Cache::at(&file.join("cache")).lock(Build::Cpu).err().unwrap();
        assert!(message.contains("file/cache") && message.contains("PERSONA_CACHE"), "{message}");
    }
}
