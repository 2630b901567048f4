/**
 * Bytes as people read them.
 * @module
 */

/** A size. @param bytes How many. @returns For example `6.2 MiB`. */
export function sizeText(bytes: number): string {
  if (bytes < 2 ** 20) return `${(bytes / 2 ** 10).toFixed(1)} KiB`;
  if (bytes < 2 ** 30) return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
