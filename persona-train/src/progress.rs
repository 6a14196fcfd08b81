//! Progress as lines of text, for terminals that are none: a log of a scheduler, a file.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::objective::{Observer, StepRecord};

/// Writes a line every so often: step, loss, tokens a second since the line before, and the time left by the pace of this
/// call, evaluations and checkpoints included. Notes and evaluations are written as they come.
///
/// ```text
/// step 40 of 550, loss 2.3142, 12034 tokens/s, 1:05 left
/// ```
///
/// A writer that fails is no reason to stop a training, and is written to no more.
#[derive(Debug)]
pub struct ProgressLines<W> {
    out: Option<W>,
    every: Duration,
    began: Option<(u64, Instant)>,
    written: Option<Instant>,
    tokens: usize,
}

impl<W: Write> ProgressLines<W> {
    /// A line at most every so often; the first after the first step.
    pub fn new(out: W, every: Duration) -> Self {
        Self { out: Some(out), every, began: None, written: None, tokens: 0 }
    }

    /// The writer, unless it failed.
    pub fn into_inner(self) -> Option<W> {
        self.out
    }

    fn write(&mut self, line: &str) {
        self.out = self.out.take().and_then(|mut out| writeln!(out, "{line}").ok().map(|()| out));
    }

    /// A step at a time.
    fn step_at(&mut self, record: &StepRecord, now: Instant) {
        let step = Duration::try_from_secs_f64(record.seconds).unwrap_or_default();
        let start = now.checked_sub(step).unwrap_or(now);
        let (first, began) = *self.began.get_or_insert((record.step, start));
        self.tokens += record.tokens;
        let due = self.written.is_none_or(|written| now.duration_since(written) >= self.every);
        if !due && record.step < record.steps {
            return;
        }
        let since = now.duration_since(self.written.unwrap_or(start)).as_secs_f64();
        let taken = (record.step - first + 1) as f64;
        let left = record.steps.saturating_sub(record.step) as f64;
        let left = now.duration_since(began).as_secs_f64() / taken * left;
        self.write(&format!(
            "step {} of {}, loss {:.4}, {:.0} tokens/s, {} left",
            record.step,
            record.steps,
            record.loss,
            self.tokens as f64 / since.max(1e-9),
            clock(left)
        ));
        (self.written, self.tokens) = (Some(now), 0);
    }
}

impl<W: Write> Observer for ProgressLines<W> {
    fn step(&mut self, record: &StepRecord) {
        self.step_at(record, Instant::now());
    }

    fn evaluation(&mut self, step: u64, values: &[(String, f64)]) {
        let values: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.write(&format!("step {step}: {}", values.join(", ")));
    }

    fn note(&mut self, text: &str) {
        self.write(text);
    }
}

/// Seconds as `M:SS`, or `H:MM:SS`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, seconds: f64) -> StepRecord {
        StepRecord {
            step,
            steps: 110,
            loss: 1.25,
            learning_rate: 1e-3,
            grad_norm: 1.0,
            tokens: 500,
            seconds,
            values: Vec::new(),
            skipped: None,
        }
    }

    #[test]
    fn lines_come_every_so_often_with_pace_and_time_left() {
        let mut lines = ProgressLines::new(Vec::new(), Duration::from_secs(5));
        let start = Instant::now() + Duration::from_secs(100);
        // Continued after step 10: two seconds a step from there.
        for step in 11..=16u64 {
            lines.step_at(&record(step, 2.0), start + Duration::from_secs(2 * (step - 10)));
        }
        lines.note("continuing");
        lines.evaluation(16, &[("eval_loss".to_owned(), 0.5)]);
        lines.step_at(&record(110, 2.0), start + Duration::from_secs(13));
        let text = String::from_utf8(lines.into_inner().unwrap()).unwrap();
        let expected = [
            "step 11 of 110, loss 1.2500, 250 tokens/s, 3:18 left",
            "step 14 of 110, loss 1.2500, 250 tokens/s, 3:12 left",
            "continuing",
            "step 16: eval_loss 0.5000",
            "step 110 of 110, loss 1.2500, 300 tokens/s, 0:00 left",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert_eq!((clock(59.6), clock(3661.0)), ("1:00".to_owned(), "1:01:01".to_owned()));
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("full"))
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_fails_stops_nothing() {
        let mut lines = ProgressLines::new(Full, Duration::ZERO);
        lines.step(&record(1, 0.1));
        lines.note("again");
        assert!(lines.into_inner().is_none());
    }
}
