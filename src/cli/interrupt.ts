/**
 * Ctrl-C: the first stops what is running, in order; the second ends the program at once.
 * @module
 */
import process from "node:process";

let stopped = false;

/** Whether Ctrl-C has ended the command. @returns True if so. */
export function interrupted(): boolean {
  return stopped;
}

/**
 * Runs work that Ctrl-C stops.
 *
 * @param work Given the signal that Ctrl-C aborts.
 * @param ends Whether Ctrl-C ends the whole command (the exit code says so), or only this work.
 * @returns The work's result; `undefined` if it was stopped.
 */
export async function interruptible<T>(
  work: (signal: AbortSignal) => Promise<T>,
  ends = true,
): Promise<T | undefined> {
  const controller = new AbortController();
  const onInterrupt = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
  };
  process.on("SIGINT", onInterrupt);
  try {
    return await work(controller.signal);
  } catch (error) {
    if (!controller.signal.aborted) throw error;
    stopped ||= ends;
    return undefined;
  } finally {
    process.off("SIGINT", onInterrupt);
  }
}
