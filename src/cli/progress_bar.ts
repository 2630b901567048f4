/**
 * A progress bar for bytes on a terminal; nothing where the output is no terminal.
 * @module
 */
import process from "node:process";
import { Presets, SingleBar } from "cli-progress";

/** Bytes per MiB, the unit shown. */
const MIB = 1024 * 1024;
/** Work shorter than this shows nothing, milliseconds. */
const DELAY_MS = 300;

/** A bar. */
export interface ProgressBar {
  /** Moves it. @param doneBytes So far. @param totalBytes In all. */
  update(doneBytes: number, totalBytes: number): void;
  /** Takes it away. */
  stop(): void;
}

/**
 * Starts a bar: percentage, MiB, rate and time left.
 *
 * @param label What is going on, for example `Loading`.
 * @returns The bar; it appears when the work takes longer than a moment.
 */
export function progressBar(label: string): ProgressBar {
  if (!process.stderr.isTTY) return { update() {}, stop() {} };
  const began = performance.now();
  const figures =
    "{percentage}% | {doneMiB} of {totalMiB} MiB | {rate} MiB/s | {eta_formatted} left";
  const bar = new SingleBar(
    {
      format: `${label} {bar} ${figures}`,
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
      etaBuffer: 50,
    },
    Presets.shades_classic,
  );
  let started = false;
  return {
    update(doneBytes, totalBytes) {
      const elapsedMs = performance.now() - began;
      if (!started && elapsedMs < DELAY_MS) return;
      const payload = {
        doneMiB: (doneBytes / MIB).toFixed(0),
        totalMiB: (totalBytes / MIB).toFixed(0),
        rate: (doneBytes / MIB / (elapsedMs / 1000)).toFixed(0),
      };
      if (!started) bar.start(totalBytes, doneBytes, payload);
      else bar.update(doneBytes, payload);
      started = true;
    },
    stop() {
      if (started) bar.stop();
    },
  };
}
