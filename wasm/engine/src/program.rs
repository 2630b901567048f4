//! The step program: what TypeScript compiled from the graph, executed word by word.
//!
//! A program is a list of u32 words: an opcode, its operands, the next opcode, ... An operand is the
//! number of a tensor in the tensor table, a size, or the bits of an f32. Rows of a tensor that vary
//! from step to step are given as the number of a size in [`StepSizes`]. `src/backend/wasm/opcodes.ts`
//! spells the same list in TypeScript; [`operand_count`] lets it check itself against this one.

use crate::kernels::elementwise::{add, copy_columns, mul, sigmoid};
use crate::kernels::experts::{sparse_experts, ExpertsShape, ExpertsTensors};
use crate::kernels::gather::{gather, Table};
use crate::kernels::latent_attention::{latent_attention, LatentShape, LatentTensors};
use crate::kernels::matrix::{Format, Matrix, BLOCK};
use crate::kernels::multiply::{multiply_float, multiply_quantized, Strided, StridedMut};
use crate::kernels::paged_attention::{paged_attention, PagedShape, PagedTensors};
use crate::kernels::quantize::{quantize, QuantizedBlock};
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rotary::Pairs;
use crate::kernels::step_batch::StepBatch;

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
    LATENT_ATTENTION = 8, 22;
    PAGED_ATTENTION = 9, 20;
    SPARSE_EXPERTS = 10, 19;
}

/// Executes a program.
///
/// # Safety
/// Every tensor of the table must lie in memory that nothing else uses meanwhile, and the tensors an
/// instruction writes must not overlap the others it names.
///
/// # Panics
/// If the program is malformed or a tensor is too short for what is done with it.
pub unsafe fn run(program: &[u32], tensors: &[Tensor], sizes: StepSizes) {
    let mut rest = program;
    while let [opcode, after @ ..] = rest {
        let (operands, next) = after.split_at(operand_count(*opcode) as usize);
        execute(*opcode, &mut Operands { words: operands, tensors, sizes });
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
    unsafe fn write<T>(self, count: usize) -> &'a mut [T] {
        self.check::<T>(count);
        core::slice::from_raw_parts_mut(self.tensor.address as usize as *mut T, count)
    }

    fn check<T>(&self, count: usize) {
        assert!(count as u64 * size_of::<T>() as u64 <= self.tensor.bytes);
    }

    /// How many elements of type T there are.
    fn count<T>(&self) -> usize {
        self.tensor.bytes as usize / size_of::<T>()
    }
}

unsafe fn execute(opcode: u32, o: &mut Operands) {
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
            gather(table, width, indices.read(rows), y.write(rows * width));
        }
        RMS_NORM => {
            let (x, weight, width) = (o.tensor(), o.tensor(), o.size());
            let (epsilon, rows, y) = (o.float(), o.rows(), o.tensor());
            rms_norm(x.read(rows * width), weight.read(width), epsilon, y.write(rows * width));
        }
        QUANTIZE => {
            let (x, columns, rows, blocks) = (o.tensor(), o.size(), o.rows(), o.tensor());
            quantize(x.read(rows * columns), columns, blocks.write(rows * columns.div_ceil(BLOCK)));
        }
        MULTIPLY => multiply(o),
        SIGMOID => {
            let (x, width, rows, y) = (o.tensor(), o.size(), o.rows(), o.tensor());
            sigmoid(x.read(rows * width), y.write(rows * width));
        }
        MUL | ADD => {
            let (a, b, width, rows, y) = (o.tensor(), o.tensor(), o.size(), o.rows(), o.tensor());
            let apply = if opcode == MUL { mul } else { add };
            apply(a.read(rows * width), b.read(rows * width), y.write(rows * width));
        }
        COPY_COLUMNS => {
            let (x, width, rows) = (o.tensor(), o.size(), o.rows());
            let (y, y_width, offset) = (o.tensor(), o.size(), o.size());
            copy_columns(x.read(rows * width), width, y.write(rows * y_width), y_width, offset);
        }
        LATENT_ATTENTION => latent(o),
        PAGED_ATTENTION => paged(o),
        SPARSE_EXPERTS => experts(o),
        _ => panic!("no such opcode"),
    }
}

unsafe fn multiply(o: &mut Operands) {
    let (x, weight, format) = (o.tensor(), o.tensor(), Format::from_number(o.number()));
    let (out, columns, rows, y) = (o.size(), o.size(), o.rows(), o.tensor());
    let matrix = Matrix::new(format, out, columns, weight.read(format.packed_bytes(out, columns)));
    let mut y = StridedMut { values: y.write(rows * out), stride: out };
    if format.is_quantized() {
        let blocks = x.read::<QuantizedBlock>(rows * columns.div_ceil(BLOCK));
        multiply_quantized(&matrix, blocks, rows, &mut y);
    } else {
        let x = Strided { values: x.read(rows * columns), stride: columns };
        multiply_float(&matrix, x, rows, &mut y);
    }
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

unsafe fn latent(o: &mut Operands) {
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
    };
    let batch = step_batch(o);
    let LatentShape { heads, nope, rope, rank, value, .. } = shape;
    let format = Format::from_number(o.number());
    let (query, latent, norm_weight, kv_b) = (o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let (cos, sin, cache, y, scratch) =
        (o.tensor(), o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let tensors = LatentTensors {
        query: query.read(tokens * heads * (nope + rope)),
        latent: latent.read(tokens * (rank + rope)),
        norm_weight: norm_weight.read(rank),
        kv_b: kv_b.read(crate::kernels::latent_attention::kv_b_bytes(format, &shape)),
        format,
        cos: cos.read(tokens * rope / 2),
        sin: sin.read(tokens * rope / 2),
        cache: cache.write(cache.count::<f32>()),
        y: y.write(tokens * heads * value),
    };
    latent_attention(&shape, batch, tensors, scratch.write(scratch.count::<u8>()));
}

unsafe fn paged(o: &mut Operands) {
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
        key_cache: key_cache.write(key_cache.count::<f32>()),
        value_cache: value_cache.write(value_cache.count::<f32>()),
        y: y.write(tokens * heads * value_width),
    };
    paged_attention(&shape, batch, tensors, scratch.write(scratch.count::<u8>()));
}

unsafe fn experts(o: &mut Operands) {
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
    let ExpertsShape { hidden, width, experts, held, k, format, .. } = shape;
    let (x, router, gate_up, down) = (o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let (y, chosen, weights, scratch) = (o.tensor(), o.tensor(), o.tensor(), o.tensor());
    let tensors = ExpertsTensors {
        x: x.read(tokens * hidden),
        router: router.read(Format::F32.packed_bytes(experts, hidden)),
        gate_up: gate_up.read(held * format.packed_bytes(2 * width, hidden)),
        down: down.read(held * format.packed_bytes(hidden, width)),
        y: y.write(tokens * hidden),
        chosen: chosen.write(tokens * k),
        weights: weights.write(tokens * k),
    };
    sparse_experts(&shape, tensors, scratch.write(scratch.count::<u8>()));
}
