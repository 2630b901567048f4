//! Vectors of 128 bits: WebAssembly's instructions there, x86-64's where it is built with those of
//! x86-64-v2, plain arrays elsewhere, the same result bit for bit. Only what the kernels need; no fused
//! multiply-add, which would round differently.

#![allow(clippy::should_implement_trait)]

#[cfg(target_family = "wasm")]
#[path = "simd/wasm.rs"]
mod lanes;

#[cfg(all(target_arch = "x86_64", target_feature = "sse4.1"))]
#[path = "simd/x86.rs"]
mod lanes;

#[cfg(not(any(target_family = "wasm", all(target_arch = "x86_64", target_feature = "sse4.1"))))]
#[path = "simd/plain.rs"]
mod lanes;

pub use lanes::{opaque, F32x4, I16x8, I32x4, I8x16};

/// Whether [`I8x16::relaxed_dot`] is one instruction, or this is a native build, which tests it.
pub const RELAXED_DOT: bool =
    cfg!(any(target_feature = "relaxed-simd", not(target_family = "wasm")));

/// The factor that [`F32x4::load_f16_shifted`] leaves to its caller.
pub const F16_SHIFT: f32 = 5192296858534828000000000000000000.0; // 2^112

impl F32x4 {
    /// Sum of the lanes, in a fixed order.
    #[inline(always)]
    pub fn sum(self) -> f32 {
        let [a, b, c, d] = self.to_array();
        (a + c) + (b + d)
    }
}
