/** npm `@langchain/openai` as DeepSeek-V2's model card uses ChatOpenAI, and `@langchain/deepseek`; unchanged. */
import assert from "node:assert/strict";
import process from "node:process";
import { ChatDeepSeek } from "@langchain/deepseek";
import { ChatOpenAI, OpenAI } from "@langchain/openai";

const { address, key, model, question, answer, prompt, story } = JSON.parse(process.argv[2]);
const options = { model, temperature: 0, maxTokens: 24, maxRetries: 0, apiKey: key };
const configuration = { baseURL: `${address}/v1` };

const chats = [
  new ChatOpenAI({ ...options, configuration }),
  new ChatDeepSeek({ ...options, configuration }),
];
for (const chat of chats) {
  const message = await chat.invoke([{ role: "user", content: question }]);
  assert.equal(message.content, answer);
  assert.equal(message.response_metadata.finish_reason, "stop");
  assert(message.usage_metadata.output_tokens > 0);
  let text = "";
  for await (const chunk of await chat.stream(question)) text += chunk.content;
  assert.equal(text, answer);
  const [one, two] = await chat.batch([question, question]);
  assert.deepEqual([one.content, two.content], [answer, answer]);
}

const completion = new OpenAI({ ...options, maxTokens: 12, configuration });
assert.equal(await completion.invoke(prompt), story);
