/**
 * The gate that every request passes before it is routed: host, then key.
 * @module
 */
import { ApiError } from "./api_error.ts";
import { sha256 } from "../sha256.ts";

/** Who may come in. */
export interface GateOptions {
  /** Keys of which a request needs one; without any, none is needed. */
  apiKeys?: readonly string[];
  /**
   * Names under which the server may be addressed, without ports. A server on loopback names its own:
   * a page of somebody else's whose name was made to lead here has another. Default: any.
   */
  hosts?: readonly string[];
}

/** Checks requests. */
export class Gate {
  readonly #hosts: ReadonlySet<string> | undefined;
  readonly #keys: Promise<Uint8Array[]>;

  /**
   * @param options Who may come in.
   * @throws {RangeError} If a key is empty.
   */
  constructor({ apiKeys = [], hosts }: GateOptions) {
    if (apiKeys.includes("")) throw new RangeError("An API key is empty.");
    this.#hosts = hosts && new Set(hosts.map((host) => host.toLowerCase()));
    this.#keys = Promise.all(apiKeys.map(digest));
  }

  /**
   * Refuses a request that names a host which is not the server's.
   *
   * @param request It.
   * @throws {ApiError} 403.
   */
  checkHost(request: Request): void {
    if (!this.#hosts) return;
    const host = request.headers.get("host") ?? new URL(request.url).host;
    if (this.#hosts.has(host.toLowerCase().replace(/:\d*$/, ""))) return;
    throw new ApiError(403, `Cannot serve host ${host}: it is not one of this server's names.`, {
      type: "permission_error",
      code: "host_not_allowed",
    });
  }

  /**
   * Finds out whose a request is. The key comes as a bearer, or as the password of basic authorization,
   * which is how a browser asks for it.
   *
   * @param request It.
   * @returns Its key's SHA-256, 64 hexadecimal digits; `""` where no key is needed.
   * @throws {ApiError} 401 if it needs one and has none, or a wrong one.
   */
  async client(request: Request): Promise<string> {
    const keys = await this.#keys;
    if (keys.length === 0) return "";
    const given = await digest(keyOf(request.headers.get("authorization") ?? ""));
    // All keys and all bytes are compared, whatever the first ones say.
    let valid = false;
    for (const key of keys) {
      let difference = 0;
      for (let i = 0; i < key.length; i++) difference |= key[i]! ^ given[i]!;
      if (difference === 0) valid = true;
    }
    if (valid) return Array.from(given, (byte) => byte.toString(16).padStart(2, "0")).join("");
    throw new ApiError(401, "Cannot serve the request: it has no valid API key.", {
      type: "authentication_error",
      code: "invalid_api_key",
      // Programs know that a bearer is wanted; Chromium understands one challenge, not a list.
      headers: { "www-authenticate": 'Basic realm="hybridseek", charset="UTF-8"' },
    });
  }
}

function keyOf(authorization: string): string {
  const [, scheme = "", credentials = ""] = /^(\S+)\s+(.*)$/.exec(authorization.trim()) ?? [];
  if (scheme.toLowerCase() === "bearer") return credentials;
  if (scheme.toLowerCase() !== "basic") return "";
  try {
    const bytes = Uint8Array.from(atob(credentials), (char) => char.charCodeAt(0));
    return new TextDecoder().decode(bytes).replace(/^[^:]*:/, "");
  } catch {
    return "";
  }
}

/** Of one length whatever the key's, so that comparing tells nothing of it. */
async function digest(key: string): Promise<Uint8Array> {
  return await sha256(new TextEncoder().encode(key));
}
