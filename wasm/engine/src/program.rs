//! The step program: what TypeScript compiled from the graph, executed word by word.
//!
//! A program is a list of u32 words: an opcode, its operands, the next opcode, ... An operand is the
//! number of a tensor in the tensor table, a size, or the bits of an f32. Rows of a tensor that vary
//! from step to step are given as the number of a size in [`StepSizes`]. `src/backend/wasm/opcodes.ts`
//! spells the same list in TypeScript; [`operand_count`] lets it check itself against this one.

use core::ops::Range;

use crate::kernels::cache::{Cache, CacheFormat};
use crate::kernels::elementwise::{add, copy_columns, mul, sigmoid};
use crate::kernels::experts::{sparse_experts, ExpertsShape, ExpertsTensors};
use crate::kernels::gather::{gather, Table};
use crate::kernels::latent_attention::{
    kv_b_bytes, latent_attention, pack_kv_b, LatentShape, LatentTensors,
};
use crate::kernels::matrix::{pack, pack_scales, Format, Matrix, BLOCK, GROUP};
use crate::kernels::multiply::{share_float, share_quantized, Strided, StridedMut};
use crate::kernels::paged_attention::{paged_attention, PagedShape, PagedTensors};
use crate::kernels::quantize::{quantize, QuantizedBlock};
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rotary::Pairs;
use crate::kernels::step_batch::StepBatch;
use crate::kernels::supply::{Supply, SupplyState};
use crate::team::{Shared, Team};

/// A row of the tensor table.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Tensor {
    /// Where it begins, a multiple of 16.
    pub address: u64,
    /// How long it may be.
    pub bytes: u64,
}

/// Sizes of the step at hand.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StepSizes {
    /// T, size 0.
    pub tokens: u32,
    /// Q, how many rows' logits are wanted, size 1.
    pub logit_rows: u32,
    /// B.
    pub sequences: u32,
    /// M.
    pub table_width: u32,
}

/// Opcodes and how many operands each has.
macro_rules! opcodes {
    ($($name:ident = $code:literal, $operands:literal;)*) => {
        $(const $name: u32 = $code;)*
        /// How many operands an opcode has; `u32::MAX` if there is no such opcode.
        pub fn operand_count(opcode: u32) -> u32 {
            match opcode {
                $($code => $operands,)*
                _ => u32::MAX,
            }
        }
    };
}

opcodes! {
    GATHER = 0, 6; // table, its type (0 f32, 1 f16, 2 bf16), width, indices, rows, y
    RMS_NORM = 1, 6; // x, weight, width, epsilon, rows, y
    QUANTIZE = 2, 4; // x, columns, rows, blocks
    MULTIPLY = 3, 7; // x (f32 or blocks), weight, its format, out, columns, rows, y
    SIGMOID = 4, 4; // x, width, rows, y
    MUL = 5, 5; // a, b, width, rows, y
    ADD = 6, 5; // a, b, width, rows, y
    COPY_COLUMNS = 7, 6; // x, width, rows, y, its width, offset
    LATENT_ATTENTION = 8, 24;
    PAGED_ATTENTION = 9, 21;
    SPARSE_EXPERTS = 10, 20;
    PACK = 11, 5; // source, format, rows, columns, packed
    PACK_LATENT_UP = 12, 7; // source, format, heads, nope, value, rank, packed
    PACK_SCALES = 13, 5; // source, format, rows, columns, packed
}

/// Elements that a thread takes at a time where each costs a few instructions.
const ELEMENTS_AT_ONCE: usize = 4096;

/// Executes a program, as one thread of a team whose threads all do.
///
/// # Safety
/// Every tensor of the table must lie in memory that nothing but the team uses meanwhile, and the tensors
/// an instruction writes must not overlap the others it names.
///
/// # Panics
/// If the program is malformed or a tensor is too short for what is done with it.
pub unsafe fn run(team: &Team, program: &[u32], tensors: &[Tensor], sizes: StepSizes) {
    let mut rest = program;
    while let [opcode, after @ ..] = rest {
        let (operands, next) = after.split_at(operand_count(*opcode) as usize);
        execute(team, *opcode, &mut Operands { words: operands, tensors, sizes });
        rest = next;
    }
}

/// The operands of an instruction, taken in order.
struct Operands<'a> {
    words: &'a [u32],
    tensors: &'a [Tensor],
    sizes: StepSizes,
}

impl<'a> Operands<'a> {
    fn number(&mut self) -> u32 {
        let [first, rest @ ..] = self.words else { panic!("too few operands") };
        self.words = rest;
        *first
    }

