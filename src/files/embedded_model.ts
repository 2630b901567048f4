/**
 * The package that comes with the library: a small DeepSeek-V2 model trained from scratch, under the
 * library's own licence (MIT).
 * @module
 */

/** Its address: beside the library's modules, wherever those were loaded from. */
export const EMBEDDED_MODEL: URL = new URL("../../models/reference/", import.meta.url);
