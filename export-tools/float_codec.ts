/**
 * 16-bit floats: checkpoint bytes to f32, and f32 to IEEE half precision with rounding to nearest even.
 * @module
 */

/** Float types of safetensors that are read. */
export type FloatType = "F32" | "F16" | "BF16";

/** Largest finite half-precision number. */
export const F16_MAX = 65504;
/** Smallest normal half-precision number. */
export const F16_MIN_NORMAL: number = 2 ** -14;

/** Whether a type of safetensors is read as floats. @param type Its name. @returns True if so. */
export function isFloatType(type: string): type is FloatType {
  return type === "F32" || type === "F16" || type === "BF16";
}

/**
 * Decodes little-endian floats.
 *
 * @param type Their type.
 * @param bytes Their bytes; begins at a multiple of 4 of its buffer.
 * @param into As many elements as `bytes` holds.
 */
export function decodeFloats(type: FloatType, bytes: Uint8Array, into: Float32Array): void {
  if (type === "F32") {
    new Uint8Array(into.buffer, into.byteOffset, into.byteLength).set(bytes);
    return;
  }
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, into.length);
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length);
  if (type === "BF16") {
    for (let i = 0; i < into.length; i++) bits[i] = halves[i]! << 16;
  } else {
    for (let i = 0; i < into.length; i++) into[i] = f16ToNumber(halves[i]!);
  }
}

/** The number that half-precision bits stand for. @param bits 16 bits. @returns The number. */
export function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 0x3ff;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/**
 * Half-precision bits of a number, rounded to nearest even; numbers above the range become infinite.
 *
 * @param value Any number.
 * @returns 16 bits.
 */
export function numberToF16(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds above 65504
  if (magnitude >= 0x38800000) { // normal: 13 mantissa bits are rounded away, the bias falls by 112
    const rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return sign | ((rounded - 0x38000000) >>> 13);
  }
  // Subnormal: a multiple of 2^-24; adding 0.5 leaves the rounded multiple in the low mantissa bits.
  scratch[0] = Math.abs(scratch[0]!) + 0.5;
  return sign | (scratchBits[0]! - 0x3f000000);
}
