import process from "node:process";
import type { Command } from "commander";
import { inspectPackage, type PackageReport } from "../inspect.ts";
import { number } from "./model_options.ts";
import { sizeText } from "./size_text.ts";
import { toJson } from "./standard_streams.ts";

/** Adds `hybridseek inspect`. @param program To this program. */
export function addInspectCommand(program: Command): void {
  program.command("inspect")
    .description("Print what a package holds and what it needs.")
    .argument("[package]", "folder or address of an exported model (default: embedded)")
    .option("--context <tokens>", "a context to count memory for (default: the model's)", number)
    .option("--json", "print JSON")
    .action(async (location: string | undefined, options: { context?: number; json?: true }) => {
      const report = await inspectPackage(location, { contextLength: options.context });
      process.stdout.write(options.json ? toJson(report) + "\n" : describe(report));
    });
}

function describe(report: PackageReport): string {
  const { memory, cache } = report;
  const rows: [label: string, value: string][] = [
    ["package", report.address],
    ["architecture", report.architecture],
    [
      "layers",
      `${report.layers}${report.expertLayers ? `, ${report.expertLayers} with experts` : ""}`,
    ],
    ["vocabulary", String(report.vocabSize)],
    ["context", `${report.contextLength} tokens`],
    ["parameters", count(report.parameters)],
    ["weights", `${report.weights}, ${sizeText(report.weightBytes)}`],
    ...Object.entries(report.bytesByType).map(([type, bytes]): [string, string] => [
      `  ${type}`,
      sizeText(bytes),
    ]),
    ["cache per token", `${cache.bytesPerToken} B (${cache.kind})`],
  ];
  if (cache.expandedBytesPerToken !== undefined) {
    const ratio = (cache.expandedBytesPerToken / cache.bytesPerToken).toFixed(1);
    rows.push([
      "  expanded K and V",
      `${cache.expandedBytesPerToken} B in the same precision, ${ratio} x as much`,
    ]);
  }
  rows.push([`memory, ${memory.contextLength} tokens`, sizeText(memory.totalBytes)]);
  rows.push(["  weights", sizeText(memory.weightBytes)], ["  cache", sizeText(memory.cacheBytes)]);
  rows.push(["  steps and loading", sizeText(memory.workBytes)]);
  const width = Math.max(...rows.map(([label]) => label.length));
  const lines = rows.map(([label, value]) => `${label.padEnd(width)}  ${value}`);
  const shapes = report.tensors.map(({ name, type, dims }) =>
    `  ${name}  ${type} [${dims.join(", ")}]`
  );
  return [
    ...lines,
    "",
    `tensors of layer ${report.tensorsOfLayer}, and those of no layer`,
    ...shapes,
  ]
    .join("\n") + "\n";
}

function count(parameters: number): string {
  if (parameters < 1e9) return `${(parameters / 1e6).toFixed(1)} M`;
  return `${(parameters / 1e9).toFixed(1)} B`;
}
