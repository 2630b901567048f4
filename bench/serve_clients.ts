/**
 * The clients of `bench/serve.ts`: so many streams at a time, one after the
 * other, for so many seconds, sampled as the last argument says.
 * @module
 */

/** Tokens of each stream. */
const TOKENS = 128;

const [port, streams, seconds] = Deno.args.slice(0, 3).map(Number) as [number, number, number];
const until = performance.now() + seconds * 1e3;
const report = { streams: 0, tokens: 0, errors: [] as string[] };

async function client(index: number): Promise<void> {
  for (let round = 0; performance.now() < until; round++) {
    try {
      const response = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          messages: [{ role: "user", content: `Tell me story ${index}, ${round}.` }],
          ...{ stream: true, stream_options: { include_usage: true } },
          ...{ max_tokens: TOKENS, ignore_eos: true, ...JSON.parse(Deno.args[3]!) },
        }),
      });
      const text = await response.text();
      if (!text.endsWith("data: [DONE]\n\n")) throw new Error(text.slice(-300));
      report.tokens += Number(/"completion_tokens":(\d+)/.exec(text)![1]);
      report.streams++;
    } catch (error) {
      report.errors.push(String(error));
    }
  }
}

await Promise.all(Array.from({ length: streams }, (_, index) => client(index)));
console.log(JSON.stringify(report));
