/**
 * The tokens that steer a model, and where they stand in a text that its user may have written parts of.
 * @module
 */

/** An entry of tokenizer.json's `added_tokens`, as far as it matters here. */
interface AddedToken {
  content: string;
  special: boolean;
}

/** A control token in a text. */
export interface ControlMatch {
  /** Its first UTF-16 unit. */
  begin: number;
  /** Behind its last. */
  end: number;
  /** Its text. */
  token: string;
}

/**
 * Tokens that steer a model: those that tokenizer.json calls special, and other added ones in angle brackets,
 * as `<｜User｜>` is in some of the family's files. Added tokens such as `ö` are text like any other.
 */
export class ControlTokens {
  /** Finds a character with which one begins or ends, as UTF-16 units. */
  readonly edges: RegExp;
  /** Their texts. */
  readonly contents: readonly string[];
  readonly #all: Finder;
  /** Those that are not special: a tokenizer finds them in any text. */
  readonly #unspecial: Finder;

  /** @param json The text of a tokenizer.json that was accepted. */
  constructor(json: string) {
    const tokens = addedTokens(json).filter(({ content, special }) =>
      content !== "" && (special || /^<.+>$/s.test(content))
    );
    const contents = tokens.map(({ content }) => content);
    this.contents = contents;
    this.#all = new Finder(contents);
    this.#unspecial = new Finder(tokens.filter(({ special }) => !special).map((t) => t.content));
    const units = new Set(contents.flatMap((token) => [token[0]!, token.at(-1)!]));
    const escaped = [...units].map((unit) =>
      `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`
    );
    this.edges = new RegExp(`[${escaped.join("")}]`, "g");
  }

  /**
   * Control tokens in a text, from left to right; of several that begin together the longest.
   *
   * @param text The text.
   * @param counts Whether one counts where it stands.
   * @returns They; none overlaps another.
   */
  find(text: string, counts: (match: ControlMatch) => boolean): ControlMatch[] {
    return this.#all.find(text, counts);
  }

  /**
   * Cuts a text so that no piece holds a control token which a tokenizer would find even if told not to look
   * for special tokens.
   *
   * @param text The text.
   * @returns The pieces; nearly always one.
   */
  cut(text: string): string[] {
    const pieces: string[] = [];
    let from = 0;
    for (const { begin } of this.#unspecial.find(text, () => true)) {
      pieces.push(text.slice(from, begin + 1)); // behind the "<"
      from = begin + 1;
    }
    pieces.push(text.slice(from));
    return pieces;
  }
}

/** Finds strings in a text; each place costs as many look-ups as they have lengths. */
class Finder {
  readonly #strings: ReadonlySet<string>;
  readonly #firsts: ReadonlySet<string>;
  /** The longest first. */
  readonly #lengths: readonly number[];

  constructor(strings: readonly string[]) {
    this.#strings = new Set(strings);
    this.#firsts = new Set(strings.map((string) => string[0]!));
    this.#lengths = [...new Set(strings.map(({ length }) => length))].sort((a, b) => b - a);
  }

  find(text: string, counts: (match: ControlMatch) => boolean): ControlMatch[] {
    const matches: ControlMatch[] = [];
    for (let begin = 0; begin < text.length; begin++) {
      if (!this.#firsts.has(text[begin]!)) continue;
      const token = this.#at(text, begin);
      if (token === undefined) continue;
      const end = begin + token.length;
      const match = { begin, end, token };
      if (!counts(match)) continue;
      matches.push(match);
      begin = end - 1;
    }
    return matches;
  }

  /** The longest string at a place. */
  #at(text: string, begin: number): string | undefined {
    for (const length of this.#lengths) {
      const string = text.slice(begin, begin + length);
      if (this.#strings.has(string)) return string;
    }
    return undefined;
  }
}

/** The list in the file, without reading the rest, which takes megabytes. */
function addedTokens(json: string): AddedToken[] {
  const start = /"added_tokens"\s*:\s*(?=\[)/.exec(json);
  if (!start) return JSON.parse(json).added_tokens ?? [];
  const begin = start.index + start[0].length;
  let depth = 0;
  for (let at = begin; at < json.length; at++) {
    const character = json[at];
    if (character === '"') {
      while (json[++at] !== '"') if (json[at] === "\\") at++;
    } else if (character === "[") depth++;
    else if (character === "]" && --depth === 0) return JSON.parse(json.slice(begin, at + 1));
  }
  return [];
}
