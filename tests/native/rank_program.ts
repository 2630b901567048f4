/**
 * A rank of a model, for tests: started as many times as there are ranks, or once where rank 0 starts the others.
 * Arguments: the package, a file with prompts as JSON, the options of `LLM.open` as JSON, and `forever` if it is to
 * go on until it fails. Rank 0 prints one JSON object: the tokens, or the error.
 */
import { LLM } from "../../src/llm.ts";
import { rankPlace } from "../../src/backend/native/rank_place.ts";
import { followRanks } from "../../src/backend/native/ranks_backend.ts";
import type { HybridseekError } from "../../src/errors.ts";

const [folder, prompts, options, forever] = Deno.args as [string, string, string, string?];

async function generate(): Promise<unknown> {
  try {
    await using llm = await LLM.open(folder, { backend: "ort-native", ...JSON.parse(options) });
    const tokenIds: number[][] = JSON.parse(Deno.readTextFileSync(prompts));
    const generate = () =>
      llm.generate(
        tokenIds.map((promptTokenIds) => ({ promptTokenIds })),
        { temperature: 0, maxTokens: 32, ignoreEos: true },
      );
    if (forever) {
      console.error("begins");
      for (;;) await generate();
    }
    const results = await generate();
    return { tokens: results.map(({ outputs }) => outputs[0]!.tokenIds), build: llm.info.build };
  } catch (error) {
    const { name, code, message } = error as HybridseekError;
    return { error: { name, code, message } };
  }
}

if ((rankPlace(Deno.env.toObject())?.rank ?? 0) > 0) {
  try {
    await followRanks();
  } catch (error) {
    const { name, message } = error as Error;
    console.error(`rank ${rankPlace(Deno.env.toObject())!.rank}: ${name}: ${message}`);
    Deno.exit(1);
  }
} else {
  console.log(JSON.stringify(await generate()));
}
