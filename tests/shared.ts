/**
 * The data shared beside the repository: checkpoints, goldens, tokenizers.
 * @module
 */

/** Its folder. */
export const shared: URL = new URL("../../shared/", import.meta.url);

/** Whether the shared data is there; tests that need it are ignored where it is not. */
export const hasShared: boolean = exists(shared);

/** Ends a test's name with the reason where it is ignored for want of the shared data. */
export function needsShared(name: string): { name: string; ignore: boolean } {
  return { name: hasShared ? name : `${name} (ignored: no ../shared)`, ignore: !hasShared };
}

/** The text of a shared file. */
export function readShared(path: string): string {
  return Deno.readTextFileSync(new URL(path, shared));
}

function exists(url: URL): boolean {
  try {
    return Deno.statSync(url).isDirectory;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
