//! Vectors of floats of the widths that the sparse product is compiled for.
#![expect(unsafe_code, reason = "vector instructions that were detected")]

/// One vector. A body that is generic over it is compiled inside a function that has the vector's features.
pub(super) trait Lanes: Copy {
    /// Floats of a vector.
    const COUNT: usize;

    /// # Safety
    /// The machine must have the vector's instructions.
    unsafe fn splat(value: f32) -> Self;

    /// # Safety
    /// As [`splat`](Self::splat); `from` must be valid for [`COUNT`](Self::COUNT) floats.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// As [`load`](Self::load), for writing.
    unsafe fn store(self, to: *mut f32);

    /// `self + other`.
    ///
    /// # Safety
    /// As [`splat`](Self::splat).
    unsafe fn plus(self, other: Self) -> Self;

    /// `self + a b`, in one rounding where the machine can.
    ///
    /// # Safety
    /// As [`splat`](Self::splat).
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;
}

/// What every machine has.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

impl Lanes for Portable {
    const COUNT: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's word.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's word.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        let [a, b, c, d] = self.0;
        Self([a + other.0[0], b + other.0[1], c + other.0[2], d + other.0[3]])
    }

    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        let product = |i: usize| self.0[i] + a.0[i] * b.0[i];
        Self([product(0), product(1), product(2), product(3)])
    }
}

/// 256 bits with fused multiply-adds, and 512 bits.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    macro_rules! lanes {
        ($name:ident, $vector:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $fused:ident) => {
            #[derive(Clone, Copy)]
            pub(in crate::cpu) struct $name($vector);

            // SAFETY, for every block: the caller vouches for the instructions and for the pointers.
            impl Lanes for $name {
                const COUNT: usize = $count;

                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    // SAFETY: see above.
                    Self(unsafe { $splat(value) })
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: see above.
                    Self(unsafe { $load(from) })
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: see above.
                    unsafe { $store(to, self.0) }
                }

                #[inline(always)]
                unsafe fn plus(self, other: Self) -> Self {
                    // SAFETY: see above.
                    Self(unsafe { $add(self.0, other.0) })
                }

                #[inline(always)]
                unsafe fn plus_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: see above.
                    Self(unsafe { $fused(a.0, b.0, self.0) })
                }
            }
        };
    }

    lanes! { Avx2, __m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_fmadd_ps }
    lanes! { Avx512, __m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps }
}
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};
