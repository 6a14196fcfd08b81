//! What a person sees while a run goes on, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use persona_train::{Observer, ProgressLines, StepRecord};

/// Ctrl-C and SIGTERM: a training stops after the step in progress, with a checkpoint. Outside of training everything
/// that is finished lies in its file, and the program ends at once. The default is one that nobody asks.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    training: Arc<AtomicBool>,
}

/// The exit code of a program that was interrupted.
pub const INTERRUPTED: i32 = 130;

impl Interrupt {
    /// Installs the handler; once a process.
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        let handler = interrupt.clone();
        ctrlc::set_handler(move || {
            let again = handler.asked.swap(true, Ordering::SeqCst);
            if again || !handler.training.load(Ordering::SeqCst) {
                eprintln!("\ninterrupted; the same command continues from what is finished");
                crate::process::end_now(INTERRUPTED);
            }
            eprintln!("\nstopping after this step; once more to stop at once");
        })
        .context("installing the handler for Ctrl-C")?;
        Ok(interrupt)
    }

    /// The flag that a training watches.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }

    /// Whether somebody asked for a stop. To be looked at after a training: one that was in its last step is finished.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Runs something that watches the flag itself.
    pub fn while_training<T>(&self, run: impl FnOnce() -> T) -> T {
        self.training.store(true, Ordering::SeqCst);
        let value = run();
        self.training.store(false, Ordering::SeqCst);
        value
    }
}

/// A bar for a training; where there is no terminal, a line of progress every half minute.
#[derive(Debug)]
pub struct TrainingBar(ProgressBar, ProgressLines<Printed>);

/// Standard output by way of `print!`, which a test captures.
#[derive(Debug)]
struct Printed;

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        print!("{}", String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Between two lines of progress.
const LINE: Duration = Duration::from_secs(30);

impl TrainingBar {
    /// A bar with a name in front.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let bar = bar(name, 0, "{prefix:>22} {wide_bar} step {pos}/{len} {msg} {eta} left");
        Self(bar, ProgressLines::new(Printed, LINE))
    }
}

impl Observer for TrainingBar {
    fn step(&mut self, record: &StepRecord) {
        if self.0.is_hidden() {
            self.1.step(record);
            return;
        }
        self.0.set_length(record.steps);
        if self.0.position() == 0 && record.step > 1 {
            // Continued: what was done before does not count for the time left.
            self.0.set_position(record.step);
            self.0.reset_eta();
        }
        self.0.set_position(record.step);
        let speed = record.tokens as f64 / record.seconds.max(1e-9);
        self.0.set_message(format!("loss {:.3}, {speed:.0} tokens/s,", record.loss));
    }

    fn evaluation(&mut self, step: u64, values: &[(String, f64)]) {
        let text: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        self.note(&format!("step {step}: {}", text.join(", ")));
    }

    fn note(&mut self, text: &str) {
        let line = format!("{:>22} {text}", self.0.prefix());
        if self.0.is_hidden() { println!("{line}") } else { self.0.println(line) }
    }
}

impl Drop for TrainingBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar that counts.
#[must_use]
pub fn counting_bar(name: &str, count: usize) -> ProgressBar {
    bar(name, count as u64, "{prefix:>22} {wide_bar} {pos}/{len} {eta} left")
}

fn bar(name: &str, count: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(count).with_prefix(name.to_owned());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
