/**
 * Memory of an export, of a checkpoint larger than the memory that is allowed, and of loading the package.
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

/** Runs a program apart; its `onProgress` notes how much memory was taken. @returns The most, bytes. */
async function peakOf(imports: string, work: string, ...args: string[]): Promise<number> {
  const path = temporaryPath("program.ts");
  const root = new URL("../../", import.meta.url);
  await Deno.writeTextFile(
    path,
    `
    import { ${imports} } from "${root}${imports === "LLM" ? "mod.ts" : "export-tools/mod.ts"}";
    const before = Deno.memoryUsage().rss;
    let peak = before;
    const onProgress = () => peak = Math.max(peak, Deno.memoryUsage().rss);
    const [from, to] = Deno.args;
    ${work}
    console.log(peak - before);
    Deno.exit();`,
  );
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--config", `${root.pathname}deno.json`, path, ...args],
    stderr: "inherit",
  });
  const { success, stdout } = await command.output();
  assert(success);
  return Number(new TextDecoder().decode(stdout));
}

Deno.test("exporting a 1.2 GB checkpoint takes less than 200 MB of memory, loading little more than the weights", async () => {
  const { folder, bytes } = await sparseCheckpoint();
  assert(bytes > 1.1e9, `${bytes} bytes`);
  const output = temporaryPath("package");
  const exporting = await peakOf(
    "exportCheckpoint",
    `await exportCheckpoint(from, to, { weights: "int4", onProgress });`,
    ...[folder, output],
  );
  console.log(`${mb(exporting)} MB for a checkpoint of ${mb(bytes)} MB`);
  assert(exporting < 200e6, `${exporting} bytes`);

  let weights = 0;
  for await (const { name } of Deno.readDir(output)) {
    if (name.endsWith(".data")) weights += (await Deno.stat(`${output}/${name}`)).size;
  }
  const loading = await peakOf("LLM", "await LLM.open(from, { onProgress });", output);
  await Deno.remove(output, { recursive: true });
  console.log(`${mb(loading)} MB for weights of ${mb(weights)} MB`);
  // Six chunks of 8 MiB, half of them with hashes to come, and what the garbage collector leaves for later.
  assert(loading < weights + 160e6, `${loading} bytes`);
});

function mb(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}
