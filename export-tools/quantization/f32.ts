import type { MatrixFormat } from "./matrix_format.ts";

/** Single precision: the checkpoint's numbers, exactly. */
export const f32: MatrixFormat = {
  name: "f32",
  tensors: (columns) => [{ suffix: "", type: "f32", columns }],
  encode(rows, _columns, [into]) {
    into!.set(new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength));
  },
};
