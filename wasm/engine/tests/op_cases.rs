//! The kernels against the op cases that all languages share (`tests/op-cases`, made by numpy): inputs with
//! poisoned slots and tables, results in float64.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hybridseek_engine::kernels::cache::{Cache, CacheFormat};
use hybridseek_engine::kernels::experts::{self, ExpertPlace, ExpertsShape, ExpertsTensors};
use hybridseek_engine::kernels::latent_attention::{self, LatentShape, LatentTensors};
use hybridseek_engine::kernels::matrix::{pack, pack_scales, Format};
use hybridseek_engine::kernels::paged_attention::{self, PagedShape, PagedTensors};
use hybridseek_engine::kernels::rotary::Pairs;
use hybridseek_engine::kernels::step_batch::StepBatch;
use hybridseek_engine::team::{Shared, Team};
use safetensors::SafeTensors;
use serde_json::Value;

/// A file of `tests/op-cases`.
struct Case {
    name: String,
    overload: String,
    attributes: Value,
    tensors: HashMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Case {
    fn all(op: &str) -> Vec<Case> {
        let folder = repository().join("tests/op-cases");
        let mut cases: Vec<Case> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
            .map(|path| Case::read(&path))
            .filter_map(|(of, case)| (of == op).then_some(case))
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(cases.len() >= 4, "only {} cases of {op}", cases.len());
        cases
    }

    fn read(path: &Path) -> (String, Case) {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors
            .iter()
            .map(|(name, view)| (name.to_string(), (view.shape().to_vec(), view.data().to_vec())));
        let case = Case {
            name: path.file_stem().unwrap().to_str().unwrap().to_string(),
            overload: metadata["overload"].clone(),
            attributes: serde_json::from_str(&metadata["attributes"]).unwrap(),
            tensors: tensors.collect(),
        };
        (metadata["op"].clone(), case)
    }

    fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name].0
    }

    fn bytes(&self, name: &str) -> &[u8] {
        &self.tensors[name].1
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        let chunks = self.bytes(name).chunks_exact(4);
        chunks.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn i32s(&self, name: &str) -> Vec<i32> {
        let chunks = self.bytes(name).chunks_exact(4);
        chunks.map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn f64s(&self, name: &str) -> Vec<f64> {
        let chunks = self.bytes(name).chunks_exact(8);
        chunks.map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn float(&self, attribute: &str) -> f32 {
        self.attributes[attribute].as_f64().unwrap() as f32
    }

    fn integer(&self, attribute: &str) -> usize {
        self.attributes[attribute].as_u64().unwrap() as usize
    }

    /// The format of a float tensor, by the size of its elements.
    fn float_format(&self, name: &str) -> Format {
        let (shape, bytes) = &self.tensors[name];
        match bytes.len() / shape.iter().product::<usize>() {
            2 => Format::F16,
            _ => Format::F32,
        }
    }

    /// Compares with the expected result; poison must be where it is expected and nowhere else.
    fn check(&self, op: &str, weights: &str, output: &str, got: &[f32]) {
        let want = self.f64s(output);
        assert_eq!(got.len(), want.len(), "{} {output}", self.name);
        let largest = want.iter().filter(|x| !x.is_nan()).fold(0f64, |most, x| most.max(x.abs()));
        let mut worst = 0f64;
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.is_nan(), want.is_nan(), "{} {output} at {i}: poison", self.name);
            if !got.is_nan() {
                worst = worst.max((*got as f64 - want).abs());
            }
        }
        let bound = tolerance(op, weights) * largest;
        println!("{} {output}: {:.1e} of {largest:.2}", self.name, worst / largest);
        assert!(worst <= bound, "{} {output}: error {worst:e}, allowed {bound:e}", self.name);
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tolerance(op: &str, weights: &str) -> f64 {
    let text = std::fs::read_to_string(repository().join("tests/tolerances.json")).unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    let wanted =
        |row: &&Value| row["op"] == op && row["weights"] == weights && row["by"] == "kernel";
    table["rows"].as_array().unwrap().iter().find(wanted).unwrap()["bound"].as_f64().unwrap()
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::F32 => "f32",
        Format::F16 => "f16",
        Format::Int8 => "int8",
        Format::Int4 => "int4",
    }
}

/// Owned inputs of a step.
struct Step {
    slots: Vec<i32>,
    query_starts: Vec<i32>,
    context_lengths: Vec<i32>,
    block_tables: Vec<i32>,
}

impl Step {
    fn of(case: &Case) -> Step {
        let input = |name: &str| case.i32s(&format!("input.{name}"));
        Step {
            slots: input("slots"),
            query_starts: input("query_starts"),
            context_lengths: input("context_lengths"),
            block_tables: input("block_tables"),
        }
    }

    fn batch(&self) -> StepBatch<'_> {
        StepBatch {
            slots: &self.slots,
            query_starts: &self.query_starts,
            context_lengths: &self.context_lengths,
            block_tables: &self.block_tables,
        }
    }
}

