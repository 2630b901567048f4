/**
 * A module's import of a memory with its exact size. Where V8 compares addresses with the size of a
 * shared memory, it loads and offsets the size for every load, unless the memory can not grow.
 * @module
 */

/** Number of a section, and two kinds of import. */
const [IMPORT_SECTION, FUNCTION, MEMORY] = [2, 0, 2];
/** Bytes before the first section. */
const HEADER_BYTES = 8;
/** Of a memory's limits: there is a maximum. */
const HAS_MAXIMUM = 1;

/**
 * Writes the limits of the memory that a module imports.
 *
 * @param module The bytes of a module that imports functions and one memory, no tables, no globals.
 * @param pages The memory's size, which is its maximum.
 * @returns The bytes of such a module.
 * @throws {Error} If it imports something else.
 */
export function withFixedMemory(
  module: Uint8Array<ArrayBuffer>,
  pages: number,
): Uint8Array<ArrayBuffer> {
  let at = HEADER_BYTES;
  const number = () => {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = module[at++]!;
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
  };
  const skip = (bytes: number) => at += bytes;
  for (;;) {
    const begin = at;
    const [id, length] = [module[at++], number()];
    if (id !== IMPORT_SECTION) {
      skip(length);
      continue;
    }
    const [body, end] = [at, at + length];
    number(); // how many imports there are
    for (;;) {
      skip(number()); // the module's name, after its length
      skip(number()); // the import's
      const kind = module[at++];
      if (kind === FUNCTION) {
        number();
        continue;
      }
      if (kind !== MEMORY) throw new Error(`Cannot fix a memory: the module imports kind ${kind}.`);
      const flags = at;
      at++;
      number();
      if (module[flags]! & HAS_MAXIMUM) number();
      const limits = [module[flags]! | HAS_MAXIMUM, ...encoded(pages), ...encoded(pages)];
      const section = [...module.slice(body, flags), ...limits, ...module.slice(at, end)];
      return Uint8Array.from([
        ...module.slice(0, begin),
        ...[IMPORT_SECTION, ...encoded(section.length), ...section],
        ...module.slice(end),
      ]);
    }
  }
}

/** A whole number as WebAssembly writes it: seven bits a byte, low ones first. */
function encoded(value: number): number[] {
  return value < 128 ? [value] : [value % 128 + 128, ...encoded(Math.floor(value / 128))];
}
