// wllama on a page: a function from a job to tokens per second, by wllama's own timings.
// Served beside this file; the name is not in the import, so that type checks leave it alone.
const WLLAMA = "/wllama/index.js";

// A letter is a token in the vocabulary of make_gguf.py.
function prompt(length, seed) {
  return Array.from({ length }, (_, i) => String.fromCharCode(97 + (i * 7 + i % 5 + seed) % 26))
    .join("");
}

export async function run({ gguf, threads, size, count }) {
  const { LoggerWithoutDebug, Wllama } = await import(WLLAMA);
  const wllama = new Wllama({ default: "/wllama/wasm/wllama.wasm" }, {
    logger: LoggerWithoutDebug,
  });
  const blob = await (await fetch(`/${gguf}`)).blob();
  await wllama.loadModel([blob], {
    n_ctx: size + count + 64,
    n_batch: 512,
    n_threads: threads,
    n_gpu_layers: 0,
  });
  const complete = (length, max_tokens, seed) =>
    wllama.createCompletion({
      prompt: prompt(length, seed),
      max_tokens,
      temperature: 1,
      ignore_eos: true,
      cache_prompt: false,
      stream: false,
    });
  await complete(8, 2, 1);
  const { timings } = await complete(size, count, 2);
  await wllama.exit();
  return {
    prefill: timings.prompt_per_second,
    decode: timings.predicted_per_second,
    promptTokens: timings.prompt_n,
    tokens: timings.predicted_n,
  };
}
