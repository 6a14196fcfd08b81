//! `cargo xtask stress`: a small training is killed, stopped, damaged and starved of disk, and must end in the same bytes
//! as one that was left alone.

mod files;
mod random;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use self::files::{Disk, copy, files, flip, names, say, truncate};
use self::random::Random;
use self::table::Table;
use crate::Result;
use crate::workspace::{Workspace, shown};

const USAGE: &str = "usage: cargo xtask stress [--kills N] [--steps N] [--seed N]";

/// How hard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    kills: u64,
    steps: u64,
    seed: Option<u64>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { kills: 50, steps: 4000, seed: None };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            match (argument.as_str(), value) {
                ("--kills", Some(value)) => options.kills = value,
                ("--steps", Some(value)) if value >= 200 => options.steps = value,
                ("--seed", Some(value)) => options.seed = Some(value),
                _ => {
                    return Err(format!(
                        "`{argument}`: not understood, or its number; at least 200 steps\n{USAGE}"
                    ));
                }
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let mut build = workspace.cargo();
    build.args(["build", "--release", "-p", "persona-examples", "--example", "stress"]);
    println!("{}", shown(&build));
    let built = build.status().map_err(|error| format!("`{}`: {error}", shown(&build)))?;
    if !built.success() {
        return Err(format!("`{}` failed", shown(&build)));
    }
    let folder = workspace.target().join("stress");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(say(&folder))?;
    }
    let stress = Stress {
        program: workspace.target().join("release/examples/stress"),
        whole: folder.join("whole"),
        folder,
        steps: options.steps,
    };
    let clock =
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
    let mut random = Random(options.seed.unwrap_or_else(clock) | 1);
    println!("stress: {} steps, seed {}", options.steps, random.0);
    let mut table = Table::default();
    let began = Instant::now();
    stress.finish(&stress.whole, &[])?;
    let alone = began.elapsed();
    let began = Instant::now();
    stress.finish(&stress.whole, &[])?;
    let start_up = began.elapsed();
    table.row("left alone", Ok(format!("{} steps in {:.1} s", options.steps, alone.as_secs_f64())));

    table.row(
        &format!("kill -9, {} times", options.kills),
        stress.kill(options.kills, alone, start_up, &mut random),
    );
    for signal in ["INT", "TERM"] {
        table.row(&format!("SIG{signal}"), stress.signal(signal, alone, start_up));
    }
    for (what, file, damage) in DAMAGES {
        table.row(what, stress.damaged(file, damage));
    }
    table.row("half-written checkpoint beside it", stress.half_written());
    table.row("all checkpoints damaged", stress.all_damaged());
    table.row("disk full while saving", stress.full_disk());
    for (what, arguments, difference) in [
        ("another learning rate", ["--learning-rate", "0.5"], "`learning_rate` was 0.001 and is now 0.5"),
        (
            "another example more",
            ["--examples", "201"],
            "200 then, 201 now; the first that differs is number 201",
        ),
        ("another tokenizer", ["--tokenizer", "b"], "the tokenizer was a and is now b"),
    ] {
        table.row(what, stress.refused(&arguments, difference));
    }
    Ok(table.print())
}

/// Where the training runs, and what it is.
struct Stress {
    program: PathBuf,
    folder: PathBuf,
    /// The run that was left alone.
    whole: PathBuf,
    steps: u64,
}

type Damage = fn(&Path) -> std::io::Result<()>;

const DAMAGES: [(&str, &str, Damage); 8] = [
    ("weights with a bit flipped", "weights.safetensors", flip),
    ("weights truncated", "weights.safetensors", truncate),
    ("moments with a bit flipped", "optimizer.safetensors", flip),
    ("moments gone", "optimizer.safetensors", |path| fs::remove_file(path)),
    ("state with a bit flipped", "state.json", flip),
    ("state truncated", "state.json", truncate),
    ("sums with a bit flipped", "SHA256SUMS", flip),
    ("sums gone", "SHA256SUMS", |path| fs::remove_file(path)),
];

impl Stress {
    fn command(&self, out: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--steps", &self.steps.to_string()]).args(arguments).arg("--out").arg(out);
        command
    }

    fn output(&self, out: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(out, arguments);
        command.output().map_err(|error| format!("`{}`: {error}", shown(&command)))
    }

    /// Runs to the end, and gives what was said.
    fn finish(&self, out: &Path, arguments: &[&str]) -> Result<String> {
        let output = self.output(out, arguments)?;
        let (said, failed) = (text(&output.stdout), text(&output.stderr));
        if output.status.success() {
            Ok(said)
        } else {
            Err(format!("ended with {}: {failed}", output.status))
        }
    }

