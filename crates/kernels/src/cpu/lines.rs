//! Memory that starts at a cache line, and scratch memory that threads keep.
#![expect(unsafe_code, reason = "views lines of plain numbers as slices of them")]

use std::cell::RefCell;
use std::marker::PhantomData;

/// Bytes of a cache line and of the widest vector.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read and written as part of slices")] [u8; LINE]);

/// Numbers of which every bit pattern is valid.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for f32 {}
impl Plain for [u8; 4] {}

/// `length` numbers, the first at the start of a cache line.
pub(crate) struct Lines<T: Plain> {
    lines: Vec<Line>,
    length: usize,
    kind: PhantomData<T>,
}

impl<T: Plain> Lines<T> {
    /// Zeros.
    pub(crate) fn zeros(length: usize) -> Self {
        Self::from_lines(Vec::new(), length)
    }

    /// Takes over `lines`: what they hold stays, what is missing is zero.
    fn from_lines(mut lines: Vec<Line>, length: usize) -> Self {
        let count = (length * size_of::<T>()).div_ceil(LINE);
        if lines.len() < count {
            lines.resize(count, Line([0; LINE]));
        }
        Self { lines, length, kind: PhantomData }
    }
}

impl<T: Plain> std::ops::Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold `length` numbers, whose alignment is less than that of a line, and
        // all of their bytes are initialised.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl<T: Plain> std::ops::DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the lines are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

thread_local! {
    /// Memory of scratch that was given back.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers that a thread keeps at most.
const KEPT: usize = 8;

/// Numbers of any value, to be written before they are read; the memory goes back to the thread that
/// drops them.
pub(crate) struct Scratch<T: Plain>(Lines<T>);

impl<T: Plain> Scratch<T> {
    pub(crate) fn new(length: usize) -> Self {
        let lines = FREE.with(|free| free.borrow_mut().pop()).unwrap_or_default();
        Self(Lines::from_lines(lines, length))
    }
}

impl<T: Plain> Drop for Scratch<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.0.lines);
        // While a thread ends there is nobody left to keep it for.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(lines);
            }
        });
    }
}

impl<T: Plain> std::ops::Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Plain> std::ops::DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_zero() {
        for length in [0, 1, 64, 65, 1000] {
            let lines = Lines::<f32>::zeros(length);
            assert_eq!(lines.as_ptr() as usize % LINE, 0);
            assert_eq!(&*lines, vec![0.0; length]);
        }
    }

    #[test]
    fn scratch_is_used_again_at_any_length() {
        let mut first = Scratch::<u8>::new(100);
        first.fill(3);
        let second = Scratch::<f32>::new(10);
        drop(first);
        drop(second);
        for length in [7, 1000, 50] {
            let mut scratch = Scratch::<i8>::new(length);
            scratch.fill(-1);
            assert_eq!(scratch.len(), length);
            assert!(scratch.iter().all(|v| *v == -1));
        }
    }
}
