//! Temporary buffers of a kernel, cut from memory that was planned once.

use core::mem::{align_of, size_of};
use core::slice::from_raw_parts_mut;

/// Buffers begin at multiples of this, bytes.
const ALIGNMENT: usize = 16;

/// What is left of the memory.
pub struct Scratch<'a> {
    rest: &'a mut [u8],
}

impl<'a> Scratch<'a> {
    /// # Panics
    /// If the memory does not begin at a multiple of 16.
    pub fn new(memory: &'a mut [u8]) -> Self {
        assert_eq!(memory.as_ptr() as usize % ALIGNMENT, 0);
        Self { rest: memory }
    }

    /// Cuts off a buffer; its contents are whatever was there.
    ///
    /// # Panics
    /// If not enough is left.
    pub fn take<T: Plain>(&mut self, count: usize) -> &'a mut [T] {
        let rest = core::mem::take(&mut self.rest);
        let (bytes, rest) = rest.split_at_mut(bytes_of::<T>(count));
        self.rest = rest;
        // SAFETY: `bytes` is at least as long, aligned to 16, borrowed for 'a, and any bits make a T.
        unsafe { from_raw_parts_mut(bytes.as_mut_ptr() as *mut T, count) }
    }
}

/// Bytes that [`Scratch::take`] cuts off.
pub fn bytes_of<T: Plain>(count: usize) -> usize {
    const { assert!(align_of::<T>() <= ALIGNMENT) };
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
// SAFETY: made of such types, without padding.
unsafe impl Plain for super::quantize::QuantizedBlock {}
