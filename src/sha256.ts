/**
 * The hash of files, saved caches and keys.
 * @module
 */

/** Hashes bytes. @param bytes They; not shared memory. @returns Their sha256. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/** Writes a hash. @param hash Its bytes. @returns Hex. */
export function toHex(hash: Uint8Array): string {
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
