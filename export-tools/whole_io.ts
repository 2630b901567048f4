/**
 * Reads and writes that are done only when every byte is: a single call may stop half-way.
 * @module
 */
import type { FileHandle } from "node:fs/promises";
import { InvalidFileError } from "../src/errors.ts";

/**
 * Fills a buffer from a file.
 *
 * @param handle The open file.
 * @param path Its path, for messages.
 * @param into Filled whole.
 * @param position First byte in the file.
 * @throws {InvalidFileError} If the file ends before.
 */
export async function readWhole(
  handle: FileHandle,
  path: string,
  into: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await handle.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) {
      throw new InvalidFileError(
        path,
        `Cannot read ${path}: it ends at byte ${position + done}, before ${
          position + into.length
        }; ` +
          "get the file anew.",
      );
    }
    done += bytesRead;
  }
}

/**
 * Writes a buffer into a file.
 *
 * @param handle The open file.
 * @param bytes What to write.
 * @param position First byte in the file.
 */
export async function writeWhole(
  handle: FileHandle,
  bytes: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const rest = bytes.length - done;
    done += (await handle.write(bytes, done, rest, position + done)).bytesWritten;
  }
}
