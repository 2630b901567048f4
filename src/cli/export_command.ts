import process from "node:process";
import { type Command, Option } from "commander";
import { interruptible } from "./interrupt.ts";
import { progressBar } from "./progress_bar.ts";
import { toJson } from "./standard_streams.ts";
import type { Weights } from "../../export-tools/quantization/recipe.ts";

interface ExportCommandOptions {
  weights: Weights;
  force?: boolean;
  json?: true;
}

/** Adds `hybridseek export`. @param program To this program. */
export function addExportCommand(program: Command): void {
  program.command("export")
    .description("Make a package of a Hugging Face checkpoint.")
    .argument("<checkpoint>", "folder with config.json and safetensors files")
    .argument("<package>", "folder to be made")
    .addOption(
      new Option("-w, --weights <format>", "how weights are stored")
        .choices(["f32", "f16", "int8", "int4"]).default("int8"),
    )
    .option("--force", "replace a package that is there already")
    .option("--json", "print what was made as JSON")
    .action(exportPackage);
}

async function exportPackage(
  checkpoint: string,
  folder: string,
  { weights, force, json }: ExportCommandOptions,
) {
  await interruptible(async (signal) => {
    const { exportCheckpoint } = await import("../../export-tools/export_checkpoint.ts");
    const bar = progressBar("Exporting");
    try {
      const result = await exportCheckpoint(checkpoint, folder, {
        weights,
        overwrite: force,
        signal,
        onProgress: ({ doneBytes, totalBytes }) => bar.update(doneBytes, totalBytes),
      });
      bar.stop();
      const mib = (result.bytes / 2 ** 20).toFixed(1);
      const text = `${result.folder}: ${result.architecture}, ${result.weights}, ${mib} MiB`;
      process.stdout.write((json ? toJson(result) : text) + "\n");
    } finally {
      bar.stop();
    }
  });
}
