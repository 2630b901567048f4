/**
 * The command line: `hybridseek generate | chat | serve | export | inspect | bench | gpu`.
 * @module
 */
import { realpathSync } from "node:fs";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { Command, CommanderError } from "commander";
import { HybridseekError } from "../errors.ts";
import { VERSION } from "../version.ts";
import { addBenchCommand } from "./bench_command.ts";
import { addChatCommand } from "./chat_command.ts";
import { addExportCommand } from "./export_command.ts";
import { addGenerateCommand } from "./generate_command.ts";
import { addGpuCommand } from "./gpu_command.ts";
import { addInspectCommand } from "./inspect_command.ts";
import { interrupted } from "./interrupt.ts";
import { addServeCommand } from "./serve_command.ts";

/** Exit codes, as shells use them: 141 is 128 + SIGPIPE. */
const FAILED = 1;
const MISUSED = 2;
const UNREAD = 141;

/**
 * Runs the command line.
 *
 * @param args Arguments after the program's name.
 * @returns The exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
 */
export async function main(args: readonly string[]): Promise<number> {
  const program = new Command("hybridseek")
    .description("Runs the DeepSeek-V2 family anywhere JavaScript runs.")
    .version(VERSION)
    .showHelpAfterError("(hybridseek --help shows what there is)")
    .exitOverride();
  addGenerateCommand(program);
  addChatCommand(program);
  addServeCommand(program);
  addExportCommand(program);
  addInspectCommand(program);
  addBenchCommand(program);
  addGpuCommand(program);
  try {
    await program.parseAsync([...args], { from: "user" });
    return interrupted() ?? Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : MISUSED;
    const stopped = interrupted();
    if (stopped !== undefined) return stopped;
    if (!(error instanceof HybridseekError)) throw error;
    process.stderr.write(`error: ${error.message}\n`);
    return FAILED;
  }
}

/** Whether this module is the program; `import.meta.main` is newer than Node 20. */
function isProgram(): boolean {
  if (import.meta.main !== undefined) return import.meta.main;
  const path = process.argv[1];
  return path !== undefined && pathToFileURL(realpathSync(path)).href === import.meta.url;
}

if (isProgram()) {
  // `hybridseek generate | head`: nobody reads on, which is no failure to report.
  process.stdout.on("error", (error: Error & { code?: string }) => {
    if (error.code === "EPIPE") process.exit(UNREAD);
    throw error;
  });
  process.exitCode = await main(process.argv.slice(2));
}
