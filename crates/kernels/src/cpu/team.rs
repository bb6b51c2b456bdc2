//! Threads that stay awake from one section of a forward pass to the next.
//!
//! A forward pass of a small model is a hundred sections of ten to a thousand microseconds, each of which ends where
//! the next begins. Waking a thread that sleeps takes as long as some of them, so threads look out for the next
//! section for a while before they sleep, as those of OpenMP and onnxruntime do.

#![expect(
    unsafe_code,
    reason = "hands a borrowed closure to threads that outlive it, and takes it back in time"
)]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a thread looks out for the next section. Longer than the plain loops between two products, short enough
/// that nobody else misses the core.
const LINGER: Duration = Duration::from_micros(100);

/// The gate's lowest bits count the threads inside of a section; this one says that more may come in, and those above
/// number the sections.
const OPEN: usize = 1 << 15;
const INSIDE: usize = OPEN - 1;
const SECTION: u32 = 16;

type Work = *const (dyn Fn() + Sync);

/// The threads of this process beside the calling one.
struct Team {
    /// Held by who runs a section.
    running: Mutex<()>,
    gate: AtomicUsize,
    work: UnsafeCell<Option<Work>>,
    panicked: AtomicBool,
    asleep: Mutex<()>,
    sleepers: AtomicUsize,
    wake: Condvar,
}

// SAFETY: `work` is the only part that is not shared safely by itself. It is written by the holder of `running` while the
// gate is closed and nobody is inside, and read by threads that are inside, after they saw the gate open.
unsafe impl Sync for Team {}
// SAFETY: as above; nothing belongs to one thread.
unsafe impl Send for Team {}

/// Calls `work` on this thread and, side by side, on those of the team, and returns when all have returned; false, and
/// nothing is done, while the team has other work.
///
/// # Panics
/// When `work` does, on whatever thread.
pub(super) fn run(work: &(dyn Fn() + Sync)) -> bool {
    team().run(work)
}

fn team() -> &'static Team {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();
    TEAM.get_or_init(|| {
        let team: &'static Team = Box::leak(Box::new(Team::new()));
        let others = rayon::current_num_threads().saturating_sub(1).min(INSIDE);
        for _ in 0..others {
            let thread = std::thread::Builder::new().name("briquette-kernels".into());
            // Without it sections have fewer threads.
            drop(thread.spawn(move || team.serve()));
        }
        team
    })
}

impl Team {
    fn new() -> Self {
        Self {
            running: Mutex::new(()),
            gate: AtomicUsize::new(0),
            work: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            asleep: Mutex::new(()),
            sleepers: AtomicUsize::new(0),
            wake: Condvar::new(),
        }
    }

    fn run(&self, work: &(dyn Fn() + Sync)) -> bool {
        let _running = match self.running.try_lock() {
            Ok(guard) => guard,
            // A section that panicked was closed all the same.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        // SAFETY: only the lifetime changes. Whoever reads it is inside of the section, which `Close` ends before
        // this call returns or unwinds.
        let work: Work =
            unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
        // SAFETY: the gate is closed, nobody is inside, and this thread holds `running`.
        unsafe { *self.work.get() = Some(work) };
        let close = Close(self);
        self.open();
        // SAFETY: it is the closure that was passed in.
        unsafe { (*work)() };
        drop(close);
        assert!(!self.panicked.swap(false, Ordering::Relaxed), "a thread of the section panicked");
        true
    }

    fn open(&self) {
        let number = (self.gate.load(Ordering::Relaxed) >> SECTION).wrapping_add(1);
        // Of this store and a sleeper's count, each followed by a look at the other, at least one is seen.
        self.gate.store(number << SECTION | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.asleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// A thread's life.
    fn serve(&self) {
        let mut last = 0;
        loop {
            let gate = self.next(last);
            if self.gate.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: inside of an open section; see `Team`.
            let work = unsafe { *self.work.get() };
            if let Some(work) = work {
                // SAFETY: the section is not over before this thread has left it.
                let done = catch_unwind(AssertUnwindSafe(|| unsafe { (*work)() }));
                if done.is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.gate.fetch_sub(1, Ordering::Release);
            last = gate >> SECTION;
        }
    }

    /// Waits until a section other than `last` is open; the gate as it was seen then.
    fn next(&self, last: usize) -> usize {
        let is_next = |gate: usize| gate & OPEN != 0 && gate >> SECTION != last;
        let begun = Instant::now();
        loop {
            for _ in 0..64 {
                let gate = self.gate.load(Ordering::Acquire);
                if is_next(gate) {
                    return gate;
                }
                std::hint::spin_loop();
            }
            if begun.elapsed() > LINGER {
                break;
            }
        }
        let mut guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let gate = loop {
            let gate = self.gate.load(Ordering::SeqCst);
            if is_next(gate) {
                break gate;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        gate
    }
}

/// Ends a section when dropped.
struct Close<'a>(&'a Team);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0u32;
        while self.0.gate.load(Ordering::Acquire) & INSIDE != 0 {
            looks += 1;
            // Who is still inside may wait for this core.
            if looks.is_multiple_of(1024) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A team of its own with so many threads beside the calling one, which sleep for good after the test.
    fn new(threads: usize) -> &'static Team {
        let team: &'static Team = Box::leak(Box::new(Team::new()));
        for _ in 0..threads {
            std::thread::spawn(|| team.serve());
        }
        team
    }

    fn drained(team: &Team, count: usize) -> Vec<usize> {
        let next = AtomicUsize::new(0);
        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let work = || {
            while let Some(one) = seen.get(next.fetch_add(1, Ordering::Relaxed)) {
                one.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert!(team.run(&work));
        seen.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn all_is_done_when_a_section_ends_whether_threads_were_asleep_or_not() {
        let team = new(3);
        for round in 0..2000 {
            assert_eq!(drained(team, 50), [1; 50]);
            if round % 100 == 0 {
                std::thread::sleep(3 * LINGER);
            }
        }
    }

    #[test]
    fn threads_come_to_help() {
        let team = new(2);
        let threads = Mutex::new(HashSet::new());
        let work = || {
            let begun = Instant::now();
            threads.lock().unwrap_or_else(PoisonError::into_inner).insert(std::thread::current().id());
            // Until all are there, or it is clear that they do not come.
            while threads.lock().unwrap_or_else(PoisonError::into_inner).len() < 3 {
                assert!(begun.elapsed() < Duration::from_secs(60), "nobody came");
                std::thread::yield_now();
            }
        };
        assert!(team.run(&work));
    }

    #[test]
    fn a_section_within_a_section_is_left_to_the_caller() {
        let team = new(1);
        let inner = Mutex::new(Vec::new());
        assert!(team.run(&|| {
            let ran = team.run(&|| {});
            inner.lock().unwrap_or_else(PoisonError::into_inner).push(ran);
        }));
        assert!(inner.into_inner().is_ok_and(|ran| !ran.is_empty() && ran.iter().all(|ran| !ran)));
    }

    #[test]
    fn a_panic_anywhere_reaches_the_caller_and_the_team_goes_on() {
        let team = new(2);
        for at in [0, 30, 49] {
            let next = AtomicUsize::new(0);
            let work = || {
                loop {
                    let one = next.fetch_add(1, Ordering::Relaxed);
                    assert_ne!(one, at, "a defect");
                    if one > 50 {
                        return;
                    }
                }
            };
            assert!(catch_unwind(AssertUnwindSafe(|| team.run(&work))).is_err());
            assert_eq!(drained(team, 50), [1; 50]);
        }
    }
}