    fn spawn(&self, out: &Path) -> Result<Child> {
        let mut command = self.command(out, &[]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|error| format!("`{}`: {error}", shown(&command)))
    }

    fn kill(&self, kills: u64, alone: Duration, start_up: Duration, random: &mut Random) -> Result<String> {
        let out = self.folder.join("killed");
        let mut unfinished = 0;
        for done in 0..kills {
            // Of the work that is left a third for the kills that are left, on the average: the last comes before the end,
            // also on a machine that has become faster.
            let reached = names(&out.join("checkpoints")).pop();
            let reached =
                reached.and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok()).unwrap_or(0);
            let left = self.steps.saturating_sub(reached) as f64 / self.steps as f64;
            let longest = start_up.mul_f64(2.0) + alone.mul_f64(2.0 * left / 3.0 / (kills - done) as f64);
            let mut child = self.spawn(&out)?;
            sleep(longest.mul_f64(random.share()));
            if child.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Err(format!("the training ended after {done} kills; give it more --steps"));
            }
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
            unfinished += names(&out.join("checkpoints")).iter().filter(|name| name.starts_with('.')).count();
        }
        let reached = names(&out.join("checkpoints")).pop().unwrap_or_default();
        self.finish(&out, &[])?;
        self.same(&out)?;
        Ok(format!("last kill after {reached}, {unfinished} within saving; same bytes"))
    }

    fn signal(&self, signal: &str, alone: Duration, start_up: Duration) -> Result<String> {
        let out = self.folder.join(signal);
        let child = self.spawn(&out)?;
        sleep(start_up * 2 + alone / 8);
        let mut kill = Command::new("kill");
        kill.args([format!("-{signal}"), child.id().to_string()]);
        kill.status().map_err(|error| format!("`{}`: {error}", shown(&kill)))?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let said = text(&output.stdout);
        let step =
            said.trim().rsplit_once("stopped after step ").and_then(|(_, step)| step.parse::<u64>().ok());
        let Some(step) = step else {
            return Err(format!("ended with {} and said: {said}{}", output.status, text(&output.stderr)));
        };
        if output.status.code() != Some(130) || !checkpoint(&out, step).join("SHA256SUMS").is_file() {
            return Err(format!("ended with {}; is there a checkpoint of step {step}?", output.status));
        }
        let said = self.finish(&out, &[])?;
        expect(&said, &format!("continuing after step {step} "))?;
        self.same(&out)?;
        Ok(format!("saved and stopped after step {step}; same bytes"))
    }

    /// A copy of the run that was left alone.
    fn copy(&self, name: &str) -> Result<PathBuf> {
        let out = self.folder.join(name);
        if out.exists() {
            fs::remove_dir_all(&out).map_err(say(&out))?;
        }
        copy(&self.whole, &out).map_err(say(&out))?;
        Ok(out)
    }

    fn damaged(&self, file: &str, damage: Damage) -> Result<String> {
        let out = self.copy("damaged")?;
        let path = checkpoint(&out, self.steps).join(file);
        damage(&path).map_err(say(&path))?;
        let said = self.finish(&out, &[])?;
        expect(&said, "damaged, and not used")?;
        expect(&said, &format!("step-{:08}", self.steps))?;
        let continued = continued(&said)?;
        self.same(&out)?;
        Ok(format!("said so, continued after step {continued}; same bytes"))
    }

    fn half_written(&self) -> Result<String> {
        let out = self.copy("half")?;
        let last = checkpoint(&out, self.steps);
        let half = out.join(format!("checkpoints/.unfinished-{:08}", self.steps));
        fs::rename(&last, &half).map_err(say(&last))?;
        fs::remove_file(half.join("SHA256SUMS")).map_err(say(&half))?;
        truncate(&half.join("state.json")).map_err(say(&half))?;
        let said = self.finish(&out, &[])?;
        let continued = continued(&said)?;
        self.same(&out)?;
        Ok(format!("cleared away, continued after step {continued}; same bytes"))
    }

    fn all_damaged(&self) -> Result<String> {
        let out = self.copy("all")?;
        let folder = out.join("checkpoints");
        for name in names(&folder) {
            let path = folder.join(name).join("weights.safetensors");
            flip(&path).map_err(say(&path))?;
        }
        let output = self.output(&out, &[])?;
        if output.status.success() {
            return Err("nobody noticed".to_owned());
        }
        expect(&text(&output.stderr), "no checkpoint before it is whole")?;
        Ok("refused, nothing guessed".to_owned())
    }

    fn refused(&self, arguments: &[&str], difference: &str) -> Result<String> {
        let out = self.copy("refused")?;
        let output = self.output(&out, arguments)?;
        if output.status.success() {
            return Err("it was not refused".to_owned());
        }
        expect(&text(&output.stderr), difference)?;
        self.same(&out)?;
        Ok(format!("refused: {difference}"))
    }

    fn full_disk(&self) -> Result<String> {
        let out = self.folder.join("full");
        fs::create_dir_all(&out).map_err(say(&out))?;
        // Room for one checkpoint and a half.
        let one: u64 =
            files(&checkpoint(&self.whole, self.steps))?.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let Some(disk) = Disk::mount(&out, one + one / 2) else {
            return Ok(
                "not tried: a disk of memory needs root; persona-train's tests limit the size of files"
                    .to_owned(),
            );
        };
        let output = self.output(&out, &[])?;
        let failed = text(&output.stderr);
        if output.status.success() {
            return Err("the disk was not full".to_owned());
        }
        expect(&failed, "No space left on device")?;
        let held = names(&out.join("checkpoints"));
        if held.len() != 1 || held.iter().any(|name| name.starts_with('.')) {
            return Err(format!("left {}", held.join(", ")));
        }
        disk.grow()?;
        let said = self.finish(&out, &[])?;
        let continued = continued(&said)?;
        self.same(&out)?;
        Ok(format!(
            "the file was named, {} left, continued after step {continued}; same bytes",
            held.concat()
        ))
    }

    /// Whether a run ended as the one that was left alone: the last checkpoint in every byte, the log but for its clock.
    fn same(&self, out: &Path) -> Result<()> {
        let last = |run: &Path| files(&checkpoint(run, self.steps));
        for ((name, alone), (other, found)) in last(&self.whole)?.iter().zip(last(out)?.iter()) {
            if name != other || alone != found {
                return Err(format!("{name} is not that of the run that was left alone"));
            }
        }
        if last(&self.whole)?.len() != last(out)?.len() {
            return Err("the last checkpoint has other files".to_owned());
        }
        let log = |run: &Path| -> Result<String> {
            let path = run.join("log.jsonl");
            let text = fs::read_to_string(&path).map_err(say(&path))?;
            Ok(text.lines().map(without_clock).collect::<Vec<_>>().join("\n"))
        };
        if log(&self.whole)? == log(out)? { Ok(()) } else { Err("the log is another".to_owned()) }
    }
}

