//! What the op library of onnxruntime calls (`gpu/ops`): the kernels behind a C ABI, declared once more in
//! `gpu/ops/cpu_kernels.h`. The caller has checked every length and index; every thread of a pool calls a
//! kernel with the same arguments but for its number.

use core::slice::{from_raw_parts, from_raw_parts_mut};

use crate::kernels::cache::{Cache, CacheFormat};
use crate::kernels::experts::{self, sparse_experts, ExpertPlace, ExpertsShape, ExpertsTensors};
use crate::kernels::latent_attention::{self, latent_attention, LatentShape, LatentTensors};
use crate::kernels::matrix::{pack, pack_scales, Format};
use crate::kernels::paged_attention::{self, paged_attention, PagedShape, PagedTensors};
use crate::kernels::rotary::Pairs;
use crate::kernels::step_batch::StepBatch;
use crate::pool::PoolState;
use crate::team::{Shared, Team};

/// A thread's place in a kernel call, and the call's temporary memory.
#[repr(C)]
pub struct Call {
    pool: *const PoolState,
    thread: usize,
    threads: usize,
    /// Aligned to 16 bytes.
    scratch: *mut u8,
    scratch_bytes: usize,
}

impl Call {
    unsafe fn team(&self) -> Team<'_> {
        Team::of_pool(&*self.pool, self.thread, self.threads)
    }

    unsafe fn scratch(&self) -> Shared<'_, u8> {
        Shared::from_raw(self.scratch, self.scratch_bytes)
    }
}

/// A step's ragged batch.
#[repr(C)]
pub struct Batch {
    tokens: usize,
    sequences: usize,
    table_width: usize,
    slots: *const i32,
    query_starts: *const i32,
    context_lengths: *const i32,
    block_tables: *const i32,
}

impl Batch {
    unsafe fn read(&self) -> StepBatch<'_> {
        StepBatch {
            slots: from_raw_parts(self.slots, self.tokens),
            query_starts: from_raw_parts(self.query_starts, self.sequences + 1),
            context_lengths: from_raw_parts(self.context_lengths, self.sequences),
            block_tables: from_raw_parts(self.block_tables, self.sequences * self.table_width),
        }
    }
}

/// As `gpu/ops/cpu_kernels.h` lays it out.
const _: () = assert!(size_of::<PoolState>() == 128);

/// Bytes of a packed matrix.
#[no_mangle]
pub extern "C" fn hybridseek_packed_bytes(format: u32, rows: usize, columns: usize) -> usize {
    Format::from_number(format).packed_bytes(rows, columns)
}

/// Packs a matrix as it lies in a file; `scales` may be null where the format has none.
///
/// # Safety
/// The lengths must be those of the format.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_pack(
    format: u32,
    rows: usize,
    columns: usize,
    source: *const u8,
    scales: *const u8,
    packed: *mut u8,
) {
    let format = Format::from_number(format);
    let packed = from_raw_parts_mut(packed, format.packed_bytes(rows, columns));
    let source = from_raw_parts(source, rows * format.file_row_bytes(columns));
    pack(format, source, rows, columns, packed);
    if format.is_quantized() {
        let scales = from_raw_parts(scales, rows * format.file_scale_bytes(columns));
        pack_scales(format, scales, rows, columns, packed);
    }
}

/// Sizes and attributes of LatentAttention.
#[repr(C)]
pub struct LatentSizes {
    heads: usize,
    nope: usize,
    rope: usize,
    rank: usize,
    value: usize,
    block_size: usize,
    scale: f32,
    epsilon: f32,
}

impl LatentSizes {
    fn shape(&self) -> LatentShape {
        let LatentSizes { heads, nope, rope, rank, value, block_size, scale, epsilon } = *self;
        let may_expand = false;
        LatentShape { heads, nope, rope, rank, value, block_size, scale, epsilon, may_expand }
    }
}