    fn size(&mut self) -> usize {
        self.number() as usize
    }

    fn float(&mut self) -> f32 {
        f32::from_bits(self.number())
    }

    /// A number of rows that varies from step to step.
    fn rows(&mut self) -> usize {
        match self.number() {
            0 => self.sizes.tokens as usize,
            1 => self.sizes.logit_rows as usize,
            _ => panic!("no such size"),
        }
    }

    fn tensor(&mut self) -> TensorView<'a> {
        let tensor = self.tensors[self.number() as usize];
        TensorView { tensor, table: core::marker::PhantomData }
    }
}

/// A tensor whose length is checked when it is looked at.
#[derive(Clone, Copy)]
struct TensorView<'a> {
    tensor: Tensor,
    table: core::marker::PhantomData<&'a [Tensor]>,
}

impl<'a> TensorView<'a> {
    /// # Safety
    /// As for [`run`]; the elements must be of type T.
    unsafe fn read<T>(self, count: usize) -> &'a [T] {
        self.check::<T>(count);
        core::slice::from_raw_parts(self.tensor.address as usize as *const T, count)
    }

    /// # Safety
    /// As for [`run`]; the elements must be of type T.
    unsafe fn share<T>(self, count: usize) -> Shared<'a, T> {
        self.check::<T>(count);
        Shared::from_raw(self.tensor.address as usize as *mut T, count)
    }

    /// # Safety
    /// As for [`run`]; it must be a cache.
    unsafe fn cache(self, format: CacheFormat, heads: usize, width: usize) -> Cache<'a> {
        Cache { bytes: self.share(self.count::<u8>()), format, heads, width }
    }

    /// # Safety
    /// As for [`run`]; it must be the state of a supply.
    unsafe fn supply(self, held: usize, layer: u32) -> Supply<'a> {
        self.check::<u8>(SupplyState::bytes(held));
        let state = self.tensor.address as usize as *const SupplyState;
        let list = Shared::from_raw(state.add(1) as *mut u32, held);
        Supply { state: &*state, list, layer }
    }

    fn check<T>(&self, count: usize) {
        assert!(count as u64 * size_of::<T>() as u64 <= self.tensor.bytes);
    }

    /// How many elements of type T there are.
    fn count<T>(&self) -> usize {
        self.tensor.bytes as usize / size_of::<T>()
    }
}

/// Gives out rows of some width, and calls `work` with the elements of each run of rows.
fn share_rows(
    team: &Team,
    rows: usize,
    width: usize,
    mut work: impl FnMut(Range<usize>, Range<usize>),
) {
    let grain = (ELEMENTS_AT_ONCE / width).max(1);
    team.share(rows, grain, |run| work(run.clone(), run.start * width..run.end * width));
}

