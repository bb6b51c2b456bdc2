//! What the threads of one cube find together.

use cubecl::prelude::*;

/// Threads of a cube in every kernel here that reduces; a power of two.
pub(super) const THREADS: u32 = 128;

/// The largest `value` of all threads of the cube, for each of them.
#[cube]
pub(super) fn largest(value: f32) -> f32 {
    let mut shared = SharedMemory::<f32>::new(128usize);
    let at = UNIT_POS_X as usize;
    shared[at] = value;
    sync_cube();
    let mut half = 64usize;
    while half > 0usize {
        if at < half {
            let other = shared[at + half];
            if other > shared[at] {
                shared[at] = other;
            }
        }
        sync_cube();
        half /= 2usize;
    }
    let found = shared[0];
    // The next reduction writes here.
    sync_cube();
    found
}

/// The sum of all threads' `value`, for each of them.
#[cube]
pub(super) fn total(value: f32) -> f32 {
    let mut shared = SharedMemory::<f32>::new(128usize);
    let at = UNIT_POS_X as usize;
    shared[at] = value;
    sync_cube();
    let mut half = 64usize;
    while half > 0usize {
        if at < half {
            let other = shared[at + half];
            shared[at] += other;
        }
        sync_cube();
        half /= 2usize;
    }
    let found = shared[0];
    sync_cube();
    found
}
