/**
 * Memory of an export: a checkpoint larger than the memory that is allowed.
 */
import { strict as assert } from "node:assert";
import { temporaryPath } from "../packages.ts";

/** One layer of DeepSeek-V2-Lite with its 64 experts, and a small vocabulary. */
const config = {
  model_type: "deepseek_v2",
  num_hidden_layers: 1,
  hidden_size: 2048,
  num_attention_heads: 16,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  intermediate_size: 10944,
  moe_intermediate_size: 1408,
  n_routed_experts: 64,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  first_k_dense_replace: 0,
  vocab_size: 1024,
  max_position_embeddings: 64,
};

function shapes(): Record<string, number[]> {
  const [hidden, layer] = [config.hidden_size, "model.layers.0"];
  const mlp = (prefix: string, width: number) => ({
    [`${prefix}.gate_proj.weight`]: [width, hidden],
    [`${prefix}.up_proj.weight`]: [width, hidden],
    [`${prefix}.down_proj.weight`]: [hidden, width],
  });
  const experts = Array.from(
    { length: config.n_routed_experts },
    (_, expert) => mlp(`${layer}.mlp.experts.${expert}`, config.moe_intermediate_size),
  );
  return {
    "model.embed_tokens.weight": [config.vocab_size, hidden],
    "lm_head.weight": [config.vocab_size, hidden],
    "model.norm.weight": [hidden],
    [`${layer}.input_layernorm.weight`]: [hidden],
    [`${layer}.post_attention_layernorm.weight`]: [hidden],
    [`${layer}.self_attn.q_proj.weight`]: [16 * 192, hidden],
    [`${layer}.self_attn.kv_a_proj_with_mqa.weight`]: [576, hidden],
    [`${layer}.self_attn.kv_a_layernorm.weight`]: [512],
    [`${layer}.self_attn.kv_b_proj.weight`]: [16 * 256, 512],
    [`${layer}.self_attn.o_proj.weight`]: [hidden, 2048],
    [`${layer}.mlp.gate.weight`]: [config.n_routed_experts, hidden],
    ...mlp(`${layer}.mlp.shared_experts`, 2 * config.moe_intermediate_size),
    ...Object.assign({}, ...experts),
  };
}

/** Writes a checkpoint of zeros, which takes no place on the disk. */
async function sparseCheckpoint(): Promise<{ folder: string; bytes: number }> {
  const folder = temporaryPath("sparse");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, shape] of Object.entries(shapes())) {
    const end = offset + shape.reduce((product, size) => product * size, 2);
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(json.length), true);
  const path = `${folder}/model.safetensors`;
  await Deno.writeFile(path, new Uint8Array([...prefix, ...json]));
  await Deno.truncate(path, 8 + json.length + offset);
  return { folder, bytes: offset };
}

const PROGRAM = `
  import { exportCheckpoint } from ${
  JSON.stringify(new URL("../../export-tools/mod.ts", import.meta.url))
};
  const before = Deno.memoryUsage().rss;
  let peak = before;
  const [checkpoint, folder] = Deno.args;
  const onProgress = () => peak = Math.max(peak, Deno.memoryUsage().rss);
  await exportCheckpoint(checkpoint, folder, { weights: "int4", onProgress });
  console.log(peak - before);`;

Deno.test("exporting a 1.2 GB checkpoint takes less than 200 MB of memory", async () => {
  const { folder, bytes } = await sparseCheckpoint();
  assert(bytes > 1.1e9, `${bytes} bytes`);
  const output = temporaryPath("package");
  const program = temporaryPath("export.ts");
  await Deno.writeTextFile(program, PROGRAM);
  const configuration = new URL("../../deno.json", import.meta.url).pathname;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--config", configuration, program, folder, output],
    stderr: "inherit",
  });
  const { success, stdout } = await command.output();
  assert(success);
  const used = Number(new TextDecoder().decode(stdout));
  await Deno.remove(output, { recursive: true });
  console.log(`${(used / 1e6).toFixed(0)} MB for a checkpoint of ${(bytes / 1e6).toFixed(0)} MB`);
  assert(used < 200e6, `${used} bytes`);
});
