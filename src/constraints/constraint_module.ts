/**
 * The WebAssembly module that knows which tokens a constraint allows (`wasm/constraints`), compiled when
 * the first one comes.
 *
 * Every constraint has an instance of its own, whose memory is bounded and begins as a copy of one that
 * has loaded the vocabulary: what one takes or breaks is gone with it.
 * @module
 */
import { CapacityError, InvalidArgumentError, UnsupportedError } from "../errors.ts";
import { wasmModule } from "../wasm_module.ts";
import type { ResolvedStructuredOutputs } from "./structured_outputs.ts";

/** What `wasm/constraints/src/lib.rs` exports; pointers are byte offsets into `memory`. */
interface ConstraintExports {
  readonly memory: WebAssembly.Memory;
  reserve(bytes: number): number;
  message(): number;
  message_length(): number;
  load_vocabulary(tokens: number, ends: number): number;
  compile(kind: number, bytes: number): number;
  begin(): number;
  end(matcher: number): void;
  mask(matcher: number): number;
  take(matcher: number, token: number): number;
}

/** What a text is held to: what a caller asks for, or calls of functions (see `calls` in `wasm/constraints`). */
export interface ConstraintSource {
  /** Which of them. */
  readonly kind: ResolvedStructuredOutputs["kind"] | "calls";
  /** It as text. */
  readonly text: string;
}

/** As `compile` numbers them. */
const KINDS: readonly ConstraintSource["kind"][] = ["json", "regex", "choice", "grammar", "calls"];
const PAGE = 65_536;
/** Reasons of llguidance's that name its own options or nothing. */
const REASONS: [RegExp, string][] = [
  [/^NoExtensionBias/, "no text can ever be complete under it"],
  [
    /^oneOf constraints are not supported/,
    "oneOf is supported only where its options are of different types or differ in a required " +
    "constant; use anyOf",
  ],
  [/^Only absolute \$ref/, "a $ref must begin with #/"],
];

/** A memory that has loaded a vocabulary. */
export interface VocabularyImage {
  /** The memory's bytes. */
  readonly memory: Uint8Array;
  /** Words of a mask. */
  readonly words: number;
}

/**
 * Loads a vocabulary.
 *
 * @param tokens The bytes of each token; one without bytes never comes.
 * @param ends Ids of the tokens that end a text, at least one.
 * @returns What every constraint begins with.
 */
export async function loadVocabulary(
  tokens: readonly Uint8Array[],
  ends: readonly number[],
): Promise<VocabularyImage> {
  const wasm = await instantiate();
  const words = tokens.length + ends.length;
  const bytes = tokens.reduce((sum, { length }) => sum + length, words * 4);
  const input = wasm.reserve(bytes);
  const numbers = new Uint32Array(wasm.memory.buffer, input, words);
  numbers.set(tokens.map(({ length }) => length));
  numbers.set(ends, tokens.length);
  const list = new Uint8Array(wasm.memory.buffer, input, bytes);
  let at = words * 4;
  for (const token of tokens) {
    list.set(token, at);
    at += token.length;
  }
  if (!wasm.load_vocabulary(tokens.length, ends.length)) throw new Error(messageOf(wasm));
  return {
    memory: new Uint8Array(wasm.memory.buffer).slice(),
    words: Math.ceil(tokens.length / 32),
  };
}

/** A compiled constraint. */
export class Constraint {
  /** Whether it failed: no text can go on under it. */
  broken = false;
  readonly #wasm: ConstraintExports;
  readonly #words: number;

  private constructor(wasm: ConstraintExports, words: number) {
    this.#wasm = wasm;
    this.#words = words;
  }

  /**
   * Compiles.
   *
   * @param image Of the vocabulary.
   * @param outputs What outputs must be.
   * @returns The constraint.
   * @throws {InvalidArgumentError} If it is malformed, asks for what can not be kept to, or is over a limit
   *   on memory or work.
   * @throws {CapacityError} If there is no memory for it.
   */
  static async compile(
    image: VocabularyImage,
    { kind, text }: ConstraintSource,
  ): Promise<Constraint> {
    const wasm = await instantiate(image.memory);
    const constraint = new Constraint(wasm, image.words);
    constraint.#run(() => {
      const bytes = new TextEncoder().encode(text);
      const input = wasm.reserve(bytes.length);
      new Uint8Array(wasm.memory.buffer).set(bytes, input);
      return wasm.compile(KINDS.indexOf(kind), bytes.length);
    });
    return constraint;
  }

  /** Begins a text. @returns Where it stands. @throws {InvalidArgumentError} If there is no memory left. */
  begin(): Matcher {
    const matcher = this.#run(() => this.#wasm.begin());
    return {
      allowed: () => {
        const mask = this.#run(() => this.#wasm.mask(matcher));
        return new Uint32Array(this.#wasm.memory.buffer, mask, this.#words);
      },
      take: (tokenId) => void this.#run(() => this.#wasm.take(matcher, tokenId)),
      end: () => {
        if (!this.broken) this.#wasm.end(matcher);
      },
    };
  }

  /** Runs what returns 0 where it fails. */
  #run(call: () => number): number {
    let reason = "another text that it constrains failed";
    if (!this.broken) {
      try {
        const result = call();
        if (result !== 0) return result;
        reason = messageOf(this.#wasm);
      } catch (error) {
        if (!(error instanceof WebAssembly.RuntimeError || error instanceof RangeError)) {
          throw error;
        }
        this.broken = true;
        reason = "it takes more than 64 MiB of memory, or llguidance fails at it";
      }
    }
    throw new InvalidArgumentError(
      "structuredOutputs",
      `Cannot use structuredOutputs: ${reason}; correct or simplify it.`,
    );
  }
}

/** Where a text stands under a constraint. */
export interface Matcher {
  /**
   * Tokens that may come next.
   * @returns A bit for each, see `SamplingRequest.allowed`; valid until anything of the constraint is called.
   * @throws {InvalidArgumentError} If finding out takes too much work.
   */
  allowed(): Uint32Array;
  /** Goes on. @param tokenId A token that was allowed. */
  take(tokenId: number): void;
  /** Ends the text. */
  end(): void;
}

/** An instance, whose memory begins with `contents`. */
async function instantiate(contents?: Uint8Array): Promise<ConstraintExports> {
  let embedded: string;
  try {
    ({ embedded } = await import("../../wasm/dist/constraints.ts"));
  } catch (cause) {
    throw new UnsupportedError(
      "Cannot constrain output: the module that does it could not be loaded; see the cause.",
      { cause },
    );
  }
  try {
    const instance = new WebAssembly.Instance(wasmModule("constraints", embedded));
    const wasm = instance.exports as unknown as ConstraintExports;
    if (contents) {
      wasm.memory.grow((contents.length - wasm.memory.buffer.byteLength) / PAGE);
      new Uint8Array(wasm.memory.buffer).set(contents);
    }
    return wasm;
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new CapacityError(
      "out_of_memory",
      "Cannot constrain output: there is no memory for another constraint; try again when fewer are in use.",
      { cause },
    );
  }
}

/** llguidance's reason, in a line. */
function messageOf(wasm: ConstraintExports): string {
  const bytes = new Uint8Array(wasm.memory.buffer, wasm.message(), wasm.message_length());
  const text = new TextDecoder().decode(bytes).replace("<non-verbose/>", "")
    .replace(/\s+/g, " ").trim().replace(/\.$/, "");
  const known = REASONS.find(([pattern]) => pattern.test(text));
  return known?.[1] ?? (text.length > 400 ? `${text.slice(0, 400)}...` : text);
}
