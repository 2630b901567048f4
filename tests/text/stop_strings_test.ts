import { strict as assert } from "node:assert";
import fc from "fast-check";
import { InvalidArgumentError } from "../../src/errors.ts";
import { StopStrings } from "../../src/text/stop_strings.ts";

/** Pushes pieces until one stops; what was returned, and by which stop string. */
function run(stops: string[], pieces: string[], includeStopString = false) {
  const matcher = new StopStrings(stops, { includeStopString });
  const shown: string[] = [];
  for (const piece of pieces) {
    const { text, stop } = matcher.push(piece);
    shown.push(text);
    if (stop !== undefined) return { shown, stop };
  }
  const { text, stop } = matcher.finish();
  shown.push(text);
  return { shown, stop };
}

/** By definition: the occurrence that begins first, of those the one listed first. */
function stopNaively(stops: string[], text: string, includeStopString: boolean) {
  let best: { start: number; stop: string } | undefined;
  for (const stop of stops) {
    const start = text.indexOf(stop);
    if (start >= 0 && (!best || start < best.start)) best = { start, stop };
  }
  if (!best) return { text, stop: undefined };
  const end = best.start + (includeStopString ? best.stop.length : 0);
  return { text: text.slice(0, end), stop: best.stop };
}

Deno.test("push() holds back only a suffix that could begin a stop string", () => {
  assert.deepEqual(run(["</s>"], ["a<", "/b<", "/s", ">c"]), {
    shown: ["a", "</b", "", ""],
    stop: "</s>",
  });
});

Deno.test("finish() gives out what was held back", () => {
  assert.deepEqual(run(["stop"], ["a sto"]), { shown: ["a ", "sto"], stop: undefined });
});

Deno.test("the occurrence that begins first wins, though another ends before", () => {
  assert.deepEqual(run(["bc", "abcd"], ["xab", "c", "de"]), { shown: ["x", "", ""], stop: "abcd" });
  // The longer one is not completed: the shorter one that began later counts.
  assert.deepEqual(run(["bc", "abcd"], ["xab", "c", "x"]), { shown: ["x", "", "a"], stop: "bc" });
  assert.deepEqual(run(["bc", "abcd"], ["xab", "c"]), { shown: ["x", "", "a"], stop: "bc" });
});

Deno.test("of two that begin together the one listed first wins", () => {
  assert.deepEqual(run(["ab", "abc"], ["abc"]), { shown: [""], stop: "ab" });
  assert.deepEqual(run(["abc", "ab"], ["ab", "c"]), { shown: ["", ""], stop: "abc" });
  assert.deepEqual(run(["abc", "ab"], ["ab", "x"]), { shown: ["", ""], stop: "ab" });
});

Deno.test("includeStopString ends the text with the stop string", () => {
  assert.deepEqual(run(["END"], ["a E", "NDx"], true), { shown: ["a ", "END"], stop: "END" });
});

Deno.test("after a stop string nothing more is given out", () => {
  const matcher = new StopStrings(["x"]);
  assert.deepEqual(matcher.push("axb"), { text: "a", stop: "x" });
  assert.deepEqual(matcher.push("c"), { text: "" });
  assert.deepEqual(matcher.finish(), { text: "" });
});

Deno.test("without stop strings everything passes at once", () => {
  assert.deepEqual(run([], ["a", "b"]), { shown: ["a", "b", ""], stop: undefined });
});

Deno.test("an empty stop string is refused", () => {
  assert.throws(() => new StopStrings(["a", ""]), InvalidArgumentError);
});

Deno.test("any cut into pieces gives what the whole text gives by definition", () => {
  const word = (maxLength: number) =>
    fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength });
  const stops = fc.array(word(5).filter((stop) => stop !== ""), { maxLength: 4 });
  fc.assert(
    fc.property(
      stops,
      fc.array(word(6), { maxLength: 12 }),
      fc.boolean(),
      (stops, pieces, include) => {
        const { shown, stop } = run(stops, pieces, include);
        assert.deepEqual(
          { text: shown.join(""), stop },
          stopNaively(stops, pieces.join(""), include),
        );
      },
    ),
    { numRuns: 20_000, seed: 1 },
  );
});

Deno.test("text is given out no later than the definition allows", () => {
  const word = (maxLength: number) => fc.string({ unit: fc.constantFrom("a", "b"), maxLength });
  fc.assert(
    fc.property(word(4).filter((stop) => stop !== ""), word(20), (stop, text) => {
      if (text.includes(stop)) return;
      const held = text.length - new StopStrings([stop]).push(text).text.length;
      let longest = 0;
      for (let n = 1; n < stop.length; n++) if (text.endsWith(stop.slice(0, n))) longest = n;
      assert.equal(held, longest);
    }),
    { numRuns: 5000, seed: 1 },
  );
});
