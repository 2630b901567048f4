/**
 * The model of speed: tokens per second that GPUs can reach at most, from a config.json and data sheets.
 *
 *     deno task bench:roofline --model v2 --device h800
 *     deno task bench:roofline --model path/to/config.json --device h100 --ranks 1 --ops
 *     deno task bench:roofline --model v2-lite --device rtx3070 --host desktop
 * @module
 */
import { Command } from "commander";
import { number } from "../src/cli/model_options.ts";
import { type Device, devices, type Host, hosts } from "./roofline/devices.ts";
import { hybridSeconds, leastPlacement } from "./roofline/hybrid.ts";
import {
  cacheBytesPerToken,
  type ModelConfig,
  parameters,
  seconds,
  sequencesThatFit,
  type Setting,
  stepCost,
  stepSeconds,
  weightBytesPerRank,
} from "./roofline/step_cost.ts";
import { graphOf, shapeModel } from "./synthetic/shape_graph.ts";
import { type ShapeConfig, shapes } from "./synthetic/shapes.ts";

interface Options {
  model: string;
  device: string;
  ranks: number;
  context: number;
  ops: boolean;
  host?: string;
}

const storages: Pick<Setting, "weights" | "cache">[] = [
  { weights: "bf16", cache: "bf16" },
  { weights: "fp8", cache: "bf16" },
  { weights: "fp8", cache: "fp8" },
  { weights: "fp8", cache: "6bit" },
  { weights: "int4", cache: "fp8" },
];
const layouts = { tensor: "heads divided", data: "sequences divided" } as const;

async function configOf(model: string): Promise<ModelConfig> {
  const config = shapes[model] ?? JSON.parse(await Deno.readTextFile(model));
  if (!config.kv_lora_rank) throw new Error(`${model}: not a model with latent attention`);
  return config as unknown as ModelConfig;
}

/** Tokens of a step of a prompt, as the backend takes them. */
const CHUNK = 512;

const thousands = (value: number) =>
  value >= 1e4 ? `${Math.round(value / 1e3)}K` : `${(value / 1e3).toFixed(1)}K`;
const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;

function table(rows: string[][]): void {
  const widths = rows[0]!.map((_, at) => Math.max(...rows.map((row) => row[at]!.length)));
  for (const row of rows) {
    console.log(
      "  " +
        row.map((cell, at) => at === 0 ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!))
          .join("  "),
    );
  }
}

/** A full batch of decoding sequences. */
function decoding(
  c: ModelConfig,
  device: Device,
  part: Omit<Setting, "tokens" | "sequences" | "logitRows">,
): Setting {
  const sequences = sequencesThatFit(c, device, part);
  return { ...part, tokens: sequences, sequences, logitRows: sequences };
}

/** Prompts of `context` tokens, a chunk of 8192 tokens on every rank that computes attention for itself. */
function prefilling(part: Omit<Setting, "tokens" | "sequences" | "logitRows">): Setting {
  const tokens = 8192 * part.ranks;
  const sequences = tokens / part.context;
  // A token attends to half of its prompt on average; the cache is read once for each prompt.
  return { ...part, tokens, sequences, context: part.context / 2, logitRows: sequences };
}

function printDevice(c: ModelConfig, device: Device, { ranks, context, ops }: Options): void {
  console.log(
    `\n${ranks} x ${device.name}, context ${context}, 90 % of the memory (a model: upper bounds)`,
  );
  const details: [string, Setting][] = [];
  const rows = [[
    "attention",
    "weights",
    "cache",
    "weights/GPU",
    "sequences",
    "decode tok/s",
    "overlapped",
    "prompt tok/s",
    "overlapped",
  ]];
  for (const layout of ["tensor", "data"] as const) {
    for (const storage of storages) {
      const part = { ranks, layout, context, ...storage };
      const setting = decoding(c, device, part);
      const weights = gigabytes(weightBytesPerRank(c, part));
      const about = [
        ranks === 1 ? "one GPU" : layouts[layout],
        storage.weights,
        storage.cache,
        weights,
      ];
      if (setting.sequences === 0) {
        rows.push([...about, "does not fit", "", "", "", ""]);
        continue;
      }
      rows.push([
        ...about,
        `${setting.sequences}`,
        ...rates(c, device, setting),
        ...rates(c, device, prefilling(part)),
      ]);
      if (ops) details.push([about.slice(0, 3).join(", "), setting]);
    }
    if (ranks === 1) break; // one and the same
  }
  table(rows);
  for (const [title, setting] of details) printOps(c, device, title, setting);
}

/** Tokens per second, collectives in turn with the other ops and beside them. */
function rates(c: ModelConfig, device: Device, setting: Setting): string[] {
  const { inTurn, overlapped } = stepSeconds(c, device, setting);
  return [thousands(setting.tokens / inTurn), thousands(setting.tokens / overlapped)];
}

