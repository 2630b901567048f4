//! Kernels and the step loop.
