/**
 * Calls whose arguments are held to their schemas, where a function is `strict`.
 * @module
 */
import { InvalidArgumentError } from "../errors.ts";
import type { FunctionTool, ToolFormat } from "../text/tool_format.ts";
import type { Constraints, HeldConstraint } from "./constraints.ts";
import type { Matcher } from "./constraint_module.ts";
import { type ResolvedStructuredOutputs, schemaTextOf } from "./structured_outputs.ts";

/**
 * What a call is from its separator to its end: the name of a function, and its arguments in a fence.
 *
 * @param tools The functions; those that are not strict take any object.
 * @returns The grammar; `undefined` if none is strict.
 * @throws {InvalidArgumentError} If a schema is none, or over a limit.
 */
export function grammarOfCalls(
  tools: readonly FunctionTool[],
): ResolvedStructuredOutputs | undefined {
  if (!tools.some(({ function: { strict } }) => strict)) return undefined;
  const rules = tools.map(({ function: { name, parameters, strict } }, i) => {
    const schema = schemaTextOf(strict ? parameters ?? NO_ARGUMENTS : { type: "object" });
    if (schema === undefined) {
      const field = `tools[${i}].function.parameters`;
      throw new InvalidArgumentError(
        field,
        `Cannot use ${field}: strict wants a JSON schema within the limits of structuredOutputs.`,
      );
    }
    const begin = JSON.stringify(`${name}\n\`\`\`json\n`);
    return `call${i}: ${begin} arguments${i} "\\n\`\`\`"\narguments${i}: %json ${spaced(schema)}\n`;
  });
  const calls = tools.map((_, i) => `call${i}`).join(" | ");
  return { kind: "grammar", text: `start: ${calls}\n${rules.join("")}` };
}

const NO_ARGUMENTS = { type: "object", properties: {}, additionalProperties: false };

/** A schema with the bounds on white space that `wasm/constraints` gives one that stands alone. */
function spaced(schema: string): string {
  const whitespace_pattern = "\\x20{1,2}|\\r?\\n[\\x20\\x09]{0,64}";
  return JSON.stringify({ ...JSON.parse(schema), "x-guidance": { whitespace_pattern } });
}

/**
 * Compiles what calls are held to.
 *
 * @param constraints Of the model.
 * @param grammar Of {@linkcode grammarOfCalls}.
 * @returns What texts begin under; the caller releases it.
 * @throws {InvalidArgumentError} If a schema asks for what can not be kept to. Otherwise as
 *   {@linkcode Constraints.hold} does.
 */
export async function holdCalls(
  constraints: Constraints,
  grammar: ResolvedStructuredOutputs,
): Promise<HeldConstraint> {
  try {
    return await constraints.hold(grammar);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    const message = error.message.replace("structuredOutputs", "strict functions");
    throw new InvalidArgumentError("tools", message, { cause: error });
  }
}

/** Where one choice's calls stand. */
export class CallConstraint {
  readonly #held: HeldConstraint;
  readonly #format: ToolFormat;
  readonly #ends: readonly number[];
  #named = false;
  /** Of the call that is being written. */
  #matcher: Matcher | undefined;

  /**
   * @param held What a call is held to.
   * @param format How calls are written.
   * @param ends Tokens that end a text.
   * @param begun Tokens of the answer that the prompt has.
   */
  constructor(
    held: HeldConstraint,
    format: ToolFormat,
    ends: readonly number[],
    begun: readonly number[],
  ) {
    this.#held = held;
    this.#format = format;
    this.#ends = ends;
    for (const tokenId of begun) this.take(tokenId);
  }

  /** Tokens that may come next. @returns As {@linkcode Matcher.allowed}; `undefined`: all. */
  allowed(): Uint32Array | undefined {
    const allowed = this.#matcher?.allowed();
    if (!allowed || !this.#ends.some((id) => allowed[id >> 5]! >>> (id & 31) & 1)) return allowed;
    // The call is whole: its token must end it, and not the text.
    const { callEnd } = this.#format;
    const end = new Uint32Array(allowed.length);
    end[callEnd >> 5] = 1 << (callEnd & 31);
    return end;
  }

  /** Goes on. @param tokenId What came. */
  take(tokenId: number): void {
    const marker = this.#format.markers.get(tokenId);
    if (marker === undefined) return this.#matcher?.take(tokenId);
    this.#matcher = marker === "separator" && this.#named ? this.#held.begin() : undefined;
    this.#named = marker === "callBegin";
  }
}