/// Tensors of LatentAttention.
#[repr(C)]
pub struct LatentPointers {
    query: *const f32,
    latent: *const f32,
    norm_weight: *const f32,
    kv_b: *const u8,
    format: u32,
    cos: *const f32,
    sin: *const f32,
    cache: *mut f32,
    cache_elements: usize,
    y: *mut f32,
}

/// Bytes of kv_b once it is packed.
///
/// # Safety
/// `sizes` must be readable.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_kv_b_bytes(format: u32, sizes: &LatentSizes) -> usize {
    latent_attention::kv_b_bytes(Format::from_number(format), &sizes.shape())
}

/// Packs kv_b [heads, N+V, C].
///
/// # Safety
/// The lengths must be those of the sizes.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_pack_kv_b(
    format: u32,
    sizes: &LatentSizes,
    source: *const u8,
    packed: *mut u8,
) {
    let (format, shape) = (Format::from_number(format), sizes.shape());
    let LatentShape { heads, nope, value, rank, .. } = shape;
    let file_bytes = (nope + value) * format.file_row_bytes(rank);
    let packed_bytes = latent_attention::kv_b_bytes(format, &shape) / heads;
    for head in 0..heads {
        let source = from_raw_parts(source.add(head * file_bytes), file_bytes);
        let packed = from_raw_parts_mut(packed.add(head * packed_bytes), packed_bytes);
        latent_attention::pack_kv_b(format, source, &shape, packed);
    }
}

/// Temporary memory of LatentAttention.
///
/// # Safety
/// `sizes` must be readable.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_latent_scratch_bytes(
    sizes: &LatentSizes,
    tokens: usize,
    context: usize,
    threads: usize,
) -> usize {
    latent_attention::scratch_bytes(&sizes.shape(), tokens, context, threads)
}

/// One layer of LatentAttention.
///
/// # Safety
/// The pointers must hold what the sizes say.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_latent_attention(
    call: &Call,
    sizes: &LatentSizes,
    batch: &Batch,
    p: &LatentPointers,
) {
    let shape = sizes.shape();
    let LatentShape { heads, nope, rope, rank, value, .. } = shape;
    let tokens = batch.tokens;
    let format = Format::from_number(p.format);
    let tensors = LatentTensors {
        query: from_raw_parts(p.query, tokens * heads * (nope + rope)),
        latent: from_raw_parts(p.latent, tokens * (rank + rope)),
        norm_weight: from_raw_parts(p.norm_weight, rank),
        kv_b: from_raw_parts(p.kv_b, latent_attention::kv_b_bytes(format, &shape)),
        format,
        cos: from_raw_parts(p.cos, tokens * rope / 2),
        sin: from_raw_parts(p.sin, tokens * rope / 2),
        cache: cache(p.cache, p.cache_elements, 1, rank + rope),
        y: Shared::from_raw(p.y, tokens * heads * value),
    };
    latent_attention(&call.team(), &shape, batch.read(), tensors, call.scratch());
}

unsafe fn cache<'a>(start: *mut f32, elements: usize, heads: usize, width: usize) -> Cache<'a> {
    let bytes = Shared::from_raw(start as *mut u8, elements * size_of::<f32>());
    Cache { bytes, format: CacheFormat::F32, heads, width }
}

/// Sizes and attributes of PagedAttention.
#[repr(C)]
pub struct PagedSizes {
    heads: usize,
    groups: usize,
    key_width: usize,
    value_width: usize,
    block_size: usize,
    scale: f32,
    interleaved: u32,
}

impl PagedSizes {
    fn shape(&self) -> PagedShape {
        let PagedSizes { heads, groups, key_width, value_width, block_size, scale, interleaved } =
            *self;
        let pairs = if interleaved == 0 { Pairs::Halves } else { Pairs::Interleaved };
        PagedShape { heads, groups, key_width, value_width, block_size, scale, pairs }
    }
}