/// A cache of f32.
fn cache_of(values: &mut [f32], heads: usize, width: usize) -> Cache<'_> {
    let bytes = values.len() * 4;
    // SAFETY: any bytes are u8.
    let bytes = unsafe { Shared::new(values).cast(bytes) };
    Cache { bytes, format: CacheFormat::F32, heads, width }
}

/// Temporary memory aligned to 16 bytes, full of NaN, with guard bytes behind it.
struct Guarded {
    memory: Vec<u128>,
    bytes: usize,
}

impl Guarded {
    const GUARD: u8 = 0xa5;

    fn new(bytes: usize) -> Guarded {
        let mut guarded = Guarded { memory: vec![u128::MAX; bytes / 16 + 5], bytes };
        guarded.all()[bytes..].fill(Self::GUARD);
        guarded
    }

    fn all(&mut self) -> &mut [u8] {
        let bytes = self.memory.len() * 16;
        // SAFETY: any bytes are u8.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr() as *mut u8, bytes) }
    }

    fn use_it(&mut self) -> Shared<'_, u8> {
        let bytes = self.bytes;
        Shared::new(&mut self.all()[..bytes])
    }

    fn check(mut self) {
        let bytes = self.bytes;
        assert!(self.all()[bytes..].iter().all(|byte| *byte == Self::GUARD));
    }
}

#[test]
fn latent_attention_gives_the_expanded_formula_in_float64() {
    let forms = [false, true];
    for (case, may_expand) in
        Case::all("LatentAttention").iter().flat_map(|c| forms.map(|f| (c, f)))
    {
        let [heads, up, rank] = case.shape("input.kv_b").try_into().unwrap();
        let rope = case.shape("input.cos")[1] * 2;
        let tokens = case.shape("input.query")[0];
        let nope = case.shape("input.query")[1] / heads - rope;
        let shape = LatentShape {
            heads,
            nope,
            rope,
            rank,
            value: up - nope,
            block_size: case.shape("input.cache")[1],
            scale: case.float("scale"),
            epsilon: case.float("epsilon"),
            may_expand,
        };
        let format = case.float_format("input.kv_b");
        let mut kv_b = vec![0; latent_attention::kv_b_bytes(format, &shape)];
        let per_head = case.bytes("input.kv_b").len() / heads;
        let packed_per_head = kv_b.len() / heads;
        let heads_of_file = case.bytes("input.kv_b").chunks_exact(per_head);
        for (source, packed) in heads_of_file.zip(kv_b.chunks_exact_mut(packed_per_head)) {
            latent_attention::pack_kv_b(format, source, &shape, packed);
        }
        let step = Step::of(case);
        let mut cache = case.f32s("input.cache");
        let mut y = vec![f32::NAN; tokens * heads * shape.value];
        let longest = step.batch().longest_context();
        let mut scratch = Guarded::new(latent_attention::scratch_bytes(&shape, tokens, longest, 1));
        let tensors = LatentTensors {
            query: &case.f32s("input.query"),
            latent: &case.f32s("input.latent"),
            norm_weight: &case.f32s("input.norm_weight"),
            kv_b: &kv_b,
            format,
            cos: &case.f32s("input.cos"),
            sin: &case.f32s("input.sin"),
            cache: cache_of(&mut cache, 1, rank + rope),
            y: Shared::new(&mut y),
        };
        let scratch_memory = scratch.use_it();
        latent_attention::latent_attention(
            &Team::alone(),
            &shape,
            step.batch(),
            tensors,
            scratch_memory,
        );
        scratch.check();
        case.check("LatentAttention", format_name(format), "output.y", &y);
        case.check("LatentAttention", format_name(format), "output.cache_out", &cache);
    }
}

