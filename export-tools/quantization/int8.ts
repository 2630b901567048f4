import { blockFormat } from "./blocks.ts";
import type { MatrixFormat } from "./matrix_format.ts";

/** 8 bits, blocks of 32, levels -127 ... 127 stored around 128. */
export const int8: MatrixFormat = blockFormat({
  name: "int8",
  zeroPoint: 128,
  largest: 255,
  scaleOf: (extreme) => Math.abs(extreme) / 127,
  levelsPerByte: 1,
});
