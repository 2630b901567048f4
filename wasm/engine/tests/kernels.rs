//! Each kernel against its scalar reference, at odd sizes, and against itself: a token's result must be the
//! same bits whatever the batch around it.

use hybridseek_engine::kernels::attention::{self, attend, Heads, Values};
use hybridseek_engine::kernels::cache::{Cache, CacheFormat};
use hybridseek_engine::kernels::expanded_attention;
use hybridseek_engine::kernels::experts::{
    self, sparse_experts, ExpertPlace, ExpertsShape, ExpertsTensors,
};
use hybridseek_engine::kernels::latent_attention::{self, LatentShape, LatentTensors};
use hybridseek_engine::kernels::matrix::{
    self, element, f16_to_f32, pack_transposed, Format, Matrix, BLOCK, GROUP,
};
use hybridseek_engine::kernels::multiply::{multiply_float, reference, Strided, StridedMut};
use hybridseek_engine::kernels::multiply_quantized::multiply_quantized;
use hybridseek_engine::kernels::quantize::{self, quantize, QuantizedBlock};
use hybridseek_engine::kernels::rms_norm::{self, rms_norm};
use hybridseek_engine::kernels::scratch::Scratch;
use hybridseek_engine::kernels::step_batch::StepBatch;
use hybridseek_engine::kernels::{elementwise, gather, rotary};
use hybridseek_engine::pool::PoolState;
use hybridseek_engine::team::{Shared, Team, TeamState};

const FORMATS: [Format; 4] = [Format::F32, Format::F16, Format::Int8, Format::Int4];
/// Rows and columns of a matrix: around the group of 8, the block of 32 and eight blocks.
const SIZES: [(usize, usize); 8] =
    [(1, 1), (3, 5), (7, 31), (8, 32), (9, 33), (40, 64), (65, 97), (11, 300)];

/// A generator of numbers that need not be good, only the same everywhere.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// In (-1, 1).
    fn float(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 30) as f32 - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    /// Half-precision bits of a normal number of either sign.
    fn half(&mut self) -> u16 {
        (self.bits() as u16 & 0x83ff) | 0x2c00
    }
}

/// The threads that run a kernel.
#[derive(Clone, Copy, Debug)]
enum On {
    /// A team in lockstep.
    Team(usize),
    /// Threads of a pool: they begin one after the other, the last one when all is done.
    Pool(usize),
}

impl On {
    const SEVERAL: [On; 6] =
        [On::Team(2), On::Team(3), On::Team(5), On::Pool(1), On::Pool(2), On::Pool(4)];

    fn threads(self) -> usize {
        match self {
            On::Team(threads) | On::Pool(threads) => threads,
        }
    }

    fn run(self, kernel: impl Fn(&Team) + Sync) {
        let threads = self.threads();
        let (state, pool) = (TeamState::default(), PoolState::default());
        let kernel = &kernel;
        match self {
            On::Team(_) => std::thread::scope(|scope| {
                for thread in 0..threads {
                    let state = &state;
                    scope.spawn(move || kernel(&Team::new(state, thread, threads)));
                }
            }),
            On::Pool(_) => {
                std::thread::scope(|scope| {
                    for thread in 0..threads - 1 {
                        let pool = &pool;
                        scope.spawn(move || kernel(&Team::of_pool(pool, thread, threads)));
                    }
                });
                kernel(&Team::of_pool(&pool, threads - 1, threads));
            }
        }
    }
}

/// Lets the threads of a team share a buffer, as they share a WebAssembly memory.
struct OfAll<'a, T>(Shared<'a, T>);
// SAFETY: a kernel's threads never write to the same elements.
unsafe impl<T> Sync for OfAll<'_, T> {}

impl<'a, T> OfAll<'a, T> {
    fn new(buffer: &'a mut [T]) -> Self {
        Self(Shared::new(buffer))
    }

    fn get(&self) -> Shared<'a, T> {
        self.0
    }
}

/// Temporary memory, aligned, full of NaN.
fn scratch_of(bytes: usize) -> Vec<u128> {
    vec![u128::MAX; bytes.div_ceil(16)]
}

fn bytes_of<T>(buffer: &mut [T]) -> &mut [u8] {
    let bytes = std::mem::size_of_val(buffer);
    // SAFETY: any bytes are u8.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr() as *mut u8, bytes) }
}

/// A matrix as it lies in a file, and its elements.
struct FileMatrix {
    format: Format,
    rows: usize,
    columns: usize,
    source: Vec<u8>,
    scales: Vec<u16>,
    elements: Vec<f32>,
}

