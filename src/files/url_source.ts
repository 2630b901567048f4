/**
 * Files below an address on the web, read by ranges.
 * @module
 */
import { InvalidFileError } from "../errors.ts";
import type { FileSource } from "./file_source.ts";

/** Largest file that is taken whole: manifests, and all files of a server without ranges; bytes. */
const MAX_WHOLE_BYTES = 256 * 1024 * 1024;

/** A folder on a web server. */
export class UrlSource implements FileSource {
  /** The folder's address, with a slash at its end. */
  readonly address: string;

  /** @param url The folder's address. */
  constructor(url: URL) {
    const folder = new URL(url);
    if (!folder.pathname.endsWith("/")) folder.pathname += "/";
    this.address = folder.href;
  }

  /** See {@linkcode FileSource.read}. */
  async read(
    name: string,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const { response, ranged, range } = await this.#fetchRange(name, offset, length, signal);
    const body = await this.#body(name, response, ranged ? length : MAX_WHOLE_BYTES, signal);
    const bytes = ranged ? body : body.slice(offset, offset + length);
    if (bytes.length !== length) {
      this.#fail(name, `${range} was asked for and ${bytes.length} bytes came`);
    }
    return bytes;
  }

  /** See {@linkcode FileSource.readInto}. */
  async readInto(
    name: string,
    offset: number,
    into: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const { length } = into;
    const { response, ranged, range } = await this.#fetchRange(name, offset, length, signal);
    const most = ranged ? length : MAX_WHOLE_BYTES;
    let position = ranged ? 0 : -offset; // of the next piece in `into`
    for await (const piece of this.#pieces(name, response, most, signal)) {
      const begin = Math.max(0, -position);
      const end = Math.min(piece.length, length - position);
      if (begin < end) into.set(piece.subarray(begin, end), position + begin);
      position += piece.length;
    }
    if (position < length) {
      this.#fail(name, `${range} was asked for and ${Math.max(0, position)} bytes came`);
    }
  }

  /** See {@linkcode FileSource.readAll}. */
  async readAll(name: string, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const response = await this.#fetch(name, { signal });
    return await this.#body(name, response, MAX_WHOLE_BYTES, signal);
  }

  /** Nothing on the web has a path. @returns `undefined`. */
  path(_name: string): undefined {
    return undefined;
  }

  /** Nothing stays open. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  async #fetchRange(
    name: string,
    offset: number,
    length: number,
    signal: AbortSignal | undefined,
  ): Promise<{ response: Response; ranged: boolean; range: string }> {
    const range = `bytes=${offset}-${offset + length - 1}`;
    const response = await this.#fetch(name, { headers: { range }, signal });
    const ranged = response.status === 206;
    if (!ranged && Number(response.headers.get("content-length")) > MAX_WHOLE_BYTES) {
      await response.body?.cancel();
      this.#fail(name, `the server does not serve ranges (status ${response.status})`);
    }
    return { response, ranged, range };
  }

  async #body(
    name: string,
    response: Response,
    most: number,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    for await (const piece of this.#pieces(name, response, most, signal)) pieces.push(piece);
    return new Uint8Array(await new Blob(pieces).arrayBuffer());
  }

  /** A response's bytes, unless they are more than were asked for: a server may never end. */
  async *#pieces(
    name: string,
    response: Response,
    most: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const reader = response.body?.getReader();
    let bytes = 0;
    const next = async () => {
      try {
        return (await reader?.read())?.value;
      } catch (cause) {
        signal?.throwIfAborted();
        this.#fail(name, `the connection broke (${(cause as Error).message})`, cause);
      }
    };
    for (let piece = await next(); piece; piece = await next()) {
      bytes += piece.length;
      if (bytes > most) {
        await reader?.cancel();
        this.#fail(name, `more came than the ${most} bytes asked for`);
      }
      yield piece;
    }
  }

  async #fetch(name: string, init: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(new URL(encodeURIComponent(name), this.address), init);
    } catch (cause) {
      init.signal?.throwIfAborted();
      this.#fail(name, (cause as Error).message, cause);
    }
    if (response.ok) return response;
    await response.body?.cancel();
    const code = response.status === 404 ? "not_found" : "invalid_file";
    this.#fail(name, `the server answered ${response.status}`, undefined, code);
  }

  #fail(
    name: string,
    what: string,
    cause?: unknown,
    code?: "not_found" | "invalid_file",
  ): never {
    const address = this.address + name;
    const message = `Cannot read ${address}: ${what}; check the address and the server.`;
    throw new InvalidFileError(address, message, { cause, code });
  }
}
