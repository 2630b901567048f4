/**
 * Clients that users have, unchanged, against a server on a socket: npm's here, Python's in
 * `python_clients_test.ts`.
 */
import { needsRuntimes } from "../runtimes/runtimes.ts";
import { install, runClient } from "./clients.ts";
import { model, serverOf } from "./serving.ts";

const KEY = "secret";
const QUESTION = "Who are you?";
const PROMPT = "Once upon a time there was";

const clients = [
  { script: "openai.mjs", packages: ["openai@7.57.0", "zod@4.6.7"] },
  {
    script: "langchain.mjs",
    packages: ["@langchain/openai@1.6.0", "@langchain/deepseek@1.1.13", "@langchain/core@1.4.0"],
  },
  {
    script: "ai_sdk.mjs",
    packages: [
      "ai@7.0.173",
      "@ai-sdk/openai-compatible@3.0.92",
      "@ai-sdk/deepseek@3.0.56",
      "zod@4.6.7",
    ],
  },
];

for (const { script, packages } of clients) {
  const names = packages.map((name) => name.replace(/@[\d.]+$/, "")).join(", ");
  Deno.test(needsRuntimes(`npm clients answer with the model's own words: ${names}`), async () => {
    const llm = await model();
    const messages = [{ role: "user", content: QUESTION }];
    const [chat] = await llm.chat(messages, { temperature: 0, maxTokens: 24 });
    const [completion] = await llm.generate(PROMPT, { temperature: 0, maxTokens: 12 });
    const server = await serverOf({ apiKeys: [KEY], names: ["deepseek-chat"] });
    const listener = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen: () => {} },
      server.fetch,
    );
    try {
      await runClient(await install(packages), script, {
        address: `http://127.0.0.1:${listener.addr.port}`,
        ...{ key: KEY, model: "deepseek-chat", question: QUESTION, prompt: PROMPT },
        answer: chat!.outputs[0]!.text,
        story: completion!.outputs[0]!.text,
      });
    } finally {
      await listener.shutdown();
    }
  });
}
