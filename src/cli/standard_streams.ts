/**
 * Reading standard input and writing JSON to standard output.
 * @module
 */
import process from "node:process";

/** Reads standard input to its end. @returns The text, without the newline at its end. */
export async function readStandardInput(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write("Type the prompt, end with Ctrl-D.\n");
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of process.stdin) text += decoder.decode(piece, { stream: true });
  return (text + decoder.decode()).replace(/\r?\n$/, "");
}

/** JSON of a value; a bigint is written as the number it is. @param value It. @returns Text. */
export function toJson(value: unknown): string {
  const json = JSON.stringify(
    value,
    (_, item) => typeof item === "bigint" ? `bigint:${item}` : item,
    2,
  );
  return json.replace(/"bigint:(-?\d+)"/g, "$1");
}
