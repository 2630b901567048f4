/**
 * Tensors of small safetensors files (goldens, op cases) as typed arrays.
 * @module
 */

/** Elements of a tensor. */
export type Values = Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array;

/** A tensor: half-precision numbers are their bits. */
export interface Tensor {
  /** In the format's spelling: F32, F64, F16, I32, U8. */
  type: string;
  /** Sizes of the axes. */
  dims: number[];
  /** Elements. */
  values: Values;
}

const ARRAYS: Record<string, new (buffer: ArrayBuffer) => Values> = {
  F32: Float32Array,
  F64: Float64Array,
  F16: Uint16Array,
  I32: Int32Array,
  U8: Uint8Array,
};

/** Reads a whole file. */
export function readSafetensors(
  url: URL,
): { tensors: Map<string, Tensor>; metadata: Record<string, string> } {
  const bytes = Deno.readFileSync(url);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = new Map<string, Tensor>();
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, data_offsets: [begin, end] } = entry as {
      dtype: string;
      shape: number[];
      data_offsets: [number, number];
    };
    const buffer = bytes.slice(8 + length + begin, 8 + length + end).buffer;
    tensors.set(name, { type: dtype, dims: shape, values: new ARRAYS[dtype]!(buffer) });
  }
  return { tensors, metadata };
}
