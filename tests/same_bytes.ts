/**
 * Comparing arrays of any size. `assert.deepEqual` prints a difference, and making that of megabytes takes
 * gigabytes.
 * @module
 */
import { AssertionError } from "node:assert";

/**
 * Asserts that two arrays have the same bits.
 *
 * @param got One.
 * @param want The other.
 * @param message What is claimed.
 * @throws {AssertionError} If they differ in kind, length or an element, which is named.
 */
export function assertSameBytes(got: ArrayBufferView, want: ArrayBufferView, message = ""): void {
  const fail = (reason: string) => {
    throw new AssertionError({ message: `${message || "not the same"}: ${reason}` });
  };
  if (got.constructor !== want.constructor) {
    fail(`${got.constructor.name}, ${want.constructor.name}`);
  }
  if (got.byteLength !== want.byteLength) {
    fail(`${got.byteLength} bytes, ${want.byteLength} wanted`);
  }
  const bytes = [got, want].map((view) =>
    new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  ) as [Uint8Array, Uint8Array];
  const index = bytes[0].findIndex((byte, i) => byte !== bytes[1][i]);
  if (index >= 0) fail(`byte ${index} of ${got.byteLength} is the first that differs`);
}
