/**
 * `deno task bench:cold-start`: time from the start of a process to the first token of the embedded model,
 * one JSON line. Each run is a fresh process; the first one, which may compile and cache, is not counted.
 * @module
 */
import { machine } from "./machine.ts";

const RUNS = 11;
const PROMPT = "Once upon a time there was";
const main = new URL("../src/cli/main.ts", import.meta.url).pathname;

/** Milliseconds to the first byte behind the prompt. */
async function firstTokenMs(): Promise<number> {
  const begun = performance.now();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-read", "--allow-env", main, "generate", "-n", "2", "-t", "0", PROMPT],
    stdout: "piped",
  }).spawn();
  const decoder = new TextDecoder();
  let text = "";
  let elapsed = 0;
  for await (const piece of child.stdout) {
    text += decoder.decode(piece, { stream: true });
    if (elapsed === 0 && text.length > PROMPT.length) elapsed = performance.now() - begun;
  }
  if (!(await child.status).success || text !== `${PROMPT} a kind\n`) {
    throw new Error(`Cannot measure: the model wrote ${JSON.stringify(text)}.`);
  }
  return elapsed;
}

await firstTokenMs();
const times: number[] = [];
for (let run = 0; run < RUNS; run++) times.push(await firstTokenMs());
times.sort((a, b) => a - b);
const milliseconds = {
  least: Math.round(times[0]!),
  median: Math.round(times[RUNS >> 1]!),
  most: Math.round(times.at(-1)!),
};
console.log(JSON.stringify({ bench: "cold_start", runs: RUNS, milliseconds, ...machine() }));