impl FileMatrix {
    fn random(format: Format, rows: usize, columns: usize, random: &mut Random) -> FileMatrix {
        let blocks = columns.div_ceil(BLOCK);
        let mut source = vec![];
        let mut scales = vec![];
        let mut elements = vec![];
        for _ in 0..rows {
            match format {
                Format::F32 => (0..columns).for_each(|_| {
                    let value = random.float();
                    source.extend(value.to_le_bytes());
                    elements.push(value);
                }),
                Format::F16 => (0..columns).for_each(|_| {
                    let bits = random.half();
                    source.extend(bits.to_le_bytes());
                    elements.push(f16_to_f32(bits));
                }),
                Format::Int8 | Format::Int4 => {
                    let row_scales: Vec<u16> = (0..blocks).map(|_| random.half()).collect();
                    let (zero, most) = if format == Format::Int8 { (128, 255) } else { (8, 15) };
                    let level = |k: usize, random: &mut Random| match k < columns {
                        true => random.bits() as u8 % most + 1,
                        false => zero,
                    };
                    let levels: Vec<u8> = (0..blocks * BLOCK).map(|k| level(k, random)).collect();
                    elements.extend((0..columns).map(|k| {
                        f16_to_f32(row_scales[k / BLOCK]) * (levels[k] as f32 - zero as f32)
                    }));
                    match format {
                        Format::Int8 => source.extend(&levels),
                        _ => source.extend(levels.chunks(2).map(|two| two[0] | two[1] << 4)),
                    }
                    scales.extend(row_scales);
                }
            }
        }
        FileMatrix { format, rows, columns, source, scales, elements }
    }

    fn packed(&self) -> Vec<u8> {
        let FileMatrix { format, rows, columns, .. } = *self;
        let mut packed = vec![0x5a; format.packed_bytes(rows, columns)];
        pack(format, &self.source, &self.scales, rows, columns, &mut packed);
        packed
    }
}

/// Packs rows of a file with their scales.
fn pack(
    format: Format,
    source: &[u8],
    scales: &[u16],
    rows: usize,
    columns: usize,
    packed: &mut [u8],
) {
    matrix::pack(format, source, rows, columns, packed);
    if format.is_quantized() {
        let scales: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        matrix::pack_scales(format, &scales, rows, columns, packed);
    }
}

#[test]
fn packing_keeps_every_element_at_its_place() {
    let mut random = Random(1);
    for format in FORMATS {
        for (rows, columns) in SIZES {
            let file = FileMatrix::random(format, rows, columns, &mut random);
            let packed = file.packed();
            let matrix = Matrix::new(format, rows, columns, &packed);
            for row in 0..rows {
                for column in 0..columns {
                    let want = file.elements[row * columns + column];
                    let got = element(&matrix, row, column);
                    assert_eq!(got, want, "{format:?} [{rows}, {columns}] at {row}, {column}");
                }
            }
        }
    }
}

#[test]
fn packing_pieces_of_whole_groups_gives_the_bytes_of_the_whole() {
    let mut random = Random(2);
    for format in FORMATS {
        let (rows, columns) = (27, 70);
        let file = FileMatrix::random(format, rows, columns, &mut random);
        let whole = file.packed();
        let (row_bytes, row_scales) = (file.source.len() / rows, file.scales.len() / rows);
        let mut pieces = vec![];
        for begin in (0..rows).step_by(2 * GROUP) {
            let end = rows.min(begin + 2 * GROUP);
            let mut piece = vec![0; format.packed_bytes(end - begin, columns)];
            let source = &file.source[begin * row_bytes..end * row_bytes];
            let scales = &file.scales[begin * row_scales..end * row_scales];
            pack(format, source, scales, end - begin, columns, &mut piece);
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole, "{format:?}");
    }
}

#[test]
fn transposed_packing_swaps_rows_and_columns() {
    let mut random = Random(3);
    for format in [Format::F32, Format::F16] {
        let (rows, columns) = (13, 5);
        let file = FileMatrix::random(format, columns, rows, &mut random);
        let mut packed = vec![0; format.packed_bytes(rows, columns)];
        pack_transposed(format, &file.source, rows, columns, &mut packed);
        let matrix = Matrix::new(format, rows, columns, &packed);
        for row in 0..rows {
            for column in 0..columns {
                let want = file.elements[column * rows + row];
                assert_eq!(element(&matrix, row, column), want, "{format:?} at {row}, {column}");
            }
        }
    }
}

/// Multiplies `x` [tokens, columns], quantizing it where the format wants that.
fn multiply(matrix: &Matrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; tokens * matrix.rows];
    let mut y = StridedMut { values: Shared::new(&mut values), stride: matrix.rows };
    if matrix.format.is_quantized() {
        multiply_quantized(matrix, &blocks_of(x, matrix.columns), tokens, &mut y);
    } else {
        multiply_float(matrix, Strided { values: x, stride: matrix.columns }, tokens, &mut y);
    }
    values
}

