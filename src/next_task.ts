/**
 * Giving way: timers, signals and other events run before the promise resolves, so that a long row of
 * computed steps can be stopped. `setTimeout` would wait a millisecond or more.
 * @module
 */

/** Resolves in a later task of the event loop. @returns A promise of nothing. */
export function nextTask(): Promise<void> {
  const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => unknown };
  if (setImmediate) return new Promise((resolve) => setImmediate(() => resolve()));
  if (typeof MessageChannel === "undefined") return new Promise((resolve) => setTimeout(resolve));
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