#[test]
fn paged_attention_gives_the_formula_in_float64() {
    for case in Case::all("PagedAttention") {
        let [_, block_size, groups, key_width] = case.shape("input.key_cache").try_into().unwrap();
        let value_width = case.shape("input.value_cache")[3];
        let [tokens, columns] = case.shape("input.query").try_into().unwrap();
        let heads = columns / key_width;
        let pairs = match case.integer("rotary_interleaved") {
            0 => Pairs::Halves,
            _ => Pairs::Interleaved,
        };
        let scale = case.float("scale");
        let shape = PagedShape { heads, groups, key_width, value_width, block_size, scale, pairs };
        let step = Step::of(&case);
        let mut key_cache = case.f32s("input.key_cache");
        let mut value_cache = case.f32s("input.value_cache");
        let mut y = vec![f32::NAN; tokens * heads * value_width];
        let longest = step.batch().longest_context();
        let mut scratch = Guarded::new(paged_attention::scratch_bytes(&shape, tokens, longest, 1));
        let tensors = PagedTensors {
            query: &case.f32s("input.query"),
            key: &case.f32s("input.key"),
            value: &case.f32s("input.value"),
            cos: &case.f32s("input.cos"),
            sin: &case.f32s("input.sin"),
            key_cache: cache_of(&mut key_cache, groups, key_width),
            value_cache: cache_of(&mut value_cache, groups, value_width),
            y: Shared::new(&mut y),
        };
        let scratch_memory = scratch.use_it();
        paged_attention::paged_attention(
            &Team::alone(),
            &shape,
            step.batch(),
            tensors,
            scratch_memory,
        );
        scratch.check();
        case.check("PagedAttention", "f32", "output.y", &y);
        case.check("PagedAttention", "f32", "output.key_cache_out", &key_cache);
        case.check("PagedAttention", "f32", "output.value_cache_out", &value_cache);
    }
}

#[test]
fn sparse_experts_choose_and_weigh_as_the_formula_in_float64() {
    for case in Case::all("SparseExperts") {
        let [experts, hidden] = case.shape("input.router").try_into().unwrap();
        let tokens = case.shape("input.x")[0];
        let held = case.shape("input.gate_up")[0];
        let width = case.shape("input.gate_up")[1] / 2;
        let format = match case.overload.as_str() {
            "int8" => Format::Int8,
            "int4" => Format::Int4,
            _ => case.float_format("input.gate_up"),
        };
        let shape = ExpertsShape {
            hidden,
            width,
            experts,
            first: case.integer("first_expert"),
            held,
            k: case.integer("k"),
            groups: case.integer("groups"),
            top_groups: case.integer("top_groups"),
            normalize: case.integer("normalize") != 0,
            scaling: case.float("scaling"),
            format,
        };
        let mut router = vec![0; Format::F32.packed_bytes(experts, hidden)];
        pack(Format::F32, case.bytes("input.router"), experts, hidden, &mut router);
        let gate_up = pack_stack(&case, "input.gate_up", format, held, 2 * width, hidden);
        let down = pack_stack(&case, "input.down", format, held, hidden, width);
        let mut y = vec![f32::NAN; tokens * hidden];
        let mut chosen = vec![-1; tokens * shape.k];
        let mut weights = vec![f32::NAN; tokens * shape.k];
        let mut scratch = Guarded::new(experts::scratch_bytes(&shape, tokens, 1));
        let tensors = ExpertsTensors {
            x: &case.f32s("input.x"),
            router: &router,
            places: &ExpertPlace::of_stacks(&gate_up, &down, held),
            supply: None,
            y: Shared::new(&mut y),
            chosen: Shared::new(&mut chosen),
            weights: Shared::new(&mut weights),
        };
        experts::sparse_experts(&Team::alone(), &shape, tensors, scratch.use_it());
        scratch.check();
        assert_eq!(chosen, case.i32s("output.experts"), "{}", case.name);
        case.check("SparseExperts", "f32", "output.weights", &weights);
        case.check("SparseExperts", format_name(format), "output.y", &y);
    }
}

fn pack_stack(
    case: &Case,
    name: &str,
    format: Format,
    count: usize,
    rows: usize,
    columns: usize,
) -> Vec<u8> {
    let scales = match format.is_quantized() {
        true => case.bytes(&format!("{name}_scales")),
        false => &[],
    };
    let source = case.bytes(name);
    let mut packed = vec![0; count * format.packed_bytes(rows, columns)];
    let (source_size, scale_size) = (source.len() / count, scales.len() / count);
    for (i, into) in packed.chunks_exact_mut(format.packed_bytes(rows, columns)).enumerate() {
        let source = &source[i * source_size..(i + 1) * source_size];
        let scales = &scales[i * scale_size..(i + 1) * scale_size];
        pack(format, source, rows, columns, into);
        if format.is_quantized() {
            pack_scales(format, scales, rows, columns, into);
        }
    }
    packed
}