fn blocks_of(x: &[f32], columns: usize) -> Vec<QuantizedBlock> {
    let empty = QuantizedBlock { scale: f32::NAN, correction: [0; 2], levels: [0; BLOCK] };
    let mut blocks = vec![empty; x.len() / columns * columns.div_ceil(BLOCK)];
    quantize(x, columns, &mut blocks);
    blocks
}

/// What the kernel of a quantized matrix is given: activations that int8 can hold.
fn representable(x: &[f32], columns: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let blocks = blocks_of(row, columns);
        let value = |column: usize| {
            let block = &blocks[column / BLOCK];
            block.scale * block.levels[column % BLOCK] as f32
        };
        (0..columns).map(value).collect::<Vec<f32>>()
    };
    x.chunks_exact(columns).flat_map(row).collect()
}

#[test]
fn products_agree_with_f64_sums_over_the_elements() {
    let mut random = Random(4);
    for format in FORMATS {
        for (rows, columns) in SIZES {
            for tokens in [1, 2, 3, 4, 5, 9, 14] {
                let file = FileMatrix::random(format, rows, columns, &mut random);
                let packed = file.packed();
                let matrix = Matrix::new(format, rows, columns, &packed);
                let mut x = random.floats(tokens * columns);
                if format.is_quantized() {
                    x = representable(&x, columns);
                }
                let want = reference(&matrix, &x, tokens);
                for (got, want) in multiply(&matrix, &x, tokens).iter().zip(want) {
                    // Rounding of a sum of `columns` products of numbers around 1.
                    let bound = 1e-6 * (columns as f64).max(4.0);
                    assert!(
                        (*got as f64 - want).abs() <= bound,
                        "{format:?} [{rows}, {columns}] x {tokens}: {got} {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_token_gets_the_same_bits_alone_and_in_any_batch() {
    let mut random = Random(5);
    for format in FORMATS {
        let (rows, columns, tokens) = (45, 71, 15);
        let file = FileMatrix::random(format, rows, columns, &mut random);
        let packed = file.packed();
        let matrix = Matrix::new(format, rows, columns, &packed);
        let x = random.floats(tokens * columns);
        let together = multiply(&matrix, &x, tokens);
        for token in 0..tokens {
            for batch in 1..=tokens - token {
                let part = &x[token * columns..(token + batch) * columns];
                let alone = multiply(&matrix, part, batch);
                assert_eq!(alone[..], together[token * rows..(token + batch) * rows], "{format:?}");
            }
        }
    }
}

#[test]
fn many_tokens_and_columns_give_the_bits_of_one_token() {
    let mut random = Random(15);
    for format in [Format::Int8, Format::Int4] {
        let (rows, columns, tokens) = (13, 2100, 135);
        let file = FileMatrix::random(format, rows, columns, &mut random);
        let packed = file.packed();
        let matrix = Matrix::new(format, rows, columns, &packed);
        let x = random.floats(tokens * columns);
        let together = multiply(&matrix, &x, tokens);
        for (x, y) in x.chunks_exact(columns).zip(together.chunks_exact(rows)) {
            assert_eq!(multiply(&matrix, x, 1), y, "{format:?}");
        }
    }
}

#[test]
fn extreme_levels_do_not_overflow() {
    for (format, level) in
        [(Format::Int8, 0u8), (Format::Int8, 255), (Format::Int4, 0), (Format::Int4, 255)]
    {
        let columns = 64;
        let source = vec![level; GROUP * format.file_row_bytes(columns)];
        let scales = vec![0x3c00; GROUP * 2]; // 1.0
        let mut packed = vec![0; format.packed_bytes(GROUP, columns)];
        pack(format, &source, &scales, GROUP, columns, &mut packed);
        let matrix = Matrix::new(format, GROUP, columns, &packed);
        for sign in [127.0, -127.0] {
            let x = vec![sign; columns];
            let want = reference(&matrix, &x, 1);
            let got: Vec<f64> = multiply(&matrix, &x, 1).iter().map(|y| *y as f64).collect();
            assert_eq!(got, want, "{format:?} {level} x {sign}");
        }
    }
}

#[test]
fn quantizing_rounds_as_the_reference_does_and_shows_what_is_not_finite() {
    let mut random = Random(6);
    for _ in 0..200 {
        let values: [f32; BLOCK] = std::array::from_fn(|_| random.float() * 3.0);
        let got = blocks_of(&values, BLOCK)[0];
        let want = quantize::reference(&values);
        assert_eq!(
            (got.scale, got.correction, got.levels),
            (want.scale, want.correction, want.levels)
        );
    }
    let zero = blocks_of(&[0.0; 40], 40);
    assert!(zero.iter().all(|block| block.scale == 0.0 && block.levels == [0; BLOCK]));
    // 127 / magnitude would be infinite: no level may come out of infinity times zero.
    let mut tiny = [0.0; BLOCK];
    tiny[3] = 1e-38;
    assert_eq!(blocks_of(&tiny, BLOCK)[0].levels, [0; BLOCK]);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = [1.0; BLOCK];
        values[17] = wrong;
        assert!(!blocks_of(&values, BLOCK)[0].scale.is_finite());
    }
}

#[test]
fn rms_norm_agrees_with_its_reference_and_does_not_depend_on_the_batch() {
    let mut random = Random(7);
    for width in [1, 3, 4, 7, 192, 1001] {
        let (x, weight) = (random.floats(3 * width), random.floats(width));
        let mut together = vec![f32::NAN; 3 * width];
        rms_norm(&x, &weight, 1e-6, &mut together);
        for (row, got) in x.chunks_exact(width).zip(together.chunks_exact(width)) {
            for (got, want) in got.iter().zip(rms_norm::reference(row, &weight, 1e-6)) {
                assert!((*got as f64 - want).abs() <= 3e-6, "{width}: {got} {want}");
            }
            let mut alone = vec![f32::NAN; width];
            rms_norm(row, &weight, 1e-6, &mut alone);
            assert_eq!(alone, got);
        }
    }
}

fn slices_of(rows: &[Vec<f32>]) -> Vec<&[f32]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// A row of a cache; behind the width must be zeros, and nothing behind its last vector.
fn read_row(format: CacheFormat, bytes: &[u8], width: usize) -> Vec<f32> {
    let mut row = vec![7.0; width.next_multiple_of(4) + 1];
    format.widen(bytes, width, &mut row);
    assert_eq!(row.pop(), Some(7.0));
    assert!(row[width..].iter().all(|rest| *rest == 0.0));
    row.truncate(width);
    row
}

/// A cache [blocks, P, heads, width] full of poison but for the first `context` positions of a table.
fn cache_with_rows(
    format: CacheFormat,
    (heads, width): (usize, usize),
    table: &[i32],
    (block_size, context): (usize, usize),
    random: &mut Random,
) -> (Vec<u8>, Vec<Vec<f32>>) {
    let row_bytes = format.row_bytes(width);
    let mut bytes = vec![0xff; table.len() * block_size * heads * row_bytes];
    let mut rows = vec![];
    for position in 0..context {
        let slot = table[position / block_size] as usize * block_size + position % block_size;
        for head in 0..heads {
            let into = &mut bytes[(slot * heads + head) * row_bytes..][..row_bytes];
            format.write(&random.floats(width), into);
            rows.push(read_row(format, into, width));
        }
    }
    (bytes, rows)
}

fn cache<'a>(
    bytes: &OfAll<'a, u8>,
    (format, heads): (CacheFormat, usize),
    width: usize,
) -> Cache<'a> {
    Cache { bytes: bytes.get(), format, heads, width }
}

/// Attends for the last `tokens` positions of one sequence.
#[allow(clippy::too_many_arguments)]
fn attend_on(
    on: On,
    heads: Heads,
    format: CacheFormat,
    keys: &mut [u8],
    values: Option<&mut [u8]>,
    table: &[i32],
    (block_size, context): (usize, usize),
    queries: &[f32],
    tokens: usize,
) -> Vec<f32> {
    let mut results = queries.to_vec();
    let mut memory = scratch_of(attention::scratch_bytes(&heads, tokens, context, on.threads()));
    let (queries, memory) = (OfAll::new(&mut results), OfAll::new(bytes_of(&mut memory)));
    let keys = OfAll::new(keys);
    let values = values.map(OfAll::new);
    let (slots, starts) = (vec![0; tokens], [0, tokens as i32]);
    on.run(|team| {
        let batch = StepBatch {
            slots: &slots,
            query_starts: &starts,
            context_lengths: &[context as i32],
            block_tables: table,
        };
        let layout = (format, heads.groups);
        let values = match &values {
            Some(bytes) => Values::Cache(cache(bytes, layout, heads.value_width)),
            None => Values::OfKeys,
        };
        let keys = cache(&keys, layout, heads.key_width);
        let scratch = &mut Scratch::new(memory.get());
        attend(team, heads, batch, 0..tokens, block_size, queries.get(), keys, values, scratch);
    });
    results
}

#[test]
fn attention_agrees_with_its_reference_over_scattered_blocks_and_on_any_number_of_threads() {
    let mut random = Random(8);
    for (groups, per_group, key_width, value_width, context, tokens) in [
        (1, 1, 1, 1, 1, 1),
        (1, 5, 7, 3, 6, 2),
        (2, 4, 8, 8, 17, 3),
        (3, 2, 10, 13, 40, 1),
        (1, 9, 80, 64, 100, 2),
        (1, 35, 20, 12, 1301, 3),
        (2, 1, 6, 6, 1025, 1),
    ] {
        for format in [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Int8] {
            for own_values in [true, key_width < value_width] {
                let heads = Heads { groups, per_group, key_width, value_width };
                let block_size = 4;
                let blocks = (context as usize).div_ceil(block_size) + 3;
                let table: Vec<i32> = (0..blocks as i32).rev().collect();
                let place = (block_size, context);
                let (mut keys, key_rows) =
                    cache_with_rows(format, (groups, key_width), &table, place, &mut random);
                let (mut values, value_rows) =
                    cache_with_rows(format, (groups, value_width), &table, place, &mut random);
                let stride = heads.query_stride();
                let mut queries = random.floats(tokens * heads.count() * stride);
                for query in queries.chunks_exact_mut(stride) {
                    query[key_width..].fill(0.0);
                }
                let mut attend = |on| {
                    let values = own_values.then_some(&mut values[..]);
                    let (keys, queries) = (&mut keys, &queries);
                    attend_on(on, heads, format, keys, values, &table, place, queries, tokens)
                };
                let results = attend(On::Team(1));
                for on in On::SEVERAL {
                    assert_eq!(attend(on), results, "{on:?}");
                }
                for (i, result) in results.chunks_exact(stride).enumerate() {
                    let (token, head) = (i / heads.count(), i % heads.count());
                    let visible = context - tokens + token + 1;
                    let rows = |rows: &[Vec<f32>], width: usize| -> Vec<Vec<f32>> {
                        let row = |s: usize| &rows[s * groups + head / per_group][..width];
                        (0..visible).map(|s| row(s).to_vec()).collect()
                    };
                    let keys = rows(&key_rows, key_width);
                    let values = match own_values {
                        true => rows(&value_rows, value_width),
                        false => rows(&key_rows, value_width),
                    };
                    let query = &queries[i * stride..i * stride + key_width];
                    let want = attention::reference(query, &slices_of(&keys), &slices_of(&values));
                    for (got, want) in result.iter().zip(want) {
                        assert!((*got as f64 - want).abs() < 2e-6, "{format:?}: {got} {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn both_forms_of_latent_attention_agree_with_the_formula_over_long_contexts() {
    let mut random = Random(12);
    for (heads, nope, rope, rank, value) in [(3, 6, 4, 20, 9), (2, 16, 8, 24, 13)] {
        let formats = [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Int8];
        for (cache_format, format) in
            formats.into_iter().zip([Format::F16, Format::F32, Format::F16])
        {
            let (block_size, scale, epsilon) = (4, 0.7, 1e-6);
            let shape = LatentShape {
                heads,
                nope,
                rope,
                rank,
                value,
                block_size,
                scale,
                epsilon,
                may_expand: true,
            };
            // New tokens and context: sequences of either form by turns, at the borders of blocks of 128.
            let sequences = [(290, 290), (1, 300), (131, 257), (7, 7), (1, 129), (128, 200)];
            let tokens: usize = sequences.iter().map(|(new, _)| new).sum();
            let expands =
                |(new, context)| expanded_attention::takes_fewer_operations(&shape, new, context);
            assert_eq!(sequences.map(expands), [true, false, true, true, false, true]);
            let (mut starts, mut slots, mut tables, mut past_rows) =
                (vec![0], vec![], vec![], vec![]);
            let (row_bytes, width) = (cache_format.row_bytes(rank + rope), rank + rope);
            let most_blocks = 300 / block_size;
            let mut bytes = vec![];
            for (i, (new, context)) in sequences.into_iter().enumerate() {
                let table: Vec<i32> = (0..most_blocks as i32).rev().collect();
                let place = (block_size, context - new);
                let (own, rows) =
                    cache_with_rows(cache_format, (1, width), &table, place, &mut random);
                let first = i * most_blocks;
                let slot = |position: usize| {
                    (first + table[position / block_size] as usize) * block_size
                        + position % block_size
                };
                slots.extend((context - new..context).map(|position| slot(position) as i32));
                starts.push(slots.len() as i32);
                tables.extend(table.iter().map(|block| block + first as i32));
                bytes.extend(own);
                past_rows.push(rows);
            }
            let kv_b: Vec<FileMatrix> = (0..heads)
                .map(|_| FileMatrix::random(format, nope + value, rank, &mut random))
                .collect();
            let mut packed = vec![0; latent_attention::kv_b_bytes(format, &shape)];
            let head_bytes = packed.len() / heads;
            for (file, packed) in kv_b.iter().zip(packed.chunks_exact_mut(head_bytes)) {
                latent_attention::pack_kv_b(format, &file.source, &shape, packed);
            }
            let query = random.floats(tokens * heads * (nope + rope));
            let latent = random.floats(tokens * width);
            let norm_weight = random.floats(rank);
            let (cos, sin) = (random.floats(tokens * rope / 2), random.floats(tokens * rope / 2));
            let contexts = sequences.map(|(_, context)| context as i32);
            let run = |on: On, may_expand: bool| {
                let shape = LatentShape { may_expand, ..shape };
                let mut y = vec![f32::NAN; tokens * heads * value];
                let mut cache_bytes = bytes.clone();
                let mut memory =
                    scratch_of(latent_attention::scratch_bytes(&shape, tokens, 300, on.threads()));
                {
                    let (y, memory, cache_bytes) = (
                        OfAll::new(&mut y),
                        OfAll::new(bytes_of(&mut memory)),
                        OfAll::new(&mut cache_bytes),
                    );
                    on.run(|team| {
                        let batch = StepBatch {
                            slots: &slots,
                            query_starts: &starts,
                            context_lengths: &contexts,
                            block_tables: &tables,
                        };
                        let tensors = LatentTensors {
                            query: &query,
                            latent: &latent,
                            norm_weight: &norm_weight,
                            kv_b: &packed,
                            format,
                            cos: &cos,
                            sin: &sin,
                            cache: cache(&cache_bytes, (cache_format, 1), width),
                            y: y.get(),
                        };
                        latent_attention::latent_attention(
                            team,
                            &shape,
                            batch,
                            tensors,
                            memory.get(),
                        );
                    });
                }
                (y, cache_bytes)
            };
            let (expanded, cache_bytes) = run(On::Team(1), true);
            for on in On::SEVERAL {
                assert_eq!(run(on, true), (expanded.clone(), cache_bytes.clone()), "{on:?}");
            }
            let (absorbed, _) = run(On::Team(2), false);
            let mut token = 0;
            for ((new, context), past_rows) in sequences.into_iter().zip(past_rows) {
                let row_of = |t: usize| &cache_bytes[slots[t] as usize * row_bytes..][..row_bytes];
                let new_rows =
                    (token..token + new).map(|t| read_row(cache_format, row_of(t), width));
                let rows: Vec<Vec<f32>> = past_rows.into_iter().chain(new_rows).collect();
                for position in context - new..context {
                    for (head, file) in kv_b.iter().enumerate() {
                        let query = &query[(token * heads + head) * (nope + rope)..][..nope + rope];
                        let mut rotated = vec![0.0; rope];
                        let angles = token * rope / 2..(token + 1) * rope / 2;
                        rotary::rotate(
                            &query[nope..],
                            &cos[angles.clone()],
                            &sin[angles],
                            rotary::Pairs::Interleaved,
                            &mut rotated,
                        );
                        let up = |row: &[f32], n: usize| -> f64 {
                            file.elements[n * rank..(n + 1) * rank]
                                .iter()
                                .zip(row)
                                .map(|(w, x)| *w as f64 * *x as f64)
                                .sum()
                        };
                        let score = |row: &Vec<f32>| -> f64 {
                            let own: f64 = (0..nope).map(|n| query[n] as f64 * up(row, n)).sum();
                            let turned: f64 = rotated
                                .iter()
                                .zip(&row[rank..])
                                .map(|(q, k)| *q as f64 * *k as f64)
                                .sum();
                            (own + turned) * scale as f64
                        };
                        // Every seventh token in full: the formula takes its time.
                        if token % 7 > 0 && position + 1 < context {
                            continue;
                        }
                        let seen = &rows[..position + 1];
                        let scores: Vec<f64> = seen.iter().map(score).collect();
                        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        let weights: Vec<f64> =
                            scores.iter().map(|score| (score - largest).exp()).collect();
                        let total: f64 = weights.iter().sum();
                        for v in 0..value {
                            let want = weights
                                .iter()
                                .zip(seen)
                                .map(|(w, row)| w / total * up(row, nope + v))
                                .sum::<f64>();
                            let at = (token * heads + head) * value + v;
                            for got in [expanded[at], absorbed[at]] {
                                assert!(
                                    (got as f64 - want).abs() < 1e-5,
                                    "{cache_format:?}, token {token}: {got} {want}"
                                );
                            }
                        }
                    }
                    token += 1;
                }
            }
        }
    }
}

#[test]
fn caches_round_to_their_format() {
    let mut random = Random(12);
    for width in [1, 3, 31, 32, 33, 100] {
        let row = random.floats(width);
        for (format, step) in
            [(CacheFormat::F32, 0.0), (CacheFormat::Bf16, 1.0 / 256.0), (CacheFormat::Int8, 0.0)]
        {
            let mut bytes = vec![0; format.row_bytes(width)];
            format.write(&row, &mut bytes);
            let read = read_row(format, &bytes, width);
            for (block, values) in read.chunks(BLOCK).zip(row.chunks(BLOCK)) {
                let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
                for (got, want) in block.iter().zip(values) {
                    // Half a step of bf16's 8 bits, or of int8's 127 levels.
                    let bound = match format {
                        CacheFormat::Int8 => largest / 253.9,
                        _ => want.abs() * step,
                    };
                    assert!((got - want).abs() <= bound, "{format:?}: {got} {want}");
                }
            }
        }
    }
    let half_up = f32::from_bits(0x3f80_8000); // midway between two bf16: to the even one
    let mut bytes = [0; 4];
    CacheFormat::Bf16.write(&[half_up], &mut bytes);
    assert_eq!(bytes[..2], [0x80, 0x3f]);
    CacheFormat::Bf16.write(&[f32::from_bits(0x7f80_0001)], &mut bytes);
    assert!(f32::from_bits((bytes[1] as u32) << 24 | (bytes[0] as u32) << 16).is_nan());
}

#[test]
fn a_team_does_every_item_once_and_together() {
    use std::sync::atomic::{AtomicU32, Ordering};
    for on in [On::Team(1), On::Team(7)].into_iter().chain(On::SEVERAL) {
        let threads = on.threads();
        let counts: Vec<AtomicU32> = (0..1000).map(|_| AtomicU32::new(0)).collect();
        on.run(|team| {
            for round in 0..200 {
                let items = round * 5;
                team.share(items, 1 + round % 7, |run| {
                    for item in run {
                        counts[item].fetch_add(1, Ordering::Relaxed);
                    }
                });
                // Between two regions all have seen the whole first one.
                let done = |item: usize| (200 - 1 - item / 5).min(round - item / 5);
                for item in (0..items).step_by(37) {
                    assert!(counts[item].load(Ordering::Relaxed) as usize >= done(item));
                }
                team.once(|| assert!(team.threads() == threads && team.thread() < threads));
            }
        });
        for (item, count) in counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed) as usize, 199 - item / 5);
        }
    }
}

#[test]
fn experts_agree_with_their_reference_in_every_format() {
    let mut random = Random(9);
    for format in FORMATS {
        for (hidden, width, experts, groups, top_groups, k, first, held) in [
            (5, 3, 1, 1, 1, 1, 0, 1),
            (12, 8, 6, 1, 1, 2, 0, 6),
            (33, 10, 12, 4, 2, 5, 0, 12),
            (40, 33, 12, 3, 1, 4, 5, 4),
        ] {
            let normalize = k % 2 == 0;
            let (scaling, tokens) = (1.7, 11); // an expert's hits lie by fours and one by one
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
            let router = FileMatrix::random(Format::F32, experts, hidden, &mut random).packed();
            let mut stack = |rows: usize, columns: usize| -> Vec<u8> {
                (0..held)
                    .flat_map(|_| FileMatrix::random(format, rows, columns, &mut random).packed())
                    .collect()
            };
            let (gate_up, down) = (stack(2 * width, hidden), stack(hidden, width));
            let places = ExpertPlace::of_stacks(&gate_up, &down, held);
            let x = random.floats(tokens * hidden);
            let run = |on: On| {
                let mut y = vec![f32::NAN; x.len()];
                let (mut chosen, mut weights) = (vec![-1; tokens * k], vec![f32::NAN; tokens * k]);
                let mut memory = scratch_of(experts::scratch_bytes(&shape, tokens, on.threads()));
                {
                    let (y, chosen, weights, memory) = (
                        OfAll::new(&mut y),
                        OfAll::new(&mut chosen),
                        OfAll::new(&mut weights),
                        OfAll::new(bytes_of(&mut memory)),
                    );
                    on.run(|team| {
                        let tensors = ExpertsTensors {
                            x: &x,
                            router: &router,
                            places: &places,
                            supply: None,
                            y: y.get(),
                            chosen: chosen.get(),
                            weights: weights.get(),
                        };
                        sparse_experts(team, &shape, tensors, memory.get());
                    });
                }
                (y, chosen, weights)
            };
            let (y, chosen, weights) = run(On::Team(1));
            for on in On::SEVERAL {
                assert_eq!(run(on), (y.clone(), chosen.clone(), weights.clone()), "{on:?}");
            }
            for token in 0..tokens {
                let x = &x[token * hidden..(token + 1) * hidden];
                let (want_chosen, want_weights, want_y) =
                    experts::reference(&shape, x, &router, &gate_up, &down);
                let place = token * k..(token + 1) * k;
                let got: Vec<usize> = chosen[place.clone()].iter().map(|e| *e as usize).collect();
                assert_eq!(got, want_chosen);
                for (got, want) in weights[place].iter().zip(want_weights) {
                    assert!((*got as f64 - want).abs() < 2e-6);
                }
                let largest = want_y.iter().fold(1e-3, |most: f64, y| most.max(y.abs()));
                // Quantized activations carry about 1 / 254 of their largest element.
                let bound = if format.is_quantized() { 0.05 } else { 5e-6 } * largest;
                for (got, want) in y[token * hidden..].iter().zip(want_y) {
                    assert!((*got as f64 - want).abs() < bound, "{format:?}: {got} {want}");
                }
            }
        }
    }
}

#[test]
fn gather_widens_every_table_type() {
    let mut y = [0.0; 4];
    gather::gather(gather::Table::F32(&[1.0, 2.0, 3.0, 4.0]), 2, &[1, 0], &mut y);
    assert_eq!(y, [3.0, 4.0, 1.0, 2.0]);
    // 1.5, -2, the smallest subnormal, the largest number
    gather::gather(gather::Table::F16(&[0x3e00, 0xc000, 0x0001, 0x7bff]), 2, &[0, 1], &mut y);
    assert_eq!(y, [1.5, -2.0, 2f32.powi(-24), 65504.0]);
    gather::gather(gather::Table::Bf16(&[0x3fc0, 0xc000]), 1, &[0, 1, 1, 0], &mut y);
    assert_eq!(y, [1.5, -2.0, -2.0, 1.5]);
}

#[test]
fn elementwise_kernels_do_every_element() {
    for count in [1, 3, 4, 5, 9] {
        let a: Vec<f32> = (0..count).map(|i| i as f32 - 2.0).collect();
        let b: Vec<f32> = (0..count).map(|i| 0.5 * i as f32).collect();
        let mut y = vec![f32::NAN; count];
        elementwise::add(&a, &b, &mut y);
        assert!((0..count).all(|i| y[i] == a[i] + b[i]));
        elementwise::mul(&a, &b, &mut y);
        assert!((0..count).all(|i| y[i] == a[i] * b[i]));
        elementwise::sigmoid(&a, &mut y);
        let want = |x: f32| 1.0 / (1.0 + (-x as f64).exp());
        assert!((0..count).all(|i| (y[i] as f64 - want(a[i])).abs() < 1e-7));
    }
    let mut wide = [0.0; 10];
    elementwise::copy_columns(&[1.0, 2.0, 3.0, 4.0], 2, &mut wide, 5, 3);
    assert_eq!(wide, [0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0]);
}

#[test]
fn rotation_turns_pairs_by_their_angle() {
    let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]); // a quarter turn, no turn
    let x = [1.0, 2.0, 3.0, 4.0];
    let mut y = [0.0; 4];
    rotary::rotate(&x, &cos, &sin, rotary::Pairs::Interleaved, &mut y);
    assert_eq!(y, [-2.0, 1.0, 3.0, 4.0]);
    rotary::rotate(&x, &cos, &sin, rotary::Pairs::Halves, &mut y);
    assert_eq!(y, [-3.0, 2.0, 1.0, 4.0]);
}

#[test]
fn vectors_treat_numbers_that_are_none_and_zeros_as_webassembly_does() {
    use hybridseek_engine::simd::F32x4;
    let bits = |x: F32x4| x.to_array().map(f32::to_bits);
    let of = |lanes: [f32; 4]| unsafe { F32x4::load(lanes.as_ptr()) }; // SAFETY: four f32
    let (a, b) = (of([0.0, -0.0, 1.0, f32::NAN]), of([-0.0, 0.0, f32::NAN, 2.0]));
    for (a, b) in [(a, b), (b, a)] {
        assert_eq!(bits(a.max(b))[..2], [0.0f32.to_bits(); 2]);
        assert_eq!(bits(a.min(b))[..2], [(-0.0f32).to_bits(); 2]);
        assert!(a.max(b).to_array()[2..].iter().all(|x| x.is_nan()));
        assert!(a.min(b).to_array()[2..].iter().all(|x| x.is_nan()));
        assert_eq!(bits(a.if_less(b, of([1.0; 4]), of([2.0; 4]))), bits(of([2.0; 4])));
    }
    let wholes = of([3e9, -3e9, f32::NAN, -7.0]).to_i32().to_array();
    assert_eq!(wholes, [i32::MAX, i32::MIN, 0, -7]);
    let rounded = of([0.5, 1.5, -2.5, 8388609.0]).round().to_array();
    assert_eq!(rounded, [0.0, 2.0, -2.0, 8388609.0]);
}
