/**
 * Bytes that are a text in the source, so that every bundler takes them.
 * @module
 */
import { unzlibSync } from "fflate";

/**
 * Unpacks embedded bytes.
 *
 * @param embedded Base64 of what zlib made of them.
 * @returns They, owned by the caller.
 */
export function embeddedBytes(embedded: string): Uint8Array<ArrayBuffer> {
  const text = atob(embedded);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return unzlibSync(bytes) as Uint8Array<ArrayBuffer>;
}