unsafe fn execute(team: &Team, opcode: u32, o: &mut Operands) {
    match opcode {
        GATHER => {
            let (table, kind, width) = (o.tensor(), o.number(), o.size());
            let (indices, rows, y) = (o.tensor(), o.rows(), o.tensor());
            let table = match kind {
                0 => Table::F32(table.read(table.count::<f32>())),
                1 => Table::F16(table.read(table.count::<u16>())),
                2 => Table::Bf16(table.read(table.count::<u16>())),
                _ => panic!("no such table"),
            };
            let (indices, y) = (indices.read(rows), y.share(rows * width));
            share_rows(team, rows, width, |rows, elements| {
                gather(table, width, &indices[rows], y.write(elements));
            });
        }
        RMS_NORM => {
            let (x, weight, width) = (o.tensor(), o.tensor(), o.size());
            let (epsilon, rows, y) = (o.float(), o.rows(), o.tensor());
            let (x, weight, y) = (x.read(rows * width), weight.read(width), y.share(rows * width));
            share_rows(team, rows, width, |_, elements| {
                rms_norm(&x[elements.clone()], weight, epsilon, y.write(elements));
            });
        }
        QUANTIZE => {
            let (x, columns, rows, blocks) = (o.tensor(), o.size(), o.rows(), o.tensor());
            let per_row = columns.div_ceil(BLOCK);
            let (x, blocks) = (x.read(rows * columns), blocks.share(rows * per_row));
            team.share(rows.div_ceil(4), (ELEMENTS_AT_ONCE / (4 * columns)).max(1), |fours| {
                let rows = fours.start * 4..rows.min(fours.end * 4);
                let blocks = blocks.write(rows.start * per_row..rows.end * per_row);
                quantize(&x[rows.start * columns..rows.end * columns], columns, blocks);
            });
        }
        MULTIPLY => multiply(team, o),
        SIGMOID => {
            let (x, width, rows, y) = (o.tensor(), o.size(), o.rows(), o.tensor());
            let (x, y) = (x.read(rows * width), y.share(rows * width));
            team.share(rows * width, ELEMENTS_AT_ONCE, |elements| {
                sigmoid(&x[elements.clone()], y.write(elements));
            });
        }
        MUL | ADD => {
            let (a, b, width, rows, y) = (o.tensor(), o.tensor(), o.size(), o.rows(), o.tensor());
            let apply = if opcode == MUL { mul } else { add };
            let (a, b, y) = (a.read(rows * width), b.read(rows * width), y.share(rows * width));
            team.share(rows * width, ELEMENTS_AT_ONCE, |elements| {
                apply(&a[elements.clone()], &b[elements.clone()], y.write(elements));
            });
        }
        COPY_COLUMNS => {
            let (x, width, rows) = (o.tensor(), o.size(), o.rows());
            let (y, y_width, offset) = (o.tensor(), o.size(), o.size());
            let (x, y) = (x.read(rows * width), y.share(rows * y_width));
            share_rows(team, rows, y_width, |rows, elements| {
                let x = &x[rows.start * width..rows.end * width];
                copy_columns(x, width, y.write(elements), y_width, offset);
            });
        }
        LATENT_ATTENTION => latent(team, o),
        PAGED_ATTENTION => paged(team, o),
        SPARSE_EXPERTS => experts(team, o),
        PACK => pack_rows(team, o, Format::file_row_bytes, pack),
        PACK_SCALES => pack_rows(team, o, Format::file_scale_bytes, pack_scales),
        PACK_LATENT_UP => pack_latent_up(team, o),
        _ => panic!("no such opcode"),
    }
}

unsafe fn multiply(team: &Team, o: &mut Operands) {
    let (x, weight, format) = (o.tensor(), o.tensor(), Format::from_number(o.number()));
    let (out, columns, rows, y) = (o.size(), o.size(), o.rows(), o.tensor());
    let matrix = Matrix::new(format, out, columns, weight.read(format.packed_bytes(out, columns)));
    let y = StridedMut { values: y.share(rows * out), stride: out };
    if format.is_quantized() {
        let blocks = x.read::<QuantizedBlock>(rows * columns.div_ceil(BLOCK));
        share_quantized(team, &matrix, blocks, rows, y);
    } else {
        let x = Strided { values: x.read(rows * columns), stride: columns };
        share_float(team, &matrix, x, rows, y);
    }
}

/// Packs rows of a matrix as they lie in a file, or their scales: a multiple of 8, unless they are its
/// last.
unsafe fn pack_rows(
    team: &Team,
    o: &mut Operands,
    row_bytes: fn(Format, usize) -> usize,
    pack: fn(Format, &[u8], usize, usize, &mut [u8]),
) {
    let (source, format) = (o.tensor(), Format::from_number(o.number()));
    let (rows, columns, packed) = (o.size(), o.size(), o.tensor());
    let row_bytes = row_bytes(format, columns);
    let source = source.read::<u8>(rows * row_bytes);
    let packed = packed.share(format.packed_bytes(rows, columns));
    let group_bytes = format.group_bytes(columns);
    let grain = (ELEMENTS_AT_ONCE / (GROUP * columns)).max(1);
    team.share(rows.div_ceil(GROUP), grain, |groups| {
        let part = groups.start * GROUP..rows.min(groups.end * GROUP);
        pack(
            format,
            &source[part.start * row_bytes..part.end * row_bytes],
            part.len(),
            columns,
            packed.write(groups.start * group_bytes..groups.end * group_bytes),
        );
    });
}

/// Packs heads of kv_b_proj [heads, N+V, C] as they lie in a file.
unsafe fn pack_latent_up(team: &Team, o: &mut Operands) {
    let (source, format) = (o.tensor(), Format::from_number(o.number()));
    let (heads, nope, value, rank, packed) = (o.size(), o.size(), o.size(), o.size(), o.tensor());
    let shape = LatentShape::one_head(nope, value, rank);
    let (file_bytes, packed_bytes) =
        ((nope + value) * format.file_row_bytes(rank), kv_b_bytes(format, &shape));
    let source = source.read::<u8>(heads * file_bytes);
    let packed = packed.share(heads * packed_bytes);
    team.share(heads, 1, |run| {
        for head in run {
            let source = &source[head * file_bytes..(head + 1) * file_bytes];
            let packed = packed.write(head * packed_bytes..(head + 1) * packed_bytes);
            pack_kv_b(format, source, &shape, packed);
        }
    });
}

