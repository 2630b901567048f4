import { numberToF16 } from "../float_codec.ts";
import type { MatrixFormat } from "./matrix_format.ts";

/** IEEE half precision, rounded to nearest even. */
export const f16: MatrixFormat = {
  name: "f16",
  tensors: (columns) => [{ suffix: "", type: "f16", columns }],
  encode(rows, _columns, [into]) {
    const halves = new Uint16Array(into!.buffer, into!.byteOffset, rows.length);
    for (let i = 0; i < rows.length; i++) {
      const bits = numberToF16(rows[i]!);
      if ((bits & 0x7c00) === 0x7c00) {
        throw new RangeError(`${rows[i]} does not fit half precision, whose largest is 65504`);
      }
      halves[i] = bits;
    }
  },
};