/// Tensors of PagedAttention.
#[repr(C)]
pub struct PagedPointers {
    query: *const f32,
    key: *const f32,
    value: *const f32,
    cos: *const f32,
    sin: *const f32,
    key_cache: *mut f32,
    key_elements: usize,
    value_cache: *mut f32,
    value_elements: usize,
    y: *mut f32,
}

/// Temporary memory of PagedAttention.
///
/// # Safety
/// `sizes` must be readable.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_paged_scratch_bytes(
    sizes: &PagedSizes,
    tokens: usize,
    context: usize,
    threads: usize,
) -> usize {
    paged_attention::scratch_bytes(&sizes.shape(), tokens, context, threads)
}

/// One layer of PagedAttention.
///
/// # Safety
/// The pointers must hold what the sizes say.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_paged_attention(
    call: &Call,
    sizes: &PagedSizes,
    batch: &Batch,
    p: &PagedPointers,
) {
    let shape = sizes.shape();
    let PagedShape { heads, groups, key_width, value_width, .. } = shape;
    let tokens = batch.tokens;
    let tensors = PagedTensors {
        query: from_raw_parts(p.query, tokens * heads * key_width),
        key: from_raw_parts(p.key, tokens * groups * key_width),
        value: from_raw_parts(p.value, tokens * groups * value_width),
        cos: from_raw_parts(p.cos, tokens * key_width / 2),
        sin: from_raw_parts(p.sin, tokens * key_width / 2),
        key_cache: cache(p.key_cache, p.key_elements, groups, key_width),
        value_cache: cache(p.value_cache, p.value_elements, groups, value_width),
        y: Shared::from_raw(p.y, tokens * heads * value_width),
    };
    paged_attention(&call.team(), &shape, batch.read(), tensors, call.scratch());
}

/// Sizes and attributes of SparseExperts.
#[repr(C)]
pub struct ExpertsSizes {
    hidden: usize,
    width: usize,
    experts: usize,
    first: usize,
    held: usize,
    k: usize,
    groups: usize,
    top_groups: usize,
    scaling: f32,
    normalize: u32,
    format: u32,
}

impl ExpertsSizes {
    fn shape(&self) -> ExpertsShape {
        let ExpertsSizes { hidden, width, experts, first, held, k, groups, top_groups, .. } = *self;
        let normalize = self.normalize != 0;
        let (scaling, format) = (self.scaling, Format::from_number(self.format));
        ExpertsShape {
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
        }
    }
}

/// Tensors of SparseExperts.
#[repr(C)]
pub struct ExpertsPointers {
    tokens: usize,
    x: *const f32,
    router: *const u8,
    /// One for each expert held here.
    places: *const ExpertPlace,
    y: *mut f32,
    chosen: *mut i32,
    weights: *mut f32,
}

/// Temporary memory of SparseExperts.
///
/// # Safety
/// `sizes` must be readable.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_experts_scratch_bytes(
    sizes: &ExpertsSizes,
    tokens: usize,
    threads: usize,
) -> usize {
    experts::scratch_bytes(&sizes.shape(), tokens, threads)
}

/// One layer of SparseExperts.
///
/// # Safety
/// The pointers must hold what the sizes say.
#[no_mangle]
pub unsafe extern "C" fn hybridseek_sparse_experts(
    call: &Call,
    sizes: &ExpertsSizes,
    p: &ExpertsPointers,
) {
    let shape = sizes.shape();
    let ExpertsShape { hidden, experts, held, k, .. } = shape;
    let tensors = ExpertsTensors {
        x: from_raw_parts(p.x, p.tokens * hidden),
        router: from_raw_parts(p.router, Format::F32.packed_bytes(experts, hidden)),
        places: from_raw_parts(p.places, held),
        supply: None,
        y: Shared::from_raw(p.y, p.tokens * hidden),
        chosen: Shared::from_raw(p.chosen, p.tokens * k),
        weights: Shared::from_raw(p.weights, p.tokens * k),
    };
    sparse_experts(&call.team(), &shape, tensors, call.scratch());
}
