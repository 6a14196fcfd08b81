//! `cargo xtask test`: all tests of the workspace, then the package outside of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use crate::workspace::{Workspace, shown};
use crate::{Result, outside};

#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

pub(crate) fn run(workspace: &Workspace, extra: &[String]) -> Result<ExitCode> {
    let start = Instant::now();
    let mut cargo = workspace.cargo();
    cargo.arg("test");
    if !names_packages(extra) {
        cargo.args(["--workspace", "--all-features"]);
    }
    let (counts, tests_pass) = counted(cargo.arg("--release").args(extra), &mut std::io::stdout())?;
    let outside = outside::check(workspace);
    if let Err(message) = &outside {
        eprintln!("error: {message}");
    }
    println!();
    println!(
        "test: cargo test {}, package outside the workspace {}, {} s",
        word(tests_pass),
        word(outside.is_ok()),
        start.elapsed().as_secs()
    );
    println!("tests: {} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.ignored);
    Ok(if tests_pass && outside.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn word(good: bool) -> &'static str {
    if good { "passed" } else { "FAILED" }
}

/// Whether the caller picks packages for cargo, rather than words for the test programs.
fn names_packages(extra: &[String]) -> bool {
    let for_cargo = extra.iter().take_while(|argument| *argument != "--");
    for_cargo.into_iter().any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

/// Runs cargo, passes its output on as it comes, and adds up the result lines.
fn counted(command: &mut Command, terminal: &mut dyn Write) -> Result<(Counts, bool)> {
    let shown = shown(command);
    println!("{shown}");
    let say = |error| format!("`{shown}`: {error}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(say)?;
    let mut counts = Counts::default();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).map_err(say)? > 0 {
            // A reader that went away (`| head`) is no reason to stop counting.
            let _ = terminal.write_all(&line).and_then(|()| terminal.flush());
            counts.add(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    let status = child.wait().map_err(say)?;
    Ok((counts, status.success()))
}

impl Counts {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; others count nothing.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split(';') {
            let mut words = part.split_whitespace().rev();
            let (Some(what), Some(Ok(number))) = (words.next(), words.next().map(str::parse::<u64>)) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_up_and_others_are_not() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests\n",
            "test data::reads 7 passed; ... ok\n",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s\n",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 14, failed: 3, ignored: 1 });
    }

    #[test]
    fn output_is_counted_with_its_exit_code() {
        let mut passed_on = Vec::new();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101"]);
        assert_eq!(
            counted(&mut shell, &mut passed_on).unwrap(),
            (Counts { passed: 1, failed: 1, ignored: 0 }, false)
        );
        assert!(passed_on.starts_with(b"test result: FAILED."));
    }

    #[test]
    fn packages_are_recognised_before_the_double_dash_alone() {
        let names = |line: &str| names_packages(&line.split(' ').map(String::from).collect::<Vec<_>>());
        assert!(names("-p persona-data") && names("--package=persona-data") && names("-ppersona-data"));
        assert!(!names("reads") && !names("reads -- -p"));
    }
}
