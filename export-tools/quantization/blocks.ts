import { F16_MIN_NORMAL, f16ToNumber, numberToF16 } from "../float_codec.ts";
import { BLOCK, type MatrixFormat } from "./matrix_format.ts";

/** A format of integer levels in blocks of {@linkcode BLOCK} along the row, one f16 scale each. */
interface BlockFormat {
  name: "int8" | "int4";
  /** The level that stands for 0. */
  zeroPoint: number;
  /** Largest level. */
  largest: number;
  /** The scale that maps the element of largest magnitude to the end of the range. */
  scaleOf(extreme: number): number;
  /** Levels per byte; with two the even element lies in the low nibble. */
  levelsPerByte: 1 | 2;
}

/**
 * Makes a block format. The bytes are those of `com.microsoft.MatMulNBits`: levels unsigned around a
 * zero point. Scales are half precision and never subnormal (kernels convert them by a shift, and
 * subnormal operands are slow on many CPUs): a block too small for that keeps 2^-14, which costs an
 * error of at most 2^-15.
 *
 * @param format What differs between the formats.
 * @returns The format.
 */
export function blockFormat(format: BlockFormat): MatrixFormat {
  const { name, zeroPoint, largest, scaleOf, levelsPerByte } = format;
  const levels = new Uint8Array(BLOCK);
  return {
    name,
    tensors(columns) {
      const blocks = Math.ceil(columns / BLOCK);
      return [
        { suffix: "", type: "u8", columns: blocks * BLOCK / levelsPerByte },
        { suffix: ".scales", type: "f16", columns: blocks },
      ];
    },
    encode(rows, columns, [packed, scaleBytes]) {
      const scales = new Uint16Array(scaleBytes!.buffer, scaleBytes!.byteOffset);
      let block = 0;
      for (let row = 0; row < rows.length; row += columns) {
        for (let begin = row; begin < row + columns; begin += BLOCK, block++) {
          const end = Math.min(begin + BLOCK, row + columns);
          const scale = roundScale(scaleOf(extremeOf(rows, begin, end)));
          scales[block] = numberToF16(scale);
          const inverse = scale === 0 ? 0 : 1 / scale;
          for (let i = begin; i < end; i++) {
            const level = rows[i]! * inverse + ROUND - ROUND + zeroPoint;
            levels[i - begin] = level < 0 ? 0 : level > largest ? largest : level;
          }
          levels.fill(zeroPoint, end - begin);
          if (levelsPerByte === 1) packed!.set(levels, block * BLOCK);
          else packNibbles(levels, packed!, block * BLOCK / 2);
        }
      }
    },
  };
}

/** Added to a small number and taken away again, it leaves the nearest whole number, ties to even. */
const ROUND = 1.5 * 2 ** 52;

/** The element of largest magnitude, with its sign; the first of several. */
function extremeOf(rows: Float32Array, begin: number, end: number): number {
  let extreme = 0;
  let magnitude = 0;
  let sum = 0;
  for (let i = begin; i < end; i++) {
    const value = rows[i]!;
    sum += value; // not finite where any element is not
    const absolute = value < 0 ? -value : value;
    if (absolute > magnitude) {
      extreme = value;
      magnitude = absolute;
    }
  }
  if (Number.isFinite(sum)) return extreme;
  const wrong = rows.subarray(begin, end).find((value) => !Number.isFinite(value));
  throw new RangeError(`${wrong} can not be quantized`);
}

function roundScale(scale: number): number {
  if (scale === 0) return 0;
  const magnitude = Math.max(f16ToNumber(numberToF16(Math.abs(scale))), F16_MIN_NORMAL);
  if (magnitude === Infinity) throw new RangeError(`scale ${scale} does not fit half precision`);
  return Math.sign(scale) * magnitude;
}

function packNibbles(levels: Uint8Array, into: Uint8Array, offset: number) {
  for (let i = 0; i < BLOCK / 2; i++) into[offset + i] = levels[2 * i]! | (levels[2 * i + 1]! << 4);
}