/// A line of a log without the seconds that the step took.
fn without_clock(line: &str) -> String {
    let Some((before, after)) = line.split_once("\"seconds\":") else { return line.to_owned() };
    let end = after.find([',', '}']).unwrap_or(after.len());
    format!("{before}{}", &after[end..])
}

fn checkpoint(out: &Path, step: u64) -> PathBuf {
    out.join(format!("checkpoints/step-{step:08}"))
}

fn continued(said: &str) -> Result<&str> {
    expect(said, "continuing after step ")?;
    let (_, rest) = said.rsplit_once("continuing after step ").unwrap_or_default();
    Ok(rest.split(' ').next().unwrap_or_default())
}

fn expect(said: &str, what: &str) -> Result<()> {
    if said.contains(what) { Ok(()) } else { Err(format!("expected `{what}`, found: {said}")) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_others_named() {
        let parse =
            |line: &str| Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>());
        assert_eq!(parse(""), Ok(Options { kills: 50, steps: 4000, seed: None }));
        let given = Options { kills: 3, steps: 300, seed: Some(7) };
        assert_eq!(parse("--kills 3 --seed 7 --steps 300"), Ok(given));
        assert!(parse("--kill 3").unwrap_err().contains("`--kill`"));
        assert!(parse("--kills many").unwrap_err().contains("--kills"));
    }

    #[test]
    fn the_clock_is_cut_out_of_a_line() {
        assert_eq!(without_clock(r#"{"loss":1.5,"seconds":0.01,"step":3}"#), r#"{"loss":1.5,,"step":3}"#);
        assert_eq!(without_clock(r#"{"loss":1.5,"seconds":1e-3}"#), r#"{"loss":1.5,}"#);
        assert_eq!(without_clock(r#"{"eval_loss":1.5}"#), r#"{"eval_loss":1.5}"#);
    }
}
