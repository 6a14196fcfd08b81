//! `demo` and `bench`: programs that take this process' place, so that Ctrl-C and the exit code
//! are theirs.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::Result;
use crate::workspace::{Workspace, shown};

pub(crate) fn demo(workspace: &Workspace, extra: &[String]) -> Result<ExitCode> {
    println!("demo: the report will be {}", workspace.root().join("target/demo/report.html").display());
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--release", "-p", "persona-examples", "--example", "pal", "--"]);
    cargo.args(["--config", "examples/recipes/demo.toml"]);
    replace_by(cargo.args(extra))
}

pub(crate) fn bench(workspace: &Workspace, extra: &[String]) -> Result<ExitCode> {
    replace_by(workspace.cargo().args(["bench", "-p", "persona-benches"]).args(extra))
}

fn replace_by(command: &mut Command) -> Result<ExitCode> {
    println!("{}", shown(command));
    let error = command.exec();
    Err(format!("`{}` does not start: {error}", shown(command)))
}
