//! Progress of long work: a bar on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Without a terminal: the longest silence of work that takes long.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Shows how far one piece of work has come, on standard error.
pub(crate) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    tenths: usize,
    note: String,
    begun: Instant,
    /// Units that were done when the first ones were counted: a resumed run does not begin at none.
    first: Option<usize>,
    said: Instant,
}

impl Progress {
    pub(crate) fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:20} [{bar:30}] {pos}/{len} eta {eta}")
                .expect("the template is well-formed");
            ProgressBar::new(0).with_style(style).with_message(what.to_string())
        });
        let now = Instant::now();
        Self { what: what.into(), bar, tenths: 0, note: String::new(), begun: now, first: None, said: now }
    }

    /// Says something beside the bar, or with the next line.
    pub(crate) fn note(&mut self, note: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{} {note}", self.what)),
            None => self.note = format!(", {note}"),
        }
    }

    /// `done` of `total` units are done.
    pub(crate) fn at(&mut self, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            return;
        }
        let first = *self.first.get_or_insert(done);
        let tenths = done * 10 / total.max(1);
        if tenths > self.tenths || self.said.elapsed() >= LINE_EVERY {
            (self.tenths, self.said) = (tenths, Instant::now());
            let percent = done * 100 / total.max(1);
            let left = remaining(self.begun.elapsed(), done - first.min(done), total.saturating_sub(done));
            eprintln!("{}: {percent}% ({done} of {total}){}{left}", self.what, self.note);
        }
    }
}

/// What the rest takes at the speed so far; nothing where that is a matter of seconds or unknown.
fn remaining(elapsed: Duration, done: usize, left: usize) -> String {
    let seconds = elapsed.as_secs_f64() * left as f64 / done.max(1) as f64;
    match seconds {
        _ if done == 0 || seconds < 5.0 => String::new(),
        seconds if seconds < 90.0 => format!(", about {seconds:.0} s left"),
        seconds => format!(", about {:.0} min left", seconds / 60.0),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_it_took() {
        let took = Duration::from_secs(20);
        assert_eq!(remaining(took, 10, 20), ", about 40 s left");
        assert_eq!(remaining(took, 10, 120), ", about 4 min left");
        assert_eq!(remaining(took, 10, 1), "");
        assert_eq!(remaining(took, 0, 10), "");
    }
}
