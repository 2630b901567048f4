/* tslint:disable */
/* eslint-disable */

/**
 * A tokenizer in the module's memory.
 */
export class NativeTokenizer {
    free(): void;
    [Symbol.dispose](): void;
    bytes(ids: Uint32Array | number[], skip_special: boolean): Uint8Array;
    /**
     * `text` is UTF-8.
     */
    encode(text: Uint8Array | number[], parse_special: boolean): Uint32Array;
    idOf(token: string): number | undefined;
    isSpecial(id: number): boolean;
    /**
     * Reads the UTF-8 text of a tokenizer.json; throws a `Refusal`.
     */
    constructor(json: Uint8Array | number[]);
    token(id: number): string | undefined;
    /**
     * Pairs merged so far; see `bpe::Work`.
     */
    readonly merges: number;
    /**
     * Ids that the file's post-processor puts before a text's.
     */
    readonly prefix: Uint32Array;
    /**
     * Ranks looked at so far; see `bpe::Work`.
     */
    readonly queueOperations: number;
    /**
     * Ids that the file's post-processor puts after a text's.
     */
    readonly suffix: Uint32Array;
    readonly vocabularySize: number;
}

/**
 * Why a tokenizer.json was refused.
 */
export class Refusal {
    private constructor();
    free(): void;
    [Symbol.dispose](): void;
    /**
     * Whether the file is well-formed but asks for something that is not implemented.
     */
    readonly unsupported: boolean;
    /**
     * A whole sentence.
     */
    readonly message: string;
}

export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
    readonly memory: WebAssembly.Memory;
    readonly __wbg_get_refusal_unsupported: (a: number) => number;
    readonly __wbg_nativetokenizer_free: (a: number, b: number) => void;
    readonly __wbg_refusal_free: (a: number, b: number) => void;
    readonly nativetokenizer_bytes: (a: number, b: number, c: number, d: number, e: number) => void;
    readonly nativetokenizer_encode: (a: number, b: number, c: number, d: number, e: number) => void;
    readonly nativetokenizer_idOf: (a: number, b: number, c: number) => number;
    readonly nativetokenizer_isSpecial: (a: number, b: number) => number;
    readonly nativetokenizer_merges: (a: number) => number;
    readonly nativetokenizer_new: (a: number, b: number, c: number) => void;
    readonly nativetokenizer_prefix: (a: number, b: number) => void;
    readonly nativetokenizer_queueOperations: (a: number) => number;
    readonly nativetokenizer_suffix: (a: number, b: number) => void;
    readonly nativetokenizer_token: (a: number, b: number, c: number) => void;
    readonly nativetokenizer_vocabularySize: (a: number) => number;
    readonly refusal_message: (a: number, b: number) => void;
    readonly __wbindgen_externrefs: WebAssembly.Table;
    readonly __wbindgen_add_to_stack_pointer: (a: number) => number;
    readonly __wbindgen_export: (a: number, b: number) => number;
    readonly __wbindgen_export2: (a: number, b: number, c: number) => void;
    readonly __wbindgen_export3: (a: number, b: number, c: number, d: number) => number;
    readonly __wbindgen_export4: (a: number) => void;
    readonly __wbindgen_start: () => void;
}

export type SyncInitInput = BufferSource | WebAssembly.Module;

/**
 * Instantiates the given `module`, which can either be bytes or
 * a precompiled `WebAssembly.Module`.
 *
 * @param {{ module: SyncInitInput }} module - Passing `SyncInitInput` directly is deprecated.
 *
 * @returns {InitOutput}
 */
export function initSync(module: { module: SyncInitInput } | SyncInitInput): InitOutput;

/**
 * If `module_or_path` is {RequestInfo} or {URL}, makes a request and
 * for everything else, calls `WebAssembly.instantiate` directly.
 *
 * @param {{ module_or_path: InitInput | Promise<InitInput> }} module_or_path - Passing `InitInput` directly is deprecated.
 *
 * @returns {Promise<InitOutput>}
 */
export default function __wbg_init (module_or_path: { module_or_path: InitInput | Promise<InitInput> } | InitInput | Promise<InitInput>): Promise<InitOutput>;
