/**
 * `hybridseek serve` as a process of its own.
 * @module
 */

/** How it is started. */
export interface StartOptions {
  /** Arguments beside the port, which is a free one. */
  args?: string[];
  /** Environment. */
  env?: Record<string, string>;
  /** Program and arguments that come before `serve`; by default this checkout in Deno. */
  program?: string[];
  /** Folder it runs in. */
  cwd?: string;
}

/** A server that runs. */
export interface ServerProcess extends AsyncDisposable {
  /** The process. */
  child: Deno.ChildProcess;
  /** Where it listens, for example `http://127.0.0.1:4321`. */
  address: string;
  /** What it printed when it began to listen. */
  printed: string;
  /** Waits until it has written something to its error output. */
  stderrMatches(pattern: RegExp): Promise<void>;
}

const repository = new URL("../../", import.meta.url).pathname;
const deno = [
  ...[Deno.execPath(), "run", "--quiet", "--allow-all"],
  `${repository}src/cli/main.ts`,
];

/**
 * Starts it.
 *
 * @param options How.
 * @returns It, listening.
 * @throws {Error} With its error output, if it ends before it listens.
 */
export async function start(options: StartOptions = {}): Promise<ServerProcess> {
  const { args = [], env = {}, program: [command, ...first] = deno, cwd = repository } = options;
  const child = new Deno.Command(command!, {
    args: [...first, "serve", "--port", "0", ...args],
    ...{ env, cwd, stdin: "null", stdout: "piped", stderr: "piped" },
  }).spawn();
  const errors = collect(child.stderr);
  const prints = collect(child.stdout);
  const kill = async () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await Promise.all([child.status, errors.ended, prints.ended]);
  };
  const listens = await prints.matches(/listening on (\S+),.*\n/);
  if (!listens) {
    await kill();
    throw new Error(errors.text());
  }
  return {
    ...{ child, address: listens[1]!, printed: prints.text() },
    async stderrMatches(pattern) {
      if (!await errors.matches(pattern)) throw new Error(`not ${pattern}: ${errors.text()}`);
    },
    [Symbol.asyncDispose]: kill,
  };
}

/** Collects what a process writes. */
function collect(stream: ReadableStream<Uint8Array<ArrayBuffer>>) {
  let [text, over] = ["", false];
  let wake = () => {};
  let news = new Promise<void>((resolve) => wake = resolve);
  const changed = () => {
    wake();
    news = new Promise<void>((resolve) => wake = resolve);
  };
  const ended = (async () => {
    for await (const piece of stream.pipeThrough(new TextDecoderStream())) {
      text += piece;
      changed();
    }
    over = true;
    changed();
  })();
  return {
    ended,
    text: () => text,
    async matches(pattern: RegExp) {
      for (;;) {
        const match = pattern.exec(text);
        if (match || over) return match;
        await news;
      }
    },
  };
}
