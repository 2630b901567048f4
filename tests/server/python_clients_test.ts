/**
 * Python's clients, unchanged, against a server on a socket: openai, lm-evaluation-harness, schemathesis.
 * They need HYBRIDSEEK_CLIENTS_PYTHON, a Python that has `lm-eval[api]`, `openai` and `schemathesis`.
 */
import { strict as assert } from "node:assert";
import { LLM } from "../../mod.ts";
import { createServer, type Server, type ServerOptions } from "../../src/server/mod.ts";
import { temporaryPath } from "../packages.ts";
import { run } from "../runtimes/runtimes.ts";
import { model, serverOf } from "./serving.ts";

const python = Deno.env.get("HYBRIDSEEK_CLIENTS_PYTHON");
const repository = new URL("../../", import.meta.url).pathname;
const reference = `${repository}models/reference`;

function needsPython(name: string): { name: string; ignore: boolean } {
  const reason = python ? "" : " (ignored: HYBRIDSEEK_CLIENTS_PYTHON is not set)";
  return { name: name + reason, ignore: !python };
}

async function serving(server: Server, use: (address: string) => Promise<void>): Promise<void> {
  const listener = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    server.fetch,
  );
  try {
    await use(`http://127.0.0.1:${listener.addr.port}`);
  } finally {
    await listener.shutdown();
  }
}

Deno.test(needsPython("Python's openai answers with the model's own words"), async () => {
  const llm = await model();
  const given = { question: "Who are you?", prompt: "Once upon a time there was", key: "secret" };
  const messages = [{ role: "user", content: given.question }];
  const [chat] = await llm.chat(messages, { temperature: 0, maxTokens: 24 });
  const [completion] = await llm.generate(given.prompt, { temperature: 0, maxTokens: 12 });
  const answer = chat!.outputs[0]!.text;
  const story = completion!.outputs[0]!.text;
  await serving(await serverOf({ apiKeys: [given.key] }), async (address) => {
    const input = JSON.stringify({ ...given, address, answer, story });
    await run(python!, ["tests/python/client_openai.py", input], repository);
  });
});

/** A question whose answers are continuations, the right one by its index. */
interface Question {
  question: string;
  choices: string[];
  answer: number;
}

const questions: Question[] = [
  { question: "Once upon a time there was a", choices: ["kind boy", "blue boy", "of"], answer: 0 },
  { question: "The cat sat on the", choices: ["the", "mat", "quickly"], answer: 1 },
  {
    question: "User: Who are you?\n\nAssistant:",
    choices: ["I am a small language model.", "You are."],
    answer: 0,
  },
  { question: "Every day he played with his", choices: ["sun", "golden brush", "ball"], answer: 1 },
  { question: "One day Theo lost", choices: ["his brush", "a"], answer: 1 },
  { question: "Die Katze, é, 猫:", choices: ["ünder", "猫猫", "cat"], answer: 2 },
  { question: "16 + 16 =", choices: ["32", "16", "7"], answer: 0 },
];

/** What the harness does, through `llm.forward`: the log-probability of each answer after its question. */
async function score({ question, choices }: Question, llm: LLM): Promise<[number, boolean][]> {
  const encode = (text: string) => llm.tokenizer.encode(text, { addSpecialTokens: false });
  const results: [number, boolean][] = [];
  for (const choice of choices) {
    const ids = encode(`${question} ${choice}`);
    const begin = encode(question).length;
    const rows = ids.map((_, i) => i).slice(begin - 1, -1);
    const { logits, shape: [, vocabulary] } = await llm.forward(ids, { rows });
    let [sum, greedy] = [0, true];
    for (const [i, row] of rows.entries()) {
      const values = Array.from(logits.subarray(i * vocabulary, (i + 1) * vocabulary));
      const most = values.reduce((a, b) => Math.max(a, b));
      const total = values.reduce((total, value) => total + Math.exp(value - most), 0);
      const value = values[ids[row + 1]!]!;
      sum += value - most - Math.log(total);
      greedy &&= value === most;
    }
    results.push([sum, greedy]);
  }
  return results;
}

