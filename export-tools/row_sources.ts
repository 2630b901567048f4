/**
 * Rows put together from other rows, read piece by piece: nothing here holds a whole matrix.
 * @module
 */
import type { Rows } from "./checkpoint.ts";

/**
 * One matrix above the other.
 *
 * @param parts Matrices of equal size.
 * @returns Their rows in order.
 */
export function stackRows(parts: Rows[]): Rows {
  const { rows, columns } = parts[0]!;
  return {
    rows: rows * parts.length,
    columns,
    async read(begin, end) {
      const first = Math.floor(begin / rows);
      if (end <= (first + 1) * rows) {
        return await parts[first]!.read(begin - first * rows, end - first * rows);
      }
      const joined = new Float32Array((end - begin) * columns);
      for (let row = begin; row < end;) {
        const part = Math.floor(row / rows);
        const stop = Math.min(end, (part + 1) * rows);
        const piece = await parts[part]!.read(row - part * rows, stop - part * rows);
        joined.set(piece, (row - begin) * columns);
        row = stop;
      }
      return joined;
    },
  };
}

/**
 * Rows of two matrices in turn: gate 0, up 0, gate 1, up 1, ...
 *
 * @param gate [F, D].
 * @param up [F, D].
 * @returns [2F, D].
 */
export function interleaveRows(gate: Rows, up: Rows): Rows {
  const { columns } = gate;
  return {
    rows: gate.rows * 2,
    columns,
    async read(begin, end) {
      const result = new Float32Array((end - begin) * columns);
      for (const [parity, source] of [gate, up].entries()) {
        const first = Math.ceil((begin - parity) / 2);
        const last = Math.ceil((end - parity) / 2);
        const piece = await source.read(first, last);
        for (let row = first; row < last; row++) {
          const values = piece.subarray((row - first) * columns, (row - first + 1) * columns);
          result.set(values, (2 * row + parity - begin) * columns);
        }
      }
      return result;
    },
  };
}

/**
 * Some of a matrix's rows.
 *
 * @param source The matrix.
 * @param begin First row.
 * @param end One past the last row.
 * @returns Those rows.
 */
export function sliceRows(source: Rows, begin: number, end: number): Rows {
  return {
    rows: end - begin,
    columns: source.columns,
    read: (from, to) => source.read(begin + from, begin + to),
  };
}

/**
 * Some of a matrix's columns.
 *
 * @param source The matrix.
 * @param begin First column.
 * @param end One past the last column.
 * @returns Those columns.
 */
export function sliceColumns(source: Rows, begin: number, end: number): Rows {
  const columns = end - begin;
  return {
    rows: source.rows,
    columns,
    async read(from, to) {
      const whole = await source.read(from, to);
      const result = new Float32Array((to - from) * columns);
      for (let row = 0; row < to - from; row++) {
        const start = row * source.columns;
        result.set(whole.subarray(start + begin, start + end), row * columns);
      }
      return result;
    },
  };
}