/// The step's ragged batch: slots, query_starts, context_lengths, block_tables.
unsafe fn step_batch<'a>(o: &mut Operands<'a>) -> StepBatch<'a> {
    let StepSizes { tokens, sequences, table_width, .. } = o.sizes;
    StepBatch {
        slots: o.tensor().read(tokens as usize),
        query_starts: o.tensor().read(sequences as usize + 1),
        context_lengths: o.tensor().read(sequences as usize),
        block_tables: o.tensor().read(sequences as usize * table_width as usize),
    }
}

unsafe fn latent(team: &Team, o: &mut Operands) {
    let tokens = o.sizes.tokens as usize;
    let shape = LatentShape {
        heads: o.size(),
        nope: o.size(),
        rope: o.size(),
        rank: o.size(),
        value: o.size(),
        block_size: o.size(),
        scale: o.float(),
        epsilon: o.float(),
        may_expand: o.number() != 0,
    };
    let batch = step_batch(o);
    let LatentShape { heads, nope, rope, rank, value, .. } = shape;
    let (format, cache_format) =
        (Format::from_number(o.number()), CacheFormat::from_number(o.number()));
    let (query, latent, norm_weight, kv_b) = (o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let (cos, sin, cache, y, scratch) =
        (o.tensor(), o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let tensors = LatentTensors {
        query: query.read(tokens * heads * (nope + rope)),
        latent: latent.read(tokens * (rank + rope)),
        norm_weight: norm_weight.read(rank),
        kv_b: kv_b.read(kv_b_bytes(format, &shape)),
        format,
        cos: cos.read(tokens * rope / 2),
        sin: sin.read(tokens * rope / 2),
        cache: cache.cache(cache_format, 1, rank + rope),
        y: y.share(tokens * heads * value),
    };
    latent_attention(team, &shape, batch, tensors, scratch.share(scratch.count::<u8>()));
}

unsafe fn paged(team: &Team, o: &mut Operands) {
    let tokens = o.sizes.tokens as usize;
    let shape = PagedShape {
        heads: o.size(),
        groups: o.size(),
        key_width: o.size(),
        value_width: o.size(),
        block_size: o.size(),
        scale: o.float(),
        pairs: if o.number() == 0 { Pairs::Halves } else { Pairs::Interleaved },
    };
    let batch = step_batch(o);
    let cache_format = CacheFormat::from_number(o.number());
    let PagedShape { heads, groups, key_width, value_width, .. } = shape;
    let (query, key, value) = (o.tensor(), o.tensor(), o.tensor());
    let (cos, sin, key_cache, value_cache) = (o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let (y, scratch) = (o.tensor(), o.tensor());
    let tensors = PagedTensors {
        query: query.read(tokens * heads * key_width),
        key: key.read(tokens * groups * key_width),
        value: value.read(tokens * groups * value_width),
        cos: cos.read(tokens * key_width / 2),
        sin: sin.read(tokens * key_width / 2),
        key_cache: key_cache.cache(cache_format, groups, key_width),
        value_cache: value_cache.cache(cache_format, groups, value_width),
        y: y.share(tokens * heads * value_width),
    };
    paged_attention(team, &shape, batch, tensors, scratch.share(scratch.count::<u8>()));
}

unsafe fn experts(team: &Team, o: &mut Operands) {
    let tokens = o.sizes.tokens as usize;
    let shape = ExpertsShape {
        hidden: o.size(),
        width: o.size(),
        experts: o.size(),
        first: o.size(),
        held: o.size(),
        k: o.size(),
        groups: o.size(),
        top_groups: o.size(),
        normalize: o.number() != 0,
        scaling: o.float(),
        format: Format::from_number(o.number()),
    };
    let ExpertsShape { hidden, experts, held, k, .. } = shape;
    let layer = o.number();
    let (x, router, places, supply) = (o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let on_demand = supply.count::<u8>() > 0;
    let (y, chosen, weights, scratch) = (o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let tensors = ExpertsTensors {
        x: x.read(tokens * hidden),
        router: router.read(Format::F32.packed_bytes(experts, hidden)),
        places: places.read(held),
        supply: on_demand.then(|| supply.supply(held, layer)),
        y: y.share(tokens * hidden),
        chosen: chosen.share(tokens * k),
        weights: weights.share(tokens * k),
    };
    sparse_experts(team, &shape, tensors, scratch.share(scratch.count::<u8>()));
}
