import { readFile } from "node:fs/promises";
import process from "node:process";
import { type Command, Option } from "commander";
import { InvalidFileError } from "../errors.ts";
import type { StreamEvent } from "../outputs.ts";
import { interruptible } from "./interrupt.ts";
import {
  addModelOptions,
  addSamplingOptions,
  closeModel,
  type ModelOptions,
  number,
  openModel,
  type SamplingOptions,
  samplingParams,
} from "./model_options.ts";
import { readStandardInput, toJson } from "./standard_streams.ts";

interface GenerateOptions extends ModelOptions, SamplingOptions {
  choices: number;
  logprobs?: number;
  json?: true;
  jsonSchema?: string;
  regex?: string;
}

/** Tokens that `generate` makes unless told otherwise. */
const MAX_TOKENS = 128;

/** Adds `hybridseek generate`. @param program To this program. */
export function addGenerateCommand(program: Command): void {
  const command = program.command("generate")
    .description("Continue a text.")
    .argument("[prompt...]", "the text; read from standard input if there is none");
  addSamplingOptions(addModelOptions(command), MAX_TOKENS)
    .option("--choices <count>", "how many continuations; needs --json when above 1", number, 1)
    .option("--logprobs <count>", "with --json: log-probabilities of the likeliest tokens", number)
    .addOption(
      new Option("--json-schema <schema>", "write JSON of this schema, a file or its text")
        .conflicts("regex"),
    )
    .option("--regex <pattern>", "write text that this matches as a whole")
    .option("--json", "print one JSON object when done, instead of text as it comes")
    .action(generate);
}

async function generate(words: string[], options: GenerateOptions, command: Command) {
  if (options.choices !== 1 && !options.json) {
    command.error("error: --choices needs --json: several texts can not be printed as they come");
  }
  const prompt = words.length > 0 ? words.join(" ") : await readStandardInput();
  await interruptible(async (signal) => {
    const llm = await openModel(options, signal);
    const { choices: n, logprobs } = options;
    try {
      const structuredOutputs = await structuredOutputsOf(options);
      const params = { ...samplingParams(options), n, logprobs, structuredOutputs };
      if (options.json) {
        const [result] = await llm.generate(prompt, params, { signal });
        process.stdout.write(toJson(result) + "\n");
      } else {
        await print(prompt, llm.stream(prompt, params, { signal }));
      }
    } finally {
      await closeModel(llm);
    }
  });
}

async function structuredOutputsOf({ jsonSchema, regex }: GenerateOptions) {
  if (regex !== undefined) return { regex };
  if (jsonSchema === undefined) return undefined;
  const isText = /^\s*[{]/.test(jsonSchema);
  if (isText) return { json: jsonSchema };
  try {
    return { json: await readFile(jsonSchema, "utf8") };
  } catch (cause) {
    throw new InvalidFileError(
      jsonSchema,
      `Cannot read the schema ${jsonSchema}: ${
        (cause as Error).message
      }; give a file or a JSON text.`,
      { code: "not_found", cause },
    );
  }
}

/** Prints prompt and text as they come, and nothing if nothing comes. */
async function print(prompt: string, events: AsyncIterable<StreamEvent>) {
  let begun = false;
  try {
    for await (const { text } of events) {
      process.stdout.write(begun ? text : prompt + text);
      begun = true;
    }
  } finally {
    if (begun) process.stdout.write("\n");
  }
}
