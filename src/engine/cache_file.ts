/**
 * A file of computed cache blocks, which another run of the same model goes on from, on this machine or
 * another: magic, sha256 of what follows it, length of the header (u32, little-endian), the header as JSON,
 * and the blocks one after the other.
 * @module
 */
import { InvalidFileError } from "../errors.ts";
import { sha256 } from "../sha256.ts";

/** What blocks belong to: they are of use there and nowhere else. */
export interface CacheKind {
  /** Which package computed them: hex sha256 of its manifest. */
  model: string;
  /** How the backend lays out their rows. */
  layout: string;
  /** Tokens of a block. */
  blockSize: number;
  /** Bytes of a block, all layers together. */
  blockBytes: number;
}

/** Blocks and what they hold. */
export interface CachedTokens {
  /** The tokens, a multiple of a block's. */
  tokenIds: number[];
  /** Their blocks. */
  blocks: Uint8Array;
}

/** Eight bytes, the last one the version. */
const MAGIC = new TextEncoder().encode("HSCACHE1");
const HASH_BYTES = 32;
const HASHED_FROM = MAGIC.length + HASH_BYTES;
const HEADER_FROM = HASHED_FROM + 4;
const NAME = "cache file";

/**
 * Writes a file.
 *
 * @param kind What the blocks belong to.
 * @param cached They.
 * @returns The file.
 */
export async function writeCacheFile(
  kind: CacheKind,
  { tokenIds, blocks }: CachedTokens,
): Promise<Uint8Array<ArrayBuffer>> {
  const header = new TextEncoder().encode(JSON.stringify({ ...kind, tokenIds }));
  const file = new Uint8Array(HEADER_FROM + header.length + blocks.length);
  file.set(MAGIC);
  new DataView(file.buffer).setUint32(HASHED_FROM, header.length, true);
  file.set(header, HEADER_FROM);
  file.set(blocks, HEADER_FROM + header.length);
  file.set(await sha256(file.subarray(HASHED_FROM)), MAGIC.length);
  return file;
}

/**
 * Reads a file.
 *
 * @param file Its bytes, which may be anything.
 * @param kind What the blocks must belong to.
 * @param limits Tokens of the vocabulary, and most of a sequence.
 * @returns What it holds; the blocks are a view of the file.
 * @throws {InvalidFileError} If it is damaged, or of another model or kind of cache.
 */
export async function readCacheFile(
  file: Uint8Array,
  kind: CacheKind,
  { vocabSize, contextLength }: { vocabSize: number; contextLength: number },
): Promise<CachedTokens> {
  if (!(file instanceof Uint8Array) || MAGIC.some((byte, i) => file[i] !== byte)) {
    fail(`it does not begin as one of this version does; save the cache anew`);
  }
  if (file.length < HEADER_FROM) fail(`it ends after ${file.length} bytes; get it anew`);
  const hash = await sha256(Uint8Array.from(file.subarray(HASHED_FROM)));
  if (hash.some((byte, i) => file[MAGIC.length + i] !== byte)) {
    fail("its sha256 is another than it says: it is damaged or cut off; get it anew");
  }
  // Whoever writes a file can make its hash as well: nothing below trusts the other.
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const blocksFrom = HEADER_FROM + view.getUint32(HASHED_FROM, true);
  if (blocksFrom > file.length) fail(`its header ends at ${blocksFrom} of ${file.length} bytes`);
  let header: Record<string, unknown> | null;
  try {
    header = JSON.parse(new TextDecoder().decode(file.slice(HEADER_FROM, blocksFrom)));
  } catch {
    fail("its header is no JSON");
  }
  for (const [field, want] of Object.entries(kind)) {
    const is = header?.[field];
    if (is === want) continue;
    fail(
      `its ${field} is ${
        JSON.stringify(is)?.slice(0, 80)
      }, this model's is ${want}; open the model ` +
        "that it was saved from, in the same way",
    );
  }
  const tokenIds = header!.tokenIds;
  const isToken = (id: unknown) =>
    Number.isInteger(id) && id as number >= 0 && id as number < vocabSize;
  if (!Array.isArray(tokenIds) || !tokenIds.every(isToken)) {
    fail("its tokens are none of the model's");
  }
  if (tokenIds.length > contextLength) {
    fail(
      `it has ${tokenIds.length} tokens, the context is ${contextLength}; open the model with a larger ` +
        "contextLength",
    );
  }
  const blocks = file.subarray(blocksFrom);
  if (
    tokenIds.length % kind.blockSize !== 0 ||
    blocks.length * kind.blockSize !== tokenIds.length * kind.blockBytes
  ) {
    fail(`it has ${blocks.length} bytes of blocks for ${tokenIds.length} tokens`);
  }
  return { tokenIds, blocks };
}

function fail(what: string): never {
  throw new InvalidFileError(NAME, `Cannot load the cache file: ${what}.`);
}
