import { strict as assert } from "node:assert";
import fc from "fast-check";
import { lookUp } from "../../src/engine/prompt_lookup.ts";

const lookup = { numTokens: 4, ngramMin: 2, ngramMax: 3 };

Deno.test("lookUp() gives what followed the longest match, of equal ones the latest", () => {
  assert.deepEqual(lookUp([1, 2, 3, 4, 5, 1, 2], 9, lookup), [3, 4, 5, 1]);
  assert.deepEqual(lookUp([1, 2, 3, 4, 5, 1, 2], 2, lookup), [3, 4], "no more than may be");
  assert.deepEqual(lookUp([1, 2, 8, 0, 1, 2, 9, 0, 1, 2], 1, lookup), [9], "3 tokens, not 2");
  assert.deepEqual(lookUp([1, 2, 8, 3, 1, 2, 9, 4, 1, 2], 1, lookup), [9], "the latest");
  assert.deepEqual(lookUp([7, 7, 7], 9, lookup), [7], "it may overlap, and ends with the sequence");
  assert.deepEqual(lookUp([1, 2, 3, 4, 2], 9, lookup), [], "one token is too few");
  assert.deepEqual(lookUp([1], 9, lookup), []);
});

Deno.test("lookUp() agrees with trying every length and place", () => {
  const sequences = fc.array(fc.nat(2), { minLength: 1, maxLength: 30 });
  const counts = fc.record({
    numTokens: fc.integer({ min: 1, max: 5 }),
    ngramMin: fc.integer({ min: 1, max: 3 }),
    ngramMax: fc.integer({ min: 3, max: 5 }),
  });
  fc.assert(fc.property(sequences, counts, (tokenIds, counts) => {
    let want: number[] = [];
    search: for (let length = counts.ngramMax; length >= counts.ngramMin; length--) {
      const tail = tokenIds.slice(-length);
      if (tail.length < length) continue;
      for (let end = tokenIds.length - 1; end >= length; end--) {
        if (tokenIds.slice(end - length, end).join() !== tail.join()) continue;
        want = tokenIds.slice(end, end + counts.numTokens);
        break search;
      }
    }
    assert.deepEqual(lookUp(tokenIds, 99, counts), want);
  }));
});
