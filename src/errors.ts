/**
 * The errors of this library: few classes, each with a `code`. A message says
 * "Cannot <verb> <object>: <what is>, <what is needed or the way out>".
 * An aborted call throws the platform's `AbortError` (the signal's reason) instead.
 * @module
 */

/** What went wrong, for programs; stable across versions. */
export type ErrorCode =
  | "invalid_argument"
  | "invalid_file"
  | "not_found"
  | "unsupported"
  | "context_length_exceeded"
  | "out_of_memory"
  | "queue_full"
  | "deadline_exceeded"
  | "backend_failed"
  | "closed";

/** The class that every error of this library extends. */
export class HybridseekError extends Error {
  /** What went wrong, for programs. */
  readonly code: ErrorCode;

  /**
   * Makes the error.
   *
   * @param code What went wrong, for programs.
   * @param message "Cannot <verb> <object>: <what is>, <the way out>".
   * @param options `cause`: the error that led to this one.
   */
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** A value that the caller passed is out of its range or of the wrong type. */
export class InvalidArgumentError extends HybridseekError {
  /** The argument's name as the caller wrote it, for example `temperature`. */
  readonly field: string;

  /**
   * Makes the error.
   *
   * @param field The argument's name as the caller wrote it.
   * @param message What it is and what it may be.
   * @param options `cause`: the error that led to this one.
   */
  constructor(field: string, message: string, options?: ErrorOptions) {
    super("invalid_argument", message, options);
    this.field = field;
  }
}

/** A file is truncated, contradicts itself, or is not what its name says. */
export class InvalidFileError extends HybridseekError {
  /** The file's name or address. */
  readonly file: string;

  /**
   * Makes the error.
   *
   * @param file The file's name or address.
   * @param message What is wrong with it and what to do.
   * @param options `cause`, and `code` where the file is missing (`not_found`).
   */
  constructor(
    file: string,
    message: string,
    options?: ErrorOptions & { code?: "invalid_file" | "not_found" },
  ) {
    super(options?.code ?? "invalid_file", message, options);
    this.file = file;
  }
}

/** Well-formed, but nothing here can do it; the message names what can. */
export class UnsupportedError extends HybridseekError {
  /**
   * Makes the error.
   *
   * @param message What was asked for and what is supported.
   * @param options `cause`: the error that led to this one.
   */
  constructor(message: string, options?: ErrorOptions) {
    super("unsupported", message, options);
  }
}

/** It does not fit: more tokens than the context, or more bytes than the memory. */
export class CapacityError extends HybridseekError {
  /**
   * Makes the error.
   *
   * @param code `context_length_exceeded` or `out_of_memory`.
   * @param message How much is needed, how much there is, the way out.
   * @param options `cause`: the error that led to this one.
   */
  constructor(
    code: "context_length_exceeded" | "out_of_memory",
    message: string,
    options?: ErrorOptions,
  ) {
    super(code, message, options);
  }
}

/** The model is too busy: as many requests wait as may, or a request's time was over before it ended. */
export class OverloadError extends HybridseekError {
  /**
   * Makes the error.
   *
   * @param code `queue_full` or `deadline_exceeded`.
   * @param message How much there is to do, the way out.
   * @param options `cause`: the error that led to this one.
   */
  constructor(code: "queue_full" | "deadline_exceeded", message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}

/** A backend failed while running, or was used after `close()`; open a new one. */
export class BackendError extends HybridseekError {
  /**
   * Makes the error.
   *
   * @param code `backend_failed` or `closed`.
   * @param message What failed and what to do.
   * @param options `cause`: the error that led to this one.
   */
  constructor(code: "backend_failed" | "closed", message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}
