/**
 * Results of benches: JSON lines, printed and kept under bench/results/.
 * @module
 */
import { machine } from "./machine.ts";
import { rounded } from "./statistics.ts";

/** The commit that was measured, with `+` where files differ from it; empty outside of a checkout. */
async function commit(): Promise<string> {
  const git = async (...args: string[]) => {
    const cwd = new URL(".", import.meta.url);
    const { stdout } = await new Deno.Command("git", { args, cwd, stderr: "null" }).output();
    return new TextDecoder().decode(stdout).trim();
  };
  try {
    const changed = await git("status", "--porcelain", "--untracked-files=no");
    return await git("rev-parse", "--short=12", "HEAD") + (changed ? "+" : "");
  } catch {
    return "";
  }
}

/** Appends results of one bench to its file. */
export class Results {
  readonly #bench: string;
  readonly #shared: Record<string, unknown>;

  private constructor(bench: string, shared: Record<string, unknown>) {
    this.#bench = bench;
    this.#shared = shared;
  }

  /**
   * Begins a run.
   *
   * @param bench Names the file.
   * @param shared Fields that all lines of the run have, for example the probed limits.
   * @returns The run; machine, its load, commit and time are added to every line.
   */
  static async begin(bench: string, shared: Record<string, unknown>): Promise<Results> {
    const time = new Date().toISOString().slice(0, 19) + "Z";
    const loadAverage = Deno.loadavg()[0]; // above the cores: others were computing too
    const about = { time, commit: await commit(), loadAverage, ...machine() };
    return new Results(bench, { ...shared, ...about });
  }

  /** Adds a line. @param fields Its own fields. */
  add(fields: Record<string, unknown>): void {
    const line = JSON.stringify({ bench: this.#bench, ...fields, ...this.#shared }, short);
    const folder = new URL("results/", import.meta.url);
    Deno.mkdirSync(folder, { recursive: true });
    Deno.writeTextFileSync(new URL(`${this.#bench}.jsonl`, folder), line + "\n", { append: true });
    console.log(line);
  }
}

/** Measured numbers have no more digits than they deserve. */
function short(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? rounded(value) : value;
}
