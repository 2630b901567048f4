//! What a WebAssembly module offers to TypeScript. Every pointer is an address in its memory; the
//! caller lays the memory out (`src/backend/wasm/memory_plan.ts`), the module allocates nothing.

use core::slice::from_raw_parts;

use crate::kernels::cache::CacheFormat;
use crate::kernels::experts::{self, ExpertsShape};
use crate::kernels::latent_attention::{self, LatentShape};
use crate::kernels::matrix::{Format, BLOCK};
use crate::kernels::paged_attention::{self, PagedShape};
use crate::kernels::quantize::QuantizedBlock;
use crate::kernels::rotary::Pairs;
use crate::kernels::supply::{self, SupplyState};
use crate::program::{self, StepSizes, Tensor};
use crate::team::{Team, TeamState};

/// What the threads of a team run: `src/backend/wasm/memory_plan.ts` writes it.
#[repr(C)]
pub struct Job {
    /// Address of the program.
    words: u64,
    word_count: u64,
    /// Address of the tensor table.
    tensors: u64,
    tensor_count: u64,
    sizes: StepSizes,
    /// Address of the team's state.
    team: u64,
    threads: u64,
}

/// Executes a program as thread number `thread` of a team, see [`program::run`].
///
/// # Safety
/// As there; the addresses of the job must hold what they say.
#[no_mangle]
pub unsafe extern "C" fn run(job: *const Job, thread: u32) {
    let job = &*job;
    let words = from_raw_parts(job.words as usize as *const u32, job.word_count as usize);
    let tensors = from_raw_parts(job.tensors as usize as *const Tensor, job.tensor_count as usize);
    let state = &*(job.team as usize as *const TeamState);
    let team = Team::new(state, thread as usize, job.threads as usize);
    program::run(&team, words, tensors, job.sizes);
}

/// How many operands an opcode has; `u32::MAX` if there is none such.
#[no_mangle]
pub extern "C" fn operand_count(opcode: u32) -> u32 {
    program::operand_count(opcode)
}

/// Bytes of a team's state.
#[no_mangle]
pub extern "C" fn team_bytes() -> usize {
    size_of::<TeamState>()
}

/// Bytes of a matrix once it is packed.
#[no_mangle]
pub extern "C" fn packed_bytes(format: u32, rows: usize, columns: usize) -> usize {
    Format::from_number(format).packed_bytes(rows, columns)
}

/// Bytes of one head of kv_b_proj once it is packed.
#[no_mangle]
pub extern "C" fn kv_b_head_bytes(format: u32, nope: usize, value: usize, rank: usize) -> usize {
    let shape = LatentShape::one_head(nope, value, rank);
    latent_attention::kv_b_bytes(Format::from_number(format), &shape)
}

/// Bytes of a quantized row.
#[no_mangle]
pub extern "C" fn quantized_row_bytes(columns: usize) -> usize {
    columns.div_ceil(BLOCK) * size_of::<QuantizedBlock>()
}

/// Bytes of one head's row of a cache.
#[no_mangle]
pub extern "C" fn cache_row_bytes(format: u32, width: usize) -> usize {
    CacheFormat::from_number(format).row_bytes(width)
}

/// Temporary memory of LATENT_ATTENTION for at most `tokens` tokens and contexts of `context`.
#[no_mangle]
pub extern "C" fn latent_scratch_bytes(
    heads: usize,
    nope: usize,
    rope: usize,
    rank: usize,
    value: usize,
    may_expand: u32,
    tokens: usize,
    context: usize,
    threads: usize,
) -> usize {
    let may_expand = may_expand != 0;
    let shape = LatentShape::one_head(nope, value, rank);
    let shape = LatentShape { heads, rope, may_expand, ..shape };
    latent_attention::scratch_bytes(&shape, tokens, context, threads)
}

/// Temporary memory of PAGED_ATTENTION for at most `tokens` tokens and contexts of `context`.
#[no_mangle]
pub extern "C" fn paged_scratch_bytes(
    heads: usize,
    groups: usize,
    key_width: usize,
    value_width: usize,
    tokens: usize,
    context: usize,
    threads: usize,
) -> usize {
    let (block_size, scale, pairs) = (1, 1.0, Pairs::Halves);
    let shape = PagedShape { heads, groups, key_width, value_width, block_size, scale, pairs };
    paged_attention::scratch_bytes(&shape, tokens, context, threads)
}

/// Bytes of an expert as the host reads it.
#[no_mangle]
pub extern "C" fn staged_expert_bytes(format: u32, hidden: usize, width: usize) -> usize {
    supply::staged_bytes(&ExpertsShape::of_experts(Format::from_number(format), hidden, width))
}

/// Bytes of what a supply and its host share, for nodes of at most `held` experts.
#[no_mangle]
pub extern "C" fn supply_bytes(held: usize) -> usize {
    SupplyState::bytes(held)
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
    threads: usize,
) -> usize {
    let shape = ExpertsShape::of_experts(Format::from_number(format), hidden, width);
    let shape = ExpertsShape { experts, held, k, ..shape };
    experts::scratch_bytes(&shape, tokens, threads)
}