function printOps(c: ModelConfig, device: Device, title: string, setting: Setting): void {
  console.log(`\n  decode on one GPU: ${title}`);
  const rows = [["op", "read", "operations", "sent", "ms"]];
  for (const op of stepCost(c, setting)) {
    const least = seconds(op, device, setting.weights === "fp8") * 1e3;
    const tera = `${(op.operations / 1e12).toFixed(2)} T`;
    rows.push([op.op, gigabytes(op.bytes), tera, gigabytes(op.sent), least.toFixed(2)]);
  }
  table(rows);
}

/** One GPU with the experts of some layers on its host: as few layers as must, half of the others, all. */
function printHybrid(c: ModelConfig, device: Device, host: Host, context: number): void {
  console.log(
    `\n${device.name} in a machine of ${host.name}, int4, cache bf16, context ${context}, 90 % of either memory ` +
      "(a model: upper bounds)",
  );
  const graph = graphOf(shapeModel(c as unknown as ShapeConfig, "int4"));
  const least = leastPlacement(graph, device, host, context);
  if (!least) return console.log("  does not fit");
  const { all, host: fewest } = least.layers;
  const rows = [[
    "--experts",
    "on the host",
    "on the GPU",
    "cached tokens",
    "1 sequence tok/s",
    "of it host",
    "link",
    "full batch",
    "tok/s",
    "prompt tok/s",
  ]];
  for (const count of new Set([fewest, Math.ceil((fewest + all) / 2), all])) {
    const plan = leastPlacement(graph, device, host, context, count);
    if (!plan) {
      rows.push([`${count}`, "does not fit", ...Array(rows[0]!.length - 2).fill("")]);
      continue;
    }
    const { limits: { blocks, blockSize }, bytes } = plan.device;
    const cached = (blocks - 1) * blockSize;
    const step = (tokens: number, sequences: number, length: number) => {
      const sizes = { tokens, sequences, context: length, logitRows: sequences };
      return hybridSeconds(c, device, host, { weights: "int4", cache: "bf16", ...sizes }, count);
    };
    const one = step(1, 1, context);
    const sequences = Math.min(256, Math.floor(cached / context));
    const batch = step(sequences, sequences, context);
    const prompt = step(CHUNK, 1, context / 2);
    const onDevice = Object.values(bytes).reduce((sum, part) => sum + part, 0);
    const percent = (part: number) => `${(part / one.total * 100).toFixed(1)} %`;
    rows.push([
      `${count}`,
      gigabytes(plan.hostBytes),
      gigabytes(onDevice),
      `${cached}`,
      (1 / one.total).toFixed(1),
      percent(one.host),
      percent(one.link),
      `${sequences}`,
      (sequences / batch.total).toFixed(1),
      `${Math.round(CHUNK / prompt.total)}`,
    ]);
  }
  table(rows);
}

await new Command("roofline")
  .description("tokens per second that GPUs can reach at most: a model, nothing is measured")
  .option("--model <name or file>", `a config.json, or ${Object.keys(shapes).join(", ")}`, "v2")
  .option("--device <name>", `${Object.keys(devices).join(", ")}, or all`, "all")
  .option("--ranks <count>", "GPUs", number, 8)
  .option("--context <tokens>", "cached tokens of each sequence", number, 2048)
  .option("--ops", "each op of the decode steps", false)
  .option("--host <name>", `one GPU, experts in the memory of: ${Object.keys(hosts).join(", ")}`)
  .action(async (options: Options) => {
    const c = await configOf(options.model);
    const chosen = options.device === "all" ? Object.values(devices) : [devices[options.device]];
    if (!chosen[0]) {
      throw new Error(`no device ${options.device}: ${Object.keys(devices).join(", ")}`);
    }
    console.log(
      `${options.model}: ${(parameters(c).total / 1e9).toFixed(1)}B parameters, cache ${
        cacheBytesPerToken(c, "bf16")
      } bytes a token in bf16`,
    );
    if (options.host !== undefined) {
      const host = hosts[options.host];
      if (!host) throw new Error(`no host ${options.host}: ${Object.keys(hosts).join(", ")}`);
      for (const device of chosen) printHybrid(c, device!, host, options.context);
      return console.log("\nData sheets: see bench/roofline/devices.ts. All else is a model.");
    }
    for (const device of chosen) printDevice(c, device!, options);
    console.log(`
Published (DeepSeek-V2, section 3.2.3): above 50K generated and 100K prompt tokens per second on 8 x H800,
fp8 weights, cache of 6 bits; the context is not stated. Data sheets: NVIDIA. All else is a model.`);
  })
  .parseAsync(["deno", "roofline", ...Deno.args]);
