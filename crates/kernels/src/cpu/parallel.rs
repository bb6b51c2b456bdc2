//! Work in blocks that all threads take from one counter, and results that they write side by side.

use super::memory::PARALLEL_FROM;
use super::team;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work` for `0 .. count`, in parallel where `cost`, about the number of elements touched or of
/// a hundred multiplications, is worth it.
///
/// The calling thread takes blocks from the start, and the threads of this process's team, awake since the last section,
/// take theirs. While another thread has the team's attention, rayon's pool helps instead.
pub(crate) fn blocks(count: usize, cost: usize, work: impl Fn(usize) + Sync) {
    let threads = if cost < PARALLEL_FROM { 1 } else { rayon::current_num_threads().min(count) };
    if threads <= 1 {
        return (0..count).for_each(work);
    }
    let next = AtomicUsize::new(0);
    let drain = || {
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= count {
                break;
            }
            work(block);
        }
    };
    if team::run(&drain) {
        return;
    }
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| drain());
        }
        drain();
    });
}

/// A slice of which several threads write different parts at once.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    of: PhantomData<&'a mut [T]>,
}

#[expect(unsafe_code, reason = "threads write disjoint ranges of one slice, which no safe slice can express")]
// SAFETY: it only hands out ranges, and whoever asks for one promises that no other is like it; the
// elements may be written from any thread.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), of: PhantomData }
    }

    /// Where element `from` lies, for parts that are no ranges.
    ///
    /// # Panics
    /// When it is not inside.
    #[expect(unsafe_code, reason = "see the type")]
    pub(crate) fn at(&self, from: usize) -> *mut T {
        assert!(from < self.length, "element {from} of {}", self.length);
        // SAFETY: inside of the slice.
        unsafe { self.start.add(from) }
    }

    /// Elements `from ..+ length`.
    ///
    /// # Panics
    /// When they are not inside.
    ///
    /// # Safety
    /// No two ranges that are alive at once may overlap.
    #[expect(unsafe_code, reason = "see the type")]
    #[expect(clippy::mut_from_ref, reason = "as the caller promises, no two of them overlap")]
    pub(crate) unsafe fn range(&self, from: usize, length: usize) -> &mut [T] {
        assert!(from <= self.length && length <= self.length - from, "elements {from} ..+ {length}");
        // SAFETY: inside of the slice, and the only reference to these elements, as the caller
        // promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "calls an unsafe function")]
    fn every_block_is_done_once() {
        for (count, cost) in [(0, 0), (1, PARALLEL_FROM), (7, 0), (100, PARALLEL_FROM)] {
            let mut seen = vec![0; 3 * count];
            let shared = Shared::new(&mut seen);
            blocks(count, cost, |block| {
                // SAFETY: each block has its own three elements.
                let mine = unsafe { shared.range(3 * block, 3) };
                mine.iter_mut().for_each(|v| *v += 1);
            });
            assert_eq!(seen, vec![1; 3 * count]);
        }
    }

    #[test]
    #[should_panic(expected = "elements 2 ..+ 3")]
    #[expect(unsafe_code, reason = "calls an unsafe function")]
    fn ranges_outside_are_refused() {
        let mut values = [0; 4];
        let shared = Shared::new(&mut values);
        // SAFETY: the only range.
        let _ = unsafe { shared.range(2, 3) };
    }
}
