/**
 * `deno task bench:chart <output.svg>`: tokens a second of ours and of the rivals, from the newest lines of
 * bench/results/, one bar chart for each kind of work.
 * @module
 */

/** A line of bench/results/. */
// deno-lint-ignore no-explicit-any
type Line = any;

/** A group of bars. */
interface Group {
  label: string;
  bars: { name: string; value: number }[];
}

const WIDTH = 800;
const LABEL_WIDTH = 320;
const BAR_HEIGHT = 16;
const GROUP_GAP = 14;
const COLORS: Record<string, string> = {
  hybridseek: "#2563eb",
  "llama.cpp (native)": "#9ca3af",
  "node-llama-cpp": "#d1a054",
  "wllama (Chromium)": "#c2785c",
  "onnxruntime-node": "#7a9e7e",
};

function lines(bench: string): Line[] {
  try {
    const text = Deno.readTextFileSync(new URL(`results/${bench}.jsonl`, import.meta.url));
    return text.trim().split("\n").map((line) => JSON.parse(line));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** The newest line of each kind. */
function newest(bench: string, kind: (line: Line) => string): Line[] {
  const found = new Map(lines(bench).map((line) => [kind(line), line]));
  return [...found.values()].sort((a, b) => a.layers - b.layers);
}

function groups(): Group[] {
  const bars = (line: Line) => [
    { name: "hybridseek", value: line.ours.tokensPerSecond },
    ...(line.llama ? [{ name: "llama.cpp (native)", value: line.llama.tokensPerSecond }] : []),
  ];
  const plural = (count: number, what: string) => `${count} ${what}${count === 1 ? "" : "s"}`;
  const layersOf = ({ layers }: Line) => plural(layers, "layer");
  const shape = (line: Line) => `${layersOf(line)}, ${plural(line.info.threads, "thread")}`;
  const kind = (line: Line) =>
    [line.layers, line.info.threads, line.context ?? line.tokens, line.hugePages].join();
  const work = ({ layers, work, topK }: Line) => [layers, work, topK].join();
  const rival = (line: Line, name: string, value: number) => [
    { name: "hybridseek", value: line.oursTokensPerSecond },
    { name, value },
  ];
  return [
    ...newest("decode", kind).map((line) => ({
      label: `decode after ${line.context}${line.hugePages === false ? ", 4 KB pages" : ""}, ${
        shape(line)
      }`,
      bars: bars(line),
    })),
    ...newest("prefill", kind).map((line) => ({
      label: `prompt of ${line.tokens}, ${shape(line)}`,
      bars: bars(line),
    })),
    ...newest("node_llama_cpp", work).map((line) => ({
      label: `${line.work} in Deno${line.topK ? `, top ${line.topK}` : ""}, ${layersOf(line)}`,
      bars: rival(line, "node-llama-cpp", line.nodeLlamaCppTokensPerSecond),
    })),
    ...newest("browser", work).map((line) => ({
      label: `${line.work} in Chromium, ${layersOf(line)}`,
      bars: rival(line, "wllama (Chromium)", line.wllamaTokensPerSecond),
    })),
    ...newest("ort", ({ layers }) => String(layers)).map((line) => ({
      label: `decode, same weights, ${layersOf(line)}`,
      bars: rival(line, "onnxruntime-node", line.ortTokensPerSecond),
    })),
  ];
}

/** Bars of a group are drawn relative to its longest: groups differ by orders of magnitude. */
function draw(list: Group[]): string {
  let y = 24;
  const parts: string[] = [];
  const text = (x: number, at: number, words: string, anchor = "start") =>
    parts.push(`<text x="${x}" y="${at}" text-anchor="${anchor}">${words}</text>`);
  for (const { label, bars } of list) {
    const most = Math.max(...bars.map(({ value }) => value));
    text(LABEL_WIDTH, y + 12, label, "end");
    for (const { name, value } of bars) {
      const width = (WIDTH - LABEL_WIDTH - 230) * value / most;
      parts.push(
        `<rect x="${LABEL_WIDTH + 10}" y="${y}" width="${width.toFixed(1)}" height="${
          BAR_HEIGHT - 3
        }" fill="${COLORS[name]}"/>`,
      );
      const digits = value < 10 ? 2 : value < 100 ? 1 : 0;
      text(LABEL_WIDTH + 16 + width, y + 11, `${value.toFixed(digits)} ${name}`);
      y += BAR_HEIGHT;
    }
    y += GROUP_GAP;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y}" ` +
    `viewBox="0 0 ${WIDTH} ${y}" font-family="system-ui, sans-serif" font-size="12">\n` +
    `<rect width="100%" height="100%" fill="white"/>\n` +
    `<text x="10" y="14" font-weight="bold">tokens per second</text>\n` +
    parts.join("\n") + "\n</svg>\n";
}

const [output] = Deno.args;
if (!output) throw new Error("Cannot draw: no file is given; usage: deno task bench:chart <svg>.");
const list = groups();
if (list.length === 0) throw new Error("Cannot draw: bench/results/ is empty; run a bench first.");
await Deno.writeTextFile(output, draw(list));