const TASK = (data: string) => `
task: hybridseek_questions
dataset_path: json
dataset_kwargs:
  data_files:
    test: ${data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
`;

const BACKENDS = {
  "Hugging Face's tokenizer": `tokenizer_backend=huggingface,tokenizer=${reference}`,
  "the server's tokenizer": "tokenizer_backend=remote",
};

for (const [name, backend] of Object.entries(BACKENDS)) {
  Deno.test(
    needsPython(`lm_eval's local-completions with ${name} gives the score of llm.forward`),
    async () => {
      const llm = await model();
      const folder = temporaryPath("lm_eval");
      await Deno.mkdir(folder);
      const lines = questions.map((question) => JSON.stringify(question)).join("\n");
      await Deno.writeTextFile(`${folder}/questions.jsonl`, lines);
      await Deno.writeTextFile(`${folder}/questions.yaml`, TASK(`${folder}/questions.jsonl`));
      await serving(await serverOf(), async (address) => {
        const model =
          `model=hybridseek,base_url=${address}/v1/completions,max_retries=1,${backend}`;
        const args = ["-m", "lm_eval", "--model", "local-completions", "--model_args", model];
        args.push("--tasks", "hybridseek_questions", "--include_path", folder, "--batch_size", "4");
        args.push("--output_path", `${folder}/results`, "--log_samples");
        const env = {
          HF_HUB_OFFLINE: "1",
          HF_HOME: `${folder}/home`,
          TOKENIZERS_PARALLELISM: "false",
        };
        await run(python!, args, folder, env);
      });
      const files = await filesBelow(`${folder}/results`);
      const read = async (pattern: RegExp) =>
        await Deno.readTextFile(files.find((file) => pattern.test(file))!);
      const samples = (await read(/samples_.*\.jsonl$/)).trim().split("\n").map((line) =>
        JSON.parse(line)
      );
      assert.equal(samples.length, questions.length);
      let right = 0;
      for (const { doc, filtered_resps } of samples) {
        const want = await score(doc, llm);
        for (const [i, [logprob, greedy]] of want.entries()) {
          assert(Math.abs(Number(filtered_resps[i][0]) - logprob) < 1e-5, `${doc.question} ${i}`);
          assert.equal(String(filtered_resps[i][1]).toLowerCase(), String(greedy));
        }
        const best = want.reduce((best, [value], i) => value > want[best]![0] ? i : best, 0);
        if (best === doc.answer) right++;
      }
      assert(right > 0 && right < questions.length, "the questions decide nothing");
      const { results } = JSON.parse(await read(/results_.*\.json$/));
      assert(Math.abs(results.hybridseek_questions["acc,none"] - right / questions.length) < 1e-12);
    },
  );
}

async function filesBelow(folder: string): Promise<string[]> {
  const files: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    const path = `${folder}/${name}`;
    files.push(...isDirectory ? await filesBelow(path) : [path]);
  }
  return files;
}

Deno.test(needsPython("schemathesis finds nothing that makes the server fail"), async () => {
  const errors: unknown[] = [];
  // A short context, as most of its requests ask for many tokens.
  await using llm = await LLM.open(undefined, { contextLength: 128 });
  const options: ServerOptions = { limits: { choices: 4 }, onError: (error) => errors.push(error) };
  await serving(createServer(llm, options), async (address) => {
    const args = ["-m", "schemathesis.cli", "run", `${address}/openapi.json`];
    args.push("--checks", "not_a_server_error", "--max-examples", "30", "--seed", "1");
    args.push("--phases", "examples,coverage,fuzzing", "--request-timeout", "60");
    await run(python!, args, temporaryPath("").replace(/[^/]+$/, ""));
  });
  assert.deepEqual(errors, []);
});
