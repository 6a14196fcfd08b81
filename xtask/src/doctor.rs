//! `cargo xtask doctor`: what is here, what was chosen and why, and what to do about the rest.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::cache::Cache;
use crate::libtorch::{Build, Libtorch, VERSION, inspect};
use crate::prerequisites::{cxx, find_program, free, gigabytes, python};
use crate::workspace::Workspace;
use crate::{Result, cuda, lockfile};

/// Prints all of it; a failure code says that building or running would not work.
pub(crate) fn report(workspace: &Workspace) -> ExitCode {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut usable = true;
    let mut needed = |label: &str, found: Result<String>| {
        usable &= found.is_ok();
        line(label, found);
    };

    line("workspace", Ok(format!("persona {} in {}", env!("CARGO_PKG_VERSION"), workspace.root().display())));
    needed("bindings", bindings(workspace));
    let libtorch = libtorch(workspace, workspace.libtorch_variable());
    needed(
        "libtorch",
        libtorch.as_ref().map(|(found, how)| format!("{found}, {how}")).map_err(String::clone),
    );
    needed(
        "rustc",
        first_line(&env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from), "--version"),
    );
    needed(
        "cargo",
        first_line(&env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from), "--version"),
    );
    let compiler = cxx(env::var_os("CXX").as_deref(), &path);
    needed("C++", compiler.and_then(|compiler| first_line(&compiler, "--version")));
    if libtorch.is_err() {
        needed("python", python(&path).and_then(|python| first_line(&python, "--version")));
    } else {
        let python =
            find_program("python3", &path).ok_or_else(|| "not found, and not needed any more".to_owned());
        line("python", python.and_then(|python| first_line(&python, "--version")));
    }
    line("threads", Ok(threads()));
    line("CUDA", Ok(cuda_answer(libtorch.as_ref().ok().map(|(found, _)| found))));
    line("rpath", Ok(rpath(workspace)));
    line("cache", Cache::find().map(|cache| disk(cache.root())));
    line("target", Ok(disk(&workspace.target())));

    println!();
    if usable {
        println!("usable: cargo xtask test, cargo xtask demo");
        ExitCode::SUCCESS
    } else {
        println!("not usable yet: see the lines marked with !");
        ExitCode::FAILURE
    }
}

/// One line; further lines of a message are indented under it, and what is missing is marked.
fn line(label: &str, found: Result<String>) {
    let (mark, text) = match &found {
        Ok(text) => (' ', text),
        Err(text) => ('!', text),
    };
    println!("{mark} {label:<10} {}", text.replace('\n', "\n             "));
}

fn bindings(workspace: &Workspace) -> Result<String> {
    let lock = workspace.lockfile()?;
    let version = |name| match lockfile::versions(&lock, name).as_slice() {
        [] => Err(format!("Cargo.lock has no {name}")),
        several => Ok(format!("{name} {}", several.join(" and "))),
    };
    Ok(format!("{}, {}; they need libtorch {VERSION}", version("tch")?, version("torch-sys")?))
}

/// What a build would use now, and how it was chosen.
fn libtorch(workspace: &Workspace, variable: Option<PathBuf>) -> Result<(Libtorch, String)> {
    let link = workspace.link();
    let Some(given) = variable else {
        if !link.is_symlink() && !link.exists() {
            return Err("not here yet\n-> cargo xtask setup".into());
        }
        let found = inspect(&link).map_err(|error| format!("{error}\n-> cargo xtask setup"))?;
        let cache = Cache::find().ok().and_then(|cache| cache.root().canonicalize().ok());
        let cached = cache.is_some_and(|root| found.path.starts_with(root));
        let origin =
            if cached { "fetched by set-up" } else { "not from the cache: chosen by LIBTORCH or by hand" };
        let how = format!("by the link .libtorch -> {} ({origin})", found.path.display());
        return Ok((found, how));
    };
    let advice = "-> correct LIBTORCH, or unset it and call cargo xtask setup";
    let found =
        inspect(&given).map_err(|error| format!("LIBTORCH from the environment: {error}\n{advice}"))?;
    let how = match inspect(&link) {
        Ok(linked) if linked.path == found.path => {
            format!("LIBTORCH from the environment, {}", given.display())
        }
        _ => format!(
            "LIBTORCH from the environment, {}\nbut .libtorch, which programs load from, does not point there\n-> cargo xtask setup",
            given.display()
        ),
    };
    Ok((found, how))
}

