//! What a WebAssembly module offers to TypeScript. Every pointer is an address in its memory; the
//! caller lays the memory out (`src/backend/wasm/memory_plan.ts`), the module allocates nothing.

use core::slice::{from_raw_parts, from_raw_parts_mut};

use crate::kernels::experts::{self, ExpertsShape};
use crate::kernels::latent_attention::{self, LatentShape};
use crate::kernels::matrix::{self, Format, BLOCK};
use crate::kernels::paged_attention::{self, PagedShape};
use crate::kernels::quantize::QuantizedBlock;
use crate::kernels::rotary::Pairs;
use crate::program::{self, StepSizes, Tensor};

/// Executes a program, see [`program::run`].
///
/// # Safety
/// As there; the pointers must hold what they say.
#[no_mangle]
pub unsafe extern "C" fn run(
    words: *const u32,
    word_count: usize,
    tensors: *const Tensor,
    tensor_count: usize,
    sizes: *const StepSizes,
) {
    let tensors = from_raw_parts(tensors, tensor_count);
    program::run(from_raw_parts(words, word_count), tensors, *sizes);
}

/// How many operands an opcode has; `u32::MAX` if there is none such.
#[no_mangle]
pub extern "C" fn operand_count(opcode: u32) -> u32 {
    program::operand_count(opcode)
}

/// Bytes of a matrix once it is packed.
#[no_mangle]
pub extern "C" fn packed_bytes(format: u32, rows: usize, columns: usize) -> usize {
    Format::from_number(format).packed_bytes(rows, columns)
}

/// Packs rows of a matrix: `rows` must be a multiple of 8 unless they are its last.
///
/// # Safety
/// `source` must hold the rows as they lie in a file, `scales` their scales (unread for floats), `into`
/// the packed bytes.
#[no_mangle]
pub unsafe extern "C" fn pack(
    format: u32,
    source: *const u8,
    scales: *const u16,
    rows: usize,
    columns: usize,
    into: *mut u8,
) {
    let format = Format::from_number(format);
    let blocks = if format.is_quantized() { columns.div_ceil(BLOCK) } else { 0 };
    let source = from_raw_parts(source, rows * format.file_row_bytes(columns));
    let scales = from_raw_parts(scales, rows * blocks);
    let into = from_raw_parts_mut(into, format.packed_bytes(rows, columns));
    matrix::pack(format, source, scales, rows, columns, into);
}

/// Bytes of one head of kv_b_proj once it is packed.
#[no_mangle]
pub extern "C" fn kv_b_head_bytes(format: u32, nope: usize, value: usize, rank: usize) -> usize {
    latent_attention::kv_b_bytes(Format::from_number(format), &one_head(nope, value, rank))
}

/// Packs one head of kv_b_proj [N+V, C].
///
/// # Safety
/// `source` must hold the head as it lies in a file, `into` the packed bytes.
#[no_mangle]
pub unsafe extern "C" fn pack_kv_b_head(
    format: u32,
    source: *const u8,
    nope: usize,
    value: usize,
    rank: usize,
    into: *mut u8,
) {
    let shape = one_head(nope, value, rank);
    let number = format;
    let format = Format::from_number(number);
    let source = from_raw_parts(source, (nope + value) * format.file_row_bytes(rank));
    let into = from_raw_parts_mut(into, kv_b_head_bytes(number, nope, value, rank));
    latent_attention::pack_kv_b(format, source, &shape, into);
}

fn one_head(nope: usize, value: usize, rank: usize) -> LatentShape {
    LatentShape { heads: 1, nope, rope: 0, rank, value, block_size: 1, scale: 1.0, epsilon: 0.0 }
}

/// Bytes of a quantized row.
#[no_mangle]
pub extern "C" fn quantized_row_bytes(columns: usize) -> usize {
    columns.div_ceil(BLOCK) * size_of::<QuantizedBlock>()
}

/// Temporary memory of LATENT_ATTENTION for at most `tokens` tokens and contexts of `context`.
#[no_mangle]
pub extern "C" fn latent_scratch_bytes(
    heads: usize,
    rank: usize,
    rope: usize,
    tokens: usize,
    context: usize,
) -> usize {
    let shape = LatentShape { heads, rope, ..one_head(0, 0, rank) };
    latent_attention::scratch_bytes(&shape, tokens, context)
}

/// Temporary memory of PAGED_ATTENTION for contexts of at most `context`.
#[no_mangle]
pub extern "C" fn paged_scratch_bytes(
    heads: usize,
    key_width: usize,
    value_width: usize,
    context: usize,
) -> usize {
    let (groups, block_size, scale, pairs) = (1, 1, 1.0, Pairs::Halves);
    let shape = PagedShape { heads, groups, key_width, value_width, block_size, scale, pairs };
    paged_attention::scratch_bytes(&shape, context)
}

/// Temporary memory of SPARSE_EXPERTS for at most `tokens` tokens.
#[no_mangle]
pub extern "C" fn experts_scratch_bytes(
    format: u32,
    hidden: usize,
    width: usize,
    experts: usize,
    held: usize,
    k: usize,
    tokens: usize,
) -> usize {
    let (first, groups, top_groups, normalize, scaling) = (0, 1, 1, false, 1.0);
    let format = Format::from_number(format);
    let shape = ExpertsShape {
        hidden,
        width,
        experts,
        first,
        held,
        k,
        groups,
        top_groups,
        normalize,
        scaling,
        format,
    };
    experts::scratch_bytes(&shape, tokens)
}
