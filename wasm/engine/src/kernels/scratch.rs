//! Temporary buffers of a kernel, cut from memory that was planned once. Every thread of a team cuts the
//! same ones.

use core::mem::{align_of, size_of};

use crate::team::{Shared, Team};

/// Buffers begin at multiples of this, bytes: a cache line, so that threads do not share one.
const ALIGNMENT: usize = 64;

/// What is left of the memory.
pub struct Scratch<'a> {
    rest: Shared<'a, u8>,
}

impl<'a> Scratch<'a> {
    /// The whole memory; it must begin at a multiple of 16.
    pub fn new(memory: Shared<'a, u8>) -> Self {
        Self { rest: memory }
    }

    /// Cuts off a buffer; its contents are whatever was there.
    ///
    /// # Panics
    /// If not enough is left.
    pub fn take<T: Plain>(&mut self, count: usize) -> Shared<'a, T> {
        let taken = self.rest;
        self.rest = taken.from(bytes_of::<T>(count));
        // SAFETY: `taken` is at least as long, aligned to 16, and any bits make a T.
        unsafe { taken.cast(count) }
    }

    /// Cuts off one buffer for each thread of the team and returns this thread's.
    ///
    /// # Panics
    /// If not enough is left.
    pub fn take_own<T: Plain>(&mut self, count: usize, team: &Team) -> &'a mut [T] {
        let each = bytes_of::<T>(count);
        let all = self.take::<u8>(each * team.threads());
        // SAFETY: no other thread has this part; as in `take`.
        unsafe {
            let own = all.write(team.thread() * each..(team.thread() + 1) * each);
            core::slice::from_raw_parts_mut(own.as_mut_ptr() as *mut T, count)
        }
    }
}

/// Bytes that [`Scratch::take`] cuts off.
pub fn bytes_of<T: Plain>(count: usize) -> usize {
    const { assert!(align_of::<T>() <= 16) };
    (count * size_of::<T>()).next_multiple_of(ALIGNMENT)
}

/// Types of which any bits are a value.
///
/// # Safety
/// Implement it for such types only.
pub unsafe trait Plain: Copy {}
// SAFETY: any bits are a value.
unsafe impl Plain for f32 {}
// SAFETY: any bits are a value.
unsafe impl Plain for u32 {}
// SAFETY: any bits are a value.
unsafe impl Plain for u8 {}
// SAFETY: made of such types, without padding.
unsafe impl Plain for super::quantize::QuantizedBlock {}
