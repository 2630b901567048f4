/**
 * The package that comes with the library: a small DeepSeek-V2 model trained from scratch, under the
 * library's own licence (MIT).
 * @module
 */
import { UnsupportedError } from "../errors.ts";

/**
 * Where it lies: beside the library's modules, wherever those were loaded from.
 *
 * @returns Its address.
 * @throws {UnsupportedError} If the library's own address is not known, as in some bundles.
 */
export function embeddedModel(): URL {
  try {
    return new URL("../../models/reference/", import.meta.url);
  } catch (cause) {
    throw new UnsupportedError(
      "Cannot find the embedded model: this bundle does not know its own address; give the address of " +
        "a package to open.",
      { cause },
    );
  }
}
