//! The kernels of hybridseek and the loop that executes a step program with them. Built as a module for
//! WebAssembly (no allocator, no imports but the memory) and as a library for native tests and for the
//! op library of onnxruntime.
//!
//! Dimension letters, as everywhere in hybridseek: B sequences, T tokens of the step, S context,
//! H heads, N nope dim, R rope dim, C latent rank, V value dim, D hidden, E experts, K chosen experts,
//! F expert hidden, P tokens per block, M blocks per sequence.

#![cfg_attr(target_family = "wasm", no_std)]
#![cfg_attr(target_family = "wasm", feature(asm_experimental_arch))]
#![cfg_attr(target_arch = "wasm64", feature(simd_wasm64))]

#[cfg(target_family = "wasm")]
pub mod exports;
#[cfg(not(target_family = "wasm"))]
pub mod host;
pub mod kernels;
pub mod math;
#[cfg(not(target_family = "wasm"))]
pub mod pool;
pub mod program;
pub mod simd;
pub mod team;

#[cfg(target_arch = "wasm32")]
use core::arch::wasm32 as wasm;
#[cfg(target_arch = "wasm64")]
use core::arch::wasm64 as wasm;

#[cfg(target_family = "wasm")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    wasm::unreachable()
}
