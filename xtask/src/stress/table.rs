//! What was done, and whether it held.

use std::process::ExitCode;

use crate::Result;

#[derive(Default)]
pub(super) struct Table(Vec<(String, Result<String>)>);

impl Table {
    pub(super) fn row(&mut self, what: &str, outcome: Result<String>) {
        println!("  {what}: {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        self.0.push((what.to_owned(), outcome));
    }

    pub(super) fn print(&self) -> ExitCode {
        println!("\n| what was done | holds | how it went |\n|---|---|---|");
        for (what, outcome) in &self.0 {
            let (holds, how) = match outcome {
                Ok(how) => ("yes", how),
                Err(how) => ("NO", how),
            };
            println!("| {what} | {holds} | {} |", how.trim().replace('\n', " "));
        }
        let failed = self.0.iter().filter(|(_, outcome)| outcome.is_err()).count();
        println!("\nstress: {} passed, {failed} failed", self.0.len() - failed);
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
