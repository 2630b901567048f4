import type { MatrixFormat } from "./matrix_format.ts";

/** Single precision: the checkpoint's numbers, exactly, if they are numbers. */
export const f32: MatrixFormat = {
  name: "f32",
  tensors: (columns) => [{ suffix: "", type: "f32", columns }],
  encode(rows, _columns, [into]) {
    for (let i = 0; i < rows.length; i++) {
      if (!Number.isFinite(rows[i]!)) throw new RangeError(`${rows[i]} is no finite number`);
    }
    into!.set(new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength));
  },
};
