//! The kernels: one file each, taking slices, with the scalar reference that tests compare it to.

pub mod attention;
pub mod cache;
pub mod elementwise;
pub mod expanded_attention;
pub mod expert_hits;
pub mod expert_rows;
pub mod experts;
pub mod gather;
pub mod latent_attention;
pub mod matrix;
pub mod multiply;
pub mod multiply_quantized;
pub mod paged_attention;
pub mod quantize;
pub mod rms_norm;
pub mod rotary;
pub mod scratch;
pub mod softmax;
pub mod step_batch;
pub mod supply;
