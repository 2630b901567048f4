// Our side on a page's worker: waits for a job, answers with tokens per second.
// Served beside this file; the name is not in the import, so that type checks leave it alone.
const BUNDLE = "/bundle.js";

const sampling = { temperature: 1, ignoreEos: true, detokenize: false };

function prompt(length, vocabSize, seed) {
  return {
    promptTokenIds: Array.from({ length }, (_, i) => (i * 7919 + seed * 104729) % vocabSize),
  };
}

async function run({ options, size, count }) {
  const { LLM } = await import(BUNDLE);
  const contextLength = size + count + 2;
  const llm = await LLM.open(new URL("/package/", location.href), {
    verify: false,
    ...options,
    contextLength,
    cacheTokens: Math.ceil(contextLength / 16 + 1) * 16,
  });
  const { vocabSize } = llm.spec;
  await llm.generate(prompt(Math.min(size, 32), vocabSize, 1), { ...sampling, maxTokens: 2 });
  const begun = performance.now();
  await llm.generate(prompt(size, vocabSize, 2), { ...sampling, maxTokens: 1 });
  const prefill = size / (performance.now() - begun) * 1e3;
  const times = [];
  // The first token belongs to the prompt; the last one's event may not wait for a step.
  for await (
    const _event of llm.stream(prompt(size, vocabSize, 3), { ...sampling, maxTokens: count + 2 })
  ) times.push(performance.now());
  const decode = count / (times[count] - times[0]) * 1e3;
  const { info } = llm;
  await llm.close();
  return { prefill, decode, info };
}

onmessage = async ({ data }) => {
  try {
    postMessage(await run(data));
  } catch (error) {
    postMessage({ error: String(error?.stack ?? error) });
  }
};
