//! `cargo xtask outside`: does a package outside the workspace get what it asks for, and no more?
//!
//! Cargo's settings of this workspace do not reach those who depend on its crates. The package in
//! `tests/outside` is built as theirs would be: from another folder, with settings of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;
use crate::workspace::{Workspace, shown};

/// What a crate may bring along, of ours and of what is heavy.
struct Limits {
    package: &'static str,
    ours: &'static [&'static str],
    /// Crates that must not be there, libtorch's bindings above all.
    banned: &'static [&'static str],
}

const LIMITS: [Limits; 2] = [
    Limits {
        package: "persona-metrics",
        ours: &["persona-metrics"],
        banned: &["tch", "torch-sys", "tokenizers"],
    },
    Limits { package: "persona-align", ours: &["persona-align"], banned: &["tokenizers"] },
];

pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let folder = workspace.root().join("tests/outside");
    let manifest = folder.join("Cargo.toml");
    // The versions of the workspace: with these fetched no network is needed.
    let mut fetch = fetch(workspace);
    println!("{}", shown(&fetch));
    let fetched = fetch.status().map_err(|error| format!("`{}`: {error}", shown(&fetch)))?;
    if !fetched.success() {
        println!("outside: not all packages could be fetched; going on with those that are there");
    }
    let lock = folder.join("Cargo.lock");
    fs::write(&lock, workspace.lockfile()?).map_err(|error| format!("{}: {error}", lock.display()))?;

    let mut run = cargo(workspace, "run", &manifest);
    run.args(["--release", "--target-dir"]).arg(workspace.target());
    println!("{}", shown(&run));
    let status = run.status().map_err(|error| format!("`{}`: {error}", shown(&run)))?;
    if !status.success() {
        return Err(format!("the package in {} does not build or run: {status}", folder.display()));
    }
    for limits in &LIMITS {
        let mut tree = cargo(workspace, "tree", &manifest);
        tree.args(["--package", limits.package, "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
        let output =
            tree.stderr(Stdio::inherit()).output().map_err(|error| format!("`{}`: {error}", shown(&tree)))?;
        if !output.status.success() {
            return Err(format!("`{}`: {}", shown(&tree), output.status));
        }
        let count = limits.check(&String::from_utf8_lossy(&output.stdout))?;
        println!("outside: {} brings {count} crates, and none that it should not", limits.package);
    }
    Ok(())
}

/// All packages of the lockfile for this machine, which those of the package outside are among.
fn fetch(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(["fetch", "--quiet", "--locked"]);
    if let Some(host) = workspace.host() {
        cargo.args(["--target", &host]);
    }
    cargo
}

/// Cargo as called from outside: the root folder has no settings of ours above it.
fn cargo(workspace: &Workspace, command: &str, manifest: &Path) -> Command {
    let mut cargo = workspace.cargo();
    cargo.current_dir("/").args([command, "--quiet", "--offline", "--manifest-path"]).arg(manifest);
    cargo.arg("--config").arg(manifest.with_file_name("config.toml"));
    cargo
}

impl Limits {
    /// Goes through the lines of `cargo tree`; gives the number of crates.
    fn check(&self, tree: &str) -> Result<usize> {
        let mut names: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        names.sort_unstable();
        names.dedup();
        if !names.contains(&self.package) {
            return Err(format!("cargo tree shows no {}", self.package));
        }
        let wrong = names.iter().find(|name| {
            self.banned.contains(name) || (name.starts_with("persona-") && !self.ours.contains(name))
        });
        match wrong {
            Some(name) => Err(format!("{} with default features off brings {name} along", self.package)),
            None => Ok(names.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str =
        "persona-metrics v0.1.0 (/x/persona-metrics)\nrayon v1.12.0\neither v1.19.0\nrayon v1.12.0 (*)\n";

    #[test]
    fn what_is_allowed_is_counted_once() {
        assert_eq!(LIMITS[0].check(METRICS), Ok(3));
    }

    #[test]
    fn another_crate_of_ours_or_libtorch_is_named() {
        for extra in ["persona-model v0.1.0 (/x/persona-model)", "tch v0.24.0", "torch-sys v0.24.0"] {
            let message = LIMITS[0].check(&format!("{METRICS}{extra}\n")).unwrap_err();
            assert!(message.contains(extra.split(' ').next().unwrap()), "{message}");
        }
        assert!(LIMITS[1].check("persona-align v0.1.0\ntch v0.24.0\n").is_ok());
        assert!(LIMITS[1].check("persona-align v0.1.0\npersona-data v0.1.0\n").is_err());
    }

    #[test]
    fn packages_are_fetched_as_locked_and_with_the_network() {
        let workspace = Workspace::find();
        let typed = shown(&fetch(&workspace));
        let host = workspace.host().unwrap();
        assert!(host.contains('-'), "{host}");
        assert_eq!(typed, format!("cargo fetch --quiet --locked --target {host}"));
    }

    #[test]
    fn an_empty_tree_is_no_success() {
        assert!(LIMITS[0].check("").is_err());
    }
}
