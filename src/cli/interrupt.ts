/**
 * Ctrl-C and SIGTERM: the first stops what is running, in order; the second ends the program at once.
 * @module
 */
import process from "node:process";

/** Exit codes, as shells use them: 128 and the signal's number. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

let exitCode: number | undefined;

/** Whether a signal has ended the command. @returns The exit code that says so, else `undefined`. */
export function interrupted(): number | undefined {
  return exitCode;
}

/**
 * Runs work that Ctrl-C and SIGTERM stop.
 *
 * @param work Given the signal that they abort.
 * @param ends Whether Ctrl-C ends the whole command (the exit code says so), or only this work; then SIGTERM
 *   ends the program at once.
 * @returns The work's result; `undefined` if it was stopped.
 */
export async function interruptible<T>(
  work: (signal: AbortSignal) => Promise<T>,
  ends = true,
): Promise<T | undefined> {
  const controller = new AbortController();
  let code: number | undefined;
  const names = ends ? ["SIGINT", "SIGTERM"] as const : ["SIGINT"] as const;
  const listeners = names.map((name) => {
    const listener = () => {
      code = EXIT_CODES[name];
      if (controller.signal.aborted) process.exit(code);
      controller.abort();
    };
    return [name, listener] as const;
  });
  for (const [name, listener] of listeners) process.on(name, listener);
  try {
    return await work(controller.signal);
  } catch (error) {
    if (code === undefined) throw error;
    if (ends) exitCode ??= code;
    return undefined;
  } finally {
    for (const [name, listener] of listeners) process.off(name, listener);
  }
}
