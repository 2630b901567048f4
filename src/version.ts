/**
 * The version of this library.
 * @module
 */

/** As in deno.json; a test compares them. */
export const VERSION = "0.1.0";
