//! Where the workspace lies, and the cargo that is called for it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The clone that `cargo xtask` was called in.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// From the folder of this package as cargo gives it at run time: a target folder shared by
    /// several clones may hold a binary that was built in another of them.
    pub(crate) fn find() -> Self {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        Self { root: package.parent().map_or_else(|| package.clone(), Path::to_path_buf) }
    }

    /// A workspace for tests.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `.libtorch`: the link that `.cargo/config.toml` and the binaries' rpath name.
    pub(crate) fn link(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    pub(crate) fn lockfile(&self) -> Result<String> {
        let path = self.root.join("Cargo.lock");
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// `LIBTORCH` as the user gave it, absolute. Cargo itself hands us the value of
    /// `.cargo/config.toml`, which is the link and says nothing new.
    pub(crate) fn libtorch_variable(&self) -> Option<PathBuf> {
        let given = env::var_os("LIBTORCH").filter(|value| !value.is_empty()).map(PathBuf::from)?;
        let absolute = std::path::absolute(&given).unwrap_or(given);
        (absolute != self.link()).then_some(absolute)
    }

    /// The folder cargo builds into: this program lies in its `release` folder.
    pub(crate) fn target(&self) -> PathBuf {
        let of_this_program =
            env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_path_buf()));
        of_this_program.unwrap_or_else(|| self.root.join("target"))
    }

    /// Why binaries built here do not find libtorch through their rpath, or `None` where they do.
    pub(crate) fn rpath_broken(&self) -> Option<String> {
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            if env::var_os(variable).is_some_and(|value| !value.is_empty()) {
                return Some(format!("{variable} is set and replaces the flags of .cargo/config.toml"));
            }
        }
        let target = self.target();
        let beside = target.parent().and_then(|folder| folder.canonicalize().ok());
        if beside.is_none() || beside != self.root.canonicalize().ok() {
            return Some(format!("the target folder is {}, not in the clone", target.display()));
        }
        None
    }

    /// The machine as rustc calls it, such as `x86_64-unknown-linux-gnu`.
    pub(crate) fn host(&self) -> Option<String> {
        let output = self.cargo().arg("-vV").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
    }

    /// Whether libtorch's bindings, and with them most of what is large, were built here before.
    pub(crate) fn is_built(&self) -> bool {
        let fingerprints = self.target().join("release/.fingerprint");
        std::fs::read_dir(fingerprints).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("torch-sys-"))
            })
        })
    }

    /// The cargo that called us, in the root, with libtorch where binaries and build scripts find it.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        cargo.env("LIBTORCH", self.libtorch_variable().unwrap_or_else(|| self.link()));
        if self.rpath_broken().is_some() {
            let mut folders = vec![self.link().join("lib")];
            if let Some(present) = env::var_os("LD_LIBRARY_PATH") {
                folders.extend(env::split_paths(&present));
            }
            if let Ok(joined) = env::join_paths(folders) {
                cargo.env("LD_LIBRARY_PATH", joined);
            }
        }
        cargo
    }
}

/// A command as it would be typed, for the reader of the output.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_lockfile_and_the_cargo_settings() {
        let workspace = Workspace::find();
        assert!(workspace.lockfile().unwrap().contains("name = \"xtask\""));
        assert!(workspace.root().join(".cargo/config.toml").is_file());
    }

    #[test]
    fn commands_are_shown_without_the_folder_of_the_program() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "--release"]);
        assert_eq!(shown(&command), "cargo test --release");
    }
}
