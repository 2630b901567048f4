/**
 * A worker that hashes chunks, to find out how fast all threads hash: told how many, it answers when it is done.
 * @module
 */
import { createHash } from "node:crypto";
import { CHUNK_BYTES } from "../../src/files/manifest.ts";

const worker = self as unknown as {
  onmessage: (event: MessageEvent<number>) => void;
  postMessage(done: true): void;
};
const chunk = new Uint8Array(CHUNK_BYTES).fill(1);

worker.onmessage = ({ data: count }) => {
  for (let i = 0; i < count; i++) createHash("sha256").update(chunk).digest();
  worker.postMessage(true);
};
worker.postMessage(true);
