/**
 * Small checkpoints of one's own making: the shape of a model with random weights.
 * @module
 */
import { temporaryPath } from "../packages.ts";

/** A tensor to be written, f32. */
export interface NewTensor {
  /** Sizes of the axes. */
  shape: number[];
  /** Elements. */
  values: Float32Array;
}

/** config.json of a tiny dense model: 1 layer, hidden 8, 2 heads, vocabulary 16. */
export const tinyConfig: Record<string, unknown> = {
  model_type: "llama",
  hidden_size: 8,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  intermediate_size: 12,
  vocab_size: 16,
  max_position_embeddings: 32,
};

/** Its tensors. */
export function tinyTensors(): Map<string, NewTensor> {
  const layer = "model.layers.0";
  const shapes: Record<string, number[]> = {
    "model.embed_tokens.weight": [16, 8],
    [`${layer}.input_layernorm.weight`]: [8],
    [`${layer}.self_attn.q_proj.weight`]: [8, 8],
    [`${layer}.self_attn.k_proj.weight`]: [4, 8],
    [`${layer}.self_attn.v_proj.weight`]: [4, 8],
    [`${layer}.self_attn.o_proj.weight`]: [8, 8],
    [`${layer}.post_attention_layernorm.weight`]: [8],
    [`${layer}.mlp.gate_proj.weight`]: [12, 8],
    [`${layer}.mlp.up_proj.weight`]: [12, 8],
    [`${layer}.mlp.down_proj.weight`]: [8, 12],
    "model.norm.weight": [8],
    "lm_head.weight": [16, 8],
  };
  let state = 1;
  const random = () => (state = state * 48271 % 2147483647) / 2147483647 - 0.5;
  return new Map(
    Object.entries(shapes).map(([name, shape]) => {
      const count = shape.reduce((product, size) => product * size, 1);
      return [name, { shape, values: Float32Array.from({ length: count }, random) }];
    }),
  );
}

/** Bytes of a safetensors file. */
export function safetensorsOf(tensors: Iterable<[string, NewTensor]>): Uint8Array {
  const header: Record<string, unknown> = {};
  const pieces: Uint8Array[] = [];
  let offset = 0;
  for (const [name, { shape, values }] of tensors) {
    const end = offset + values.byteLength;
    header[name] = { dtype: "F32", shape, data_offsets: [offset, end] };
    pieces.push(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    offset = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + offset);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  let position = 8 + json.length;
  for (const piece of pieces) {
    bytes.set(piece, position);
    position += piece.length;
  }
  return bytes;
}

/** Writes a checkpoint folder of given files; objects become JSON. */
export async function checkpointOf(files: Record<string, Uint8Array | object>): Promise<string> {
  const folder = temporaryPath("checkpoint");
  await Deno.mkdir(folder);
  for (const [name, content] of Object.entries(files)) {
    const bytes = content instanceof Uint8Array
      ? content
      : new TextEncoder().encode(JSON.stringify(content));
    await Deno.writeFile(`${folder}/${name}`, bytes);
  }
  return folder;
}
