//! Progress of long work: a bar on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Shows how far one piece of work has come, on standard error.
pub(crate) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    tenths: usize,
    note: String,
}

impl Progress {
    pub(crate) fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg:20} [{bar:30}] {pos}/{len} eta {eta}")
                .expect("the template is well-formed");
            ProgressBar::new(0).with_style(style).with_message(what.to_string())
        });
        Self { what: what.into(), bar, tenths: 0, note: String::new() }
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
        let tenths = done * 10 / total.max(1);
        if tenths > self.tenths {
            self.tenths = tenths;
            eprintln!("{}: {}% ({done} of {total}){}", self.what, tenths * 10, self.note);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
