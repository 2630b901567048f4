import { blockFormat } from "./blocks.ts";
import type { MatrixFormat } from "./matrix_format.ts";

/**
 * 4 bits, blocks of 32, levels -8 ... 7 stored around 8. The element of largest magnitude maps to -8,
 * so that the whole range is used and a scale may be negative (llama.cpp's Q4_0 does the same).
 */
export const int4: MatrixFormat = blockFormat({
  name: "int4",
  zeroPoint: 8,
  largest: 15,
  scaleOf: (extreme) => extreme / -8,
  levelsPerByte: 2,
});
