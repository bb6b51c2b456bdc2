//! A run on one backend: where rows go, when it is over.

use crate::clock::Care;
use crate::sizes::Sizes;
use crate::{BenchError, Options, Row, Rows};
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// What all sections share.
pub(crate) struct Job<'a> {
    pub(crate) options: &'a Options,
    pub(crate) sizes: Sizes,
    rows: Rows,
    until: Instant,
}

/// What is timed with floats of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timed {
    /// Floats alone.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "another backend of the same device"))]
    Floats,
    /// Floats, and weights and inputs of 8 bits.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "floats of two kinds are there with CUDA"))]
    Eight,
    /// Every form.
    All,
}

/// The floats of a backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floats {
    /// `f32` or `bf16`, and how they are computed with where that is not as compressed layers are.
    pub(crate) name: &'static str,
    pub(crate) timed: Timed,
}

impl<'a> Job<'a> {
    pub(crate) fn new(options: &'a Options) -> Result<Self, BenchError> {
        count_panics();
        let sizes = if options.smoke { Sizes::smoke() } else { Sizes::real() };
        let until = Instant::now() + Duration::from_secs(options.seconds);
        Ok(Self { options, sizes, rows: Rows::append(&options.rows)?, until })
    }

    pub(crate) fn add(&mut self, row: &Row) -> Result<(), BenchError> {
        self.rows.add(row)
    }

    /// How times are taken.
    pub(crate) fn care(&self) -> Care {
        let busy = if self.options.backend == crate::BackendChoice::Cpu { 0 } else { 16384 };
        if self.options.smoke {
            Care { rounds: 1, round: Duration::from_micros(100), busy: busy.min(64) }
        } else {
            Care { rounds: 5, round: Duration::from_millis(8), busy }
        }
    }

    /// When nothing further is begun.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Milliseconds that forward passes of one kind are timed for.
    pub(crate) fn budget(&self) -> Duration {
        Duration::from_millis(if self.options.smoke { 1 } else { 1500 })
    }

    /// Writes the row that `measure` makes, or why there is none: the time is over, or the backend gave up.
    pub(crate) fn measured(
        &mut self,
        what: String,
        mut measure: impl FnMut() -> Result<Row, String>,
    ) -> Result<(), BenchError> {
        let done = if Instant::now() >= self.until {
            Err(format!("the {} seconds were over", self.options.seconds))
        } else {
            // Once more where a thread of the backend gave up: it may have been trying out variants of a kernel.
            guarded(&mut measure).or_else(|_| guarded(&mut measure))
        };
        match done {
            Ok(row) => self.add(&row),
            Err(why) => self.add(&Row::LeftOut { what, why }),
        }
    }
}

/// Panics so far, on any thread, and what the last one said.
static PANICS: Mutex<(usize, String)> = Mutex::new((0, String::new()));

/// Counts panics from now on. Those on a GPU's own thread are otherwise only logged, and the row would hold the time of a
/// kernel that did not run.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            *panics = (panics.0 + 1, said(info.payload()));
            drop(panics);
            before(info);
        }));
    });
}

/// A measurement during which nothing panicked, here or on a thread of the backend.
fn guarded(measure: &mut impl FnMut() -> Result<Row, String>) -> Result<Row, String> {
    let panics = || PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (before, _) = panics();
    let done = std::panic::catch_unwind(AssertUnwindSafe(measure));
    let done = done.unwrap_or_else(|panic| Err(said(panic.as_ref())));
    let (after, said) = panics();
    done.and_then(|row| if after == before { Ok(row) } else { Err(said) })
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "the backend gave up".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BackendChoice, FloatsChoice};

    #[test]
    fn what_fails_is_written_down_and_the_rest_goes_on() {
        let path = std::env::temp_dir().join(format!("briquette-bench-job-{}", std::process::id()));
        let options = |seconds| Options {
            backend: BackendChoice::Cpu,
            floats: FloatsChoice::F32,
            rows: path.clone(),
            only: Vec::new(),
            smoke: true,
            seconds,
        };
        let row = || Ok(Row::Ceiling { what: "copy".into(), per_second: 1.0 });
        let with_time = options(60);
        let mut job = Job::new(&with_time).expect("a file");
        job.measured("a".into(), || panic!("no such kernel")).expect("written");
        job.measured("b".into(), row).expect("written");
        let elsewhere = || {
            let device = std::thread::spawn(|| panic!("the device gave up"));
            assert!(device.join().is_err());
            row()
        };
        job.measured("d".into(), elsewhere).expect("written");
        let without = options(0);
        Job::new(&without).expect("a file").measured("c".into(), row).expect("written");
        let text = std::fs::read_to_string(&path).expect("written");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], r#"{"kind":"left_out","what":"a","why":"no such kernel"}"#);
        assert_eq!(lines[1], r#"{"kind":"ceiling","what":"copy","per_second":1.0}"#);
        assert_eq!(lines[2], r#"{"kind":"left_out","what":"d","why":"the device gave up"}"#);
        assert_eq!(lines[3], r#"{"kind":"left_out","what":"c","why":"the 0 seconds were over"}"#);
        std::fs::remove_file(&path).expect("removed");
    }
}
