/**
 * config.json of a checkpoint, read field by field with its path in every refusal.
 * @module
 */
import { InvalidFileError } from "../src/errors.ts";

/** A JSON object whose fields are read with checks. */
export class ModelConfig {
  /** The file, and inside it the object's field, for messages. */
  readonly path: string;
  readonly #fields: Record<string, unknown>;

  /**
   * @param path The file.
   * @param value What it holds.
   * @throws {InvalidFileError} If it is no object.
   */
  constructor(path: string, value: unknown) {
    this.path = path;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new InvalidFileError(path, `Cannot use ${path}: it is no JSON object.`);
    }
    this.#fields = value as Record<string, unknown>;
  }

  /** Whether a field is present and not null. @param name The field. @returns True if it is. */
  has(name: string): boolean {
    return Object.hasOwn(this.#fields, name) && this.#fields[name] !== null;
  }

  /** A field as it is. @param name The field. @returns Its value, `undefined` when absent or null. */
  raw(name: string): unknown {
    return this.has(name) ? this.#fields[name] : undefined;
  }

  /**
   * A whole number.
   *
   * @param name The field.
   * @param fallback When it is absent; without one the field is required.
   * @param least Smallest value allowed, 1 by default.
   * @returns Its value.
   * @throws {InvalidFileError} If it is absent without a fallback, or no such number.
   */
  integer(name: string, fallback?: number, least = 1): number {
    const value = this.raw(name) ?? fallback;
    if (Number.isSafeInteger(value) && (value as number) >= least) return value as number;
    this.#fail(name, value, `a whole number of at least ${least}`);
  }

  /**
   * A finite number.
   *
   * @param name The field.
   * @param fallback When it is absent; without one the field is required.
   * @returns Its value.
   * @throws {InvalidFileError} If it is absent without a fallback, or no number.
   */
  number(name: string, fallback?: number): number {
    const value = this.raw(name) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    this.#fail(name, value, "a finite number");
  }

  /** A positive number. See {@linkcode ModelConfig.number}. */
  positive(name: string, fallback?: number): number {
    const value = this.number(name, fallback);
    if (value > 0) return value;
    this.#fail(name, value, "a number above 0");
  }

  /** A truth value. See {@linkcode ModelConfig.number}. */
  boolean(name: string, fallback: boolean): boolean {
    const value = this.raw(name) ?? fallback;
    if (typeof value === "boolean") return value;
    this.#fail(name, value, "true or false");
  }

  /** A text. See {@linkcode ModelConfig.number}. */
  string(name: string, fallback?: string): string {
    const value = this.raw(name) ?? fallback;
    if (typeof value === "string") return value;
    this.#fail(name, value, "a text");
  }

  /** An object inside. @param name The field. @returns It, `undefined` when absent or null. */
  object(name: string): ModelConfig | undefined {
    return this.has(name) ? new ModelConfig(`${this.path} ${name}`, this.#fields[name]) : undefined;
  }

  /**
   * Refuses a value that the exporter has no graph for.
   *
   * @param name The field.
   * @param supported The values it can have; absent counts as the first.
   * @throws {InvalidFileError} If it has another.
   */
  requireOneOf(name: string, ...supported: (string | number | boolean)[]): void {
    const value = this.raw(name) ?? supported[0];
    if (!supported.includes(value as string)) {
      this.#fail(name, value, supported.map((item) => JSON.stringify(item)).join(" or "));
    }
  }

  #fail(name: string, value: unknown, needed: string): never {
    const is = value === undefined ? "is missing" : `is ${JSON.stringify(value)}`;
    throw new InvalidFileError(
      this.path,
      `Cannot use ${this.path}: ${name} ${is}, needed is ${needed}.`,
    );
  }
}
