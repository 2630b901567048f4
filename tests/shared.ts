/**
 * The data shared beside the repository: checkpoints, goldens, tokenizers.
 * @module
 */
import type { OpenOptions } from "../src/open_model.ts";

/** Its folder. */
export const shared: URL = new URL("../../shared/", import.meta.url);

/** Whether the shared data is there; tests that need it are ignored where it is not. */
export const hasShared: boolean = exists(shared);

/** Where `hybridseek gpu build` puts the native library. */
export const nativeLibrary: string =
  new URL("../gpu/build/hybridseek.node", import.meta.url).pathname;

/** A test's name, ending with the reasons where it is ignored. */
export function needs(
  name: string,
  what: { shared?: boolean; native?: boolean },
): { name: string; ignore: boolean } {
  const missing = [
    ...(what.shared && !hasShared ? ["no ../shared"] : []),
    ...(what.native && !exists(nativeLibrary)
      ? ["no native library; hybridseek gpu build makes it"]
      : []),
  ];
  const reason = missing.length > 0 ? ` (ignored: ${missing.join(", ")})` : "";
  return { name: name + reason, ignore: missing.length > 0 };
}

/**
 * A test's name, ending with the reason where it is ignored for want of the shared data, or of what the
 * backend that it opens needs.
 */
export function needsShared(
  name: string,
  backend?: OpenOptions["backend"],
): { name: string; ignore: boolean } {
  return needs(name, { shared: true, native: backend === "ort-native" });
}

/** The text of a shared file. */
export function readShared(path: string): string {
  return Deno.readTextFileSync(new URL(path, shared));
}

function exists(path: URL | string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
