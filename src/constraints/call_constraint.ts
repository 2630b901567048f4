/**
 * Calls whose arguments are held to their schemas, where a function is `strict`.
 * @module
 */
import { InvalidArgumentError } from "../errors.ts";
import type { FunctionTool, ToolFormat } from "../text/tool_format.ts";
import type { Constraints, HeldConstraint } from "./constraints.ts";
import type { ConstraintSource, Matcher } from "./constraint_module.ts";
import { schemaTextOf } from "./structured_outputs.ts";

/**
 * What a call is from its separator to its end: the name of a function, and its arguments in a fence.
 *
 * @param tools The functions; those that are not strict take any object.
 * @returns What a call is held to; `undefined` if none is strict.
 * @throws {InvalidArgumentError} If a schema is none, or over a limit.
 */
export function sourceOfCalls(tools: readonly FunctionTool[]): ConstraintSource | undefined {
  if (!tools.some(({ function: { strict } }) => strict)) return undefined;
  const calls = tools.map(({ function: { name, parameters, strict } }, i) => {
    const schema = schemaTextOf(strict ? parameters ?? NO_ARGUMENTS : { type: "object" });
    if (schema === undefined) {
      const field = `tools[${i}].function.parameters`;
      throw new InvalidArgumentError(
        field,
        `Cannot use ${field}: strict wants a JSON schema within the limits of structuredOutputs.`,
      );
    }
    return [`${name}\n\`\`\`json\n`, schema, "\n```"];
  });
  return { kind: "calls", text: JSON.stringify(calls) };
}

const NO_ARGUMENTS = { type: "object", properties: {}, additionalProperties: false };

/**
 * Compiles what calls are held to.
 *
 * @param constraints Of the model.
 * @param source Of {@linkcode sourceOfCalls}.
 * @returns What texts begin under; the caller releases it.
 * @throws {InvalidArgumentError} If a schema asks for what can not be kept to. Otherwise as
 *   {@linkcode Constraints.hold} does.
 */
export async function holdCalls(
  constraints: Constraints,
  source: ConstraintSource,
): Promise<HeldConstraint> {
  try {
    return await constraints.hold(source);
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
