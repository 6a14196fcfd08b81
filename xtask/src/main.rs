//! `cargo xtask COMMAND`: set-up, demo, tests, benches and a look at what is installed.
//!
//! Needs the standard library alone, so that it compiles in seconds and before libtorch is there.

mod cache;
mod cuda;
mod doctor;
mod fill;
mod libtorch;
mod lockfile;
mod outside;
mod prerequisites;
mod run;
mod setup;
mod stress;
mod test;
mod workspace;

use std::process::ExitCode;

use setup::Options;
use workspace::Workspace;

/// What went wrong and what to do about it, ready to be printed.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "\
usage: cargo xtask COMMAND [ARGUMENTS]

  setup    find or fetch libtorch and link it as .libtorch
             --cpu, --cuda   that build, whatever this machine has (CUDA where there is a driver)
             --force         fetch it anew
  demo     setup, then the whole path on the shipped dialogues; report in target/demo/report.html
  test     setup, all tests, then the package outside the workspace; arguments go to cargo test
  outside  setup, then the package outside the workspace alone
  bench    setup, then the benches; arguments go to cargo bench
             --peers [FILE]  instead the text metrics beside the Python packages, on the replies of a
                             PERSONA-CHAT file; needs a network once, further arguments as compare.py has them
             --peers models PAIRS  training and decoding beside TRL and transformers, on a file of pairs
  stress   setup, then a small training that is killed 50 times, damaged and starved of disk: it must end in
           the same bytes as one that was left alone; --kills N, --steps N, --seed N
  doctor   versions, libtorch, CUDA, disk room, and what to do about what is missing

variables: LIBTORCH       a libtorch to use instead of the fetched one (absolute path)
           PERSONA_PEERS_PYTHON  a Python with TRL and transformers, for --peers models
           PERSONA_CACHE  where the fetched one lies (else $XDG_CACHE_HOME/persona or ~/.cache/persona)";

/// One call, as typed.
#[derive(Debug, PartialEq)]
enum Call {
    Setup(Options),
    Demo(Vec<String>),
    Test(Vec<String>),
    Outside,
    Bench(Vec<String>),
    Stress(stress::Options),
    Doctor,
    Help,
}

impl Call {
    fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut arguments = arguments.into_iter();
        let Some(command) = arguments.next() else { return Ok(Self::Help) };
        let rest: Vec<String> = arguments.collect();
        let alone = |call: Self| match rest.first() {
            None => Ok(call),
            Some(extra) => Err(format!("`cargo xtask {command}` takes no arguments, found `{extra}`")),
        };
        match command.as_str() {
            "setup" => Options::parse(&rest).map(Self::Setup),
            "outside" => alone(Self::Outside),
            "doctor" => alone(Self::Doctor),
            "demo" => Ok(Self::Demo(rest)),
            "test" => Ok(Self::Test(rest)),
            "bench" => Ok(Self::Bench(rest)),
            "stress" => stress::Options::parse(&rest).map(Self::Stress),
            "help" | "--help" | "-h" => Ok(Self::Help),
            other => Err(format!("no command `{other}`\n\n{USAGE}")),
        }
    }

    fn carry_out(self) -> Result<ExitCode> {
        let workspace = Workspace::find();
        let done = Ok(ExitCode::SUCCESS);
        match self {
            Self::Help => {
                println!("{USAGE}");
                done
            }
            Self::Setup(options) => setup::ensure(&workspace, &options).and(done),
            Self::Doctor => Ok(doctor::report(&workspace)),
            Self::Test(extra) => {
                setup::ensure(&workspace, &Options::default())?;
                test::run(&workspace, &extra)
            }
            Self::Outside => {
                setup::ensure(&workspace, &Options::default())?;
                outside::check(&workspace).and(done)
            }
            Self::Demo(extra) => {
                setup::ensure(&workspace, &Options::default())?;
                run::demo(&workspace, &extra)
            }
            Self::Stress(options) => {
                setup::ensure(&workspace, &Options::default())?;
                stress::run(&workspace, &options)
            }
            Self::Bench(extra) => {
                setup::ensure(&workspace, &Options::default())?;
                run::bench(&workspace, &extra)
            }
        }
    }
}

fn main() -> ExitCode {
    match Call::parse(std::env::args().skip(1)).and_then(Call::carry_out) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod parsing {
    use super::*;
    use crate::libtorch::Build;

    fn parse(line: &str) -> Result<Call> {
        Call::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn every_command_is_read() {
        assert_eq!(parse(""), Ok(Call::Help));
        assert_eq!(parse("--help"), Ok(Call::Help));
        assert_eq!(parse("doctor"), Ok(Call::Doctor));
        assert_eq!(parse("outside"), Ok(Call::Outside));
        assert_eq!(parse("setup"), Ok(Call::Setup(Options::default())));
        let forced = Options { build: Some(Build::Cpu), force: true };
        assert_eq!(parse("setup --force --cpu"), Ok(Call::Setup(forced)));
    }

    #[test]
    fn arguments_after_the_command_are_passed_on_as_they_are() {
        let expected = ["-p", "persona-data", "--", "--nocapture"].map(String::from).to_vec();
        assert_eq!(parse("test -p persona-data -- --nocapture"), Ok(Call::Test(expected)));
        assert_eq!(parse("demo --resume"), Ok(Call::Demo(vec!["--resume".into()])));
        assert_eq!(parse("bench loss"), Ok(Call::Bench(vec!["loss".into()])));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse("tset").unwrap_err().starts_with("no command `tset`"));
        assert!(parse("setup --gpu").unwrap_err().contains("`--gpu`"));
        assert!(parse("setup --cpu --cuda").unwrap_err().contains("--cuda"));
        assert!(parse("doctor now").unwrap_err().contains("`now`"));
    }
}
