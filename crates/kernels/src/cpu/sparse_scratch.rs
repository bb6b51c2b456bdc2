//! Memory that begins at a cache line, so that no vector straddles two.
#![expect(unsafe_code, reason = "lines of floats seen as floats")]

use std::cell::Cell;

/// Floats of a cache line, which is also the widest vector.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Floats whose first one begins a cache line.
#[derive(Default)]
pub(super) struct Scratch(Vec<Line>);

thread_local! {
    // Fresh pages cost more than filling them: a thread keeps what its last product used.
    static LAST: Cell<Scratch> = const { Cell::new(Scratch(Vec::new())) };
}

impl Scratch {
    /// At least `length` floats of any values, taken from what this thread [kept](Self::keep).
    pub(super) fn take(length: usize) -> Self {
        let mut scratch = LAST.take();
        let lines = length.div_ceil(LINE);
        if scratch.0.len() < lines {
            scratch.0.resize(lines, Line([0.0; LINE]));
        }
        scratch
    }

    /// Leaves the memory to the thread's next product.
    pub(super) fn keep(self) {
        LAST.set(self);
    }

    /// All floats.
    pub(super) fn floats(&self) -> &[f32] {
        // SAFETY: a line is `LINE` floats without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }

    /// All floats, to be written.
    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`, and nobody else sees them.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}
