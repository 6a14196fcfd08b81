//! `demo` and `bench`: programs that take this process' place, so that Ctrl-C and the exit code
//! are theirs.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::Result;
use crate::prerequisites;
use crate::workspace::{Workspace, shown};

pub(crate) fn demo(workspace: &Workspace, extra: &[String]) -> Result<ExitCode> {
    println!("demo: the report will be {}", workspace.root().join("target/demo/report.html").display());
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--release", "-p", "persona-examples", "--example", "pal", "--"]);
    cargo.args(["--config", "examples/recipes/demo.toml"]);
    replace_by(cargo.args(extra))
}

pub(crate) fn bench(workspace: &Workspace, extra: &[String]) -> Result<ExitCode> {
    match extra {
        [first, what, pairs, rest @ ..] if first == "--peers" && what == "models" => {
            model_peers(workspace, Path::new(pairs), rest)
        }
        [first, what] if first == "--peers" && what == "models" => Err(
            "name a file of preference pairs after `--peers models`; the demo writes target/demo/pairs.jsonl"
                .into(),
        ),
        [first, rest @ ..] if first == "--peers" => peers(workspace, rest),
        _ => criterion(workspace, extra),
    }
}

fn criterion(workspace: &Workspace, extra: &[String]) -> Result<ExitCode> {
    replace_by(workspace.cargo().args(["bench", "-p", "persona-benches"]).args(extra))
}

/// The text metrics beside the Python packages: builds, makes an environment of Python's, and hands over to
/// `benches/peers/compare.py`.
fn peers(workspace: &Workspace, extra: &[String]) -> Result<ExitCode> {
    let dialogues = default_dialogues(extra, std::env::var_os(DATA_DIR).as_deref())?;
    let scripts = workspace.root().join("benches/peers");
    let python = python_with(&workspace.target().join("peers/venv"), &scripts.join("requirements.txt"))?;
    wait_for(workspace.cargo().args(["build", "--release", "-p", "persona-benches", "--bin", "metrics"]))?;
    let mut compare = Command::new(python);
    compare.arg(scripts.join("compare.py")).args(dialogues).args(extra);
    compare.arg("--program").arg(workspace.target().join("release/metrics"));
    replace_by(compare.arg("--out").arg(workspace.target().join("peers")))
}

/// Training and decoding beside TRL and transformers: builds, makes an environment of Python's and the workload of these
/// pairs, and hands over to `benches/peers/workload.py`.
fn model_peers(workspace: &Workspace, pairs: &Path, extra: &[String]) -> Result<ExitCode> {
    let scripts = workspace.root().join("benches/peers");
    let peers = workspace.target().join("peers");
    let python = match std::env::var_os(PYTHON) {
        Some(python) => python.into(),
        None => python_with(&peers.join("venv-models"), &scripts.join("requirements-models.txt"))?,
    };
    wait_for(workspace.cargo().args(["build", "--release", "-p", "persona-benches", "--bin", "workload"]))?;
    let (script, folder) = (scripts.join("workload.py"), peers.join("workload"));
    wait_for(
        Command::new(&python).arg(&script).arg("make").arg("--pairs").arg(pairs).arg("--out").arg(&folder),
    )?;
    let mut compare = Command::new(python);
    compare.arg(script).arg("compare").arg("--workload").arg(folder);
    replace_by(compare.arg("--program").arg(workspace.target().join("release/workload")).args(extra))
}

/// The variable that names a Python with the packages of `requirements-models.txt`, where none is to be installed.
const PYTHON: &str = "PERSONA_PEERS_PYTHON";

/// The Python of an environment that has the packages of a file, made where it is not there.
fn python_with(venv: &Path, requirements: &Path) -> Result<PathBuf> {
    let python = venv.join("bin/python");
    if !venv.join("complete").is_file() {
        let system = prerequisites::python(&std::env::var_os("PATH").unwrap_or_default())?;
        wait_for(Command::new(system).args(["-m", "venv"]).arg(venv))?;
        wait_for(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(requirements))?;
        std::fs::write(venv.join("complete"), []).map_err(|error| format!("{}: {error}", venv.display()))?;
    }
    Ok(python)
}

/// The variable that names the folder of the data sets.
const DATA_DIR: &str = "PERSONA_DATA_DIR";

/// The file of PERSONA-CHAT in the folder of the data sets, where the arguments name none.
fn default_dialogues(extra: &[String], folder: Option<&OsStr>) -> Result<Option<PathBuf>> {
    const FILE: &str = "personachat_en/valid_self_original_no_cands.txt";
    if extra.first().is_some_and(|first| !first.starts_with("--")) {
        return Ok(None);
    }
    let folder = folder.ok_or(format!(
        "name a file of PERSONA-CHAT in ParlAI's format after --peers, or in {DATA_DIR} the folder that holds {FILE}"
    ))?;
    let path = Path::new(folder).join(FILE);
    if path.is_file() { Ok(Some(path)) } else { Err(format!("{}: there is no such file", path.display())) }
}

fn wait_for(command: &mut Command) -> Result<()> {
    println!("{}", shown(command));
    let status = command.status().map_err(|error| format!("`{}` does not start: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` ended with {status}", shown(command))) }
}

fn replace_by(command: &mut Command) -> Result<ExitCode> {
    println!("{}", shown(command));
    let error = command.exec();
    Err(format!("`{}` does not start: {error}", shown(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_goes_before_the_folder_of_the_data_sets() {
        let folder = tempfile::tempdir().unwrap();
        let variable = Some(folder.path().as_os_str());
        assert_eq!(default_dialogues(&["a.txt".into()], None), Ok(None));
        assert!(default_dialogues(&["--only".into(), "a".into()], None).unwrap_err().contains(DATA_DIR));
        assert!(default_dialogues(&[], variable).unwrap_err().contains("no such file"));
        std::fs::create_dir(folder.path().join("personachat_en")).unwrap();
        let file = folder.path().join("personachat_en/valid_self_original_no_cands.txt");
        std::fs::write(&file, "").unwrap();
        assert_eq!(default_dialogues(&[], variable), Ok(Some(file)));
    }
}