fn first_line(program: &Path, argument: &str) -> Result<String> {
    let shown = program.display();
    let output = Command::new(program).arg(argument).output().map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown} {argument}: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!("{} ({shown})", text.lines().next().unwrap_or("no version")))
}

fn threads() -> String {
    let cores =
        std::thread::available_parallelism().map_or_else(|error| error.to_string(), |n| n.to_string());
    let set = env::var("OMP_NUM_THREADS").map_or_else(|_| "not set".into(), |value| format!("`{value}`"));
    format!("{cores} for this process; OMP_NUM_THREADS is {set}")
}

fn cuda_answer(libtorch: Option<&Libtorch>) -> String {
    let Some(driver) = cuda::driver() else {
        return "no: there is no driver (no /dev/nvidiactl, no libcuda.so.1)".into();
    };
    match (cuda::cards(), libtorch.map(|found| found.build)) {
        (_, None) => format!("no: the driver is here ({driver}), libtorch is not"),
        (_, Some(Build::Cpu)) => {
            format!(
                "no: the driver is here ({driver}), but this libtorch is the CPU build\n-> cargo xtask setup --cuda"
            )
        }
        (Err(why), Some(Build::Cuda)) => format!("no: driver ({driver}) and libtorch are here, but {why}"),
        (Ok(cards), Some(Build::Cuda)) => format!("yes, driver {driver}\n{}", cards.join("\n")),
    }
}

fn rpath(workspace: &Workspace) -> String {
    match workspace.rpath_broken() {
        None => "programs built here find libtorch by themselves".into(),
        Some(why) => format!(
            "{why},\nso programs do not find libtorch by themselves (cargo xtask sets this for those it starts)\n\
             -> export LD_LIBRARY_PATH={}",
            workspace.link().join("lib").display()
        ),
    }
}

fn disk(folder: &Path) -> String {
    let room =
        free(folder).map_or_else(|| "free room unknown".into(), |bytes| format!("{} free", gigabytes(bytes)));
    format!("{}, {room}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::fake;

    #[test]
    fn a_missing_libtorch_points_to_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let message = libtorch(&Workspace::at(folder.path()), None).unwrap_err();
        assert!(message.ends_with("-> cargo xtask setup"), "{message}");
    }

    #[test]
    fn a_link_made_by_hand_is_told_from_a_fetched_one() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        fake(&workspace.link(), VERSION);
        let (found, how) = libtorch(&workspace, None).unwrap();
        assert_eq!(found.build, Build::Cpu);
        assert!(how.contains("not from the cache"), "{how}");
    }

    #[test]
    fn a_variable_that_the_link_does_not_follow_is_pointed_out() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let given = folder.path().join("given");
        fake(&given, VERSION);
        let (_, how) = libtorch(&workspace, Some(given.clone())).unwrap();
        assert!(how.contains("does not point there"), "{how}");
        std::os::unix::fs::symlink(&given, workspace.link()).unwrap();
        let (_, how) = libtorch(&workspace, Some(given)).unwrap();
        assert!(!how.contains("does not point there"), "{how}");
        let message = libtorch(&workspace, Some(folder.path().join("nowhere"))).unwrap_err();
        assert!(message.contains("correct LIBTORCH"), "{message}");
    }

    #[test]
    fn versions_come_from_the_lockfile() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        assert!(bindings(&workspace).unwrap_err().contains("Cargo.lock"));
        let lock = "[[package]]\nname = \"tch\"\nversion = \"0.24.0\"\n\n[[package]]\nname = \"torch-sys\"\nversion = \"0.24.0\"\n";
        std::fs::write(folder.path().join("Cargo.lock"), lock).unwrap();
        assert!(bindings(&workspace).unwrap().starts_with("tch 0.24.0, torch-sys 0.24.0"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        assert!(first_line(Path::new("/nowhere/rustc"), "--version").unwrap_err().contains("/nowhere/rustc"));
    }
}
