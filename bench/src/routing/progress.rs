//! How far a run is, and how long it will take.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Observer;

/// A bar with the time that is left; where standard error is no terminal, a line per step.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    steps: usize,
    done: usize,
}

impl Default for Progress {
    fn default() -> Self {
        let bar = ProgressBar::new(0);
        let style =
            ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} +{eta}  {wide_msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, steps: 0, done: 0 }
    }
}

impl Observer for Progress {
    fn begin(&mut self, steps: usize) {
        self.steps = steps;
        self.bar.set_length(steps.try_into().unwrap_or(u64::MAX));
        self.bar.reset_eta();
    }

    fn step(&mut self, what: &str) {
        self.bar.set_position(self.done.try_into().unwrap_or(u64::MAX));
        self.bar.set_message(what.to_owned());
        self.done += 1;
        if self.bar.is_hidden() {
            self.line(&format!("{}/{} {what}", self.done, self.steps));
        }
    }

    fn say(&mut self, line: &str) {
        if self.bar.is_hidden() {
            self.line(line);
        } else {
            self.bar.println(line);
        }
    }
}

impl Progress {
    #[expect(clippy::print_stderr, clippy::unused_self, reason = "how it goes is told to people")]
    fn line(&self, text: &str) {
        eprintln!("{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
