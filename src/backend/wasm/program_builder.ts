/**
 * A step program while it is being compiled: instructions, the tensors they name, the weights to load.
 * @module
 */
import type { Initializer } from "../../onnx/read_model.ts";
import { type Opcode, OPCODES, type RowCount, ROWS, type WeightFormat } from "./opcodes.ts";

/** Number of a tensor in the program's tensor table. */
export type TensorId = number & { readonly tensor: unique symbol };

/** What a tensor is for; its bytes are those of the largest step. */
export interface PlannedTensor {
  /**
   * - `weight`: loaded once.
   * - `table`: written by the host, which tells where experts are.
   * - `cache`: kept from step to step.
   * - `input`: written before each step.
   * - `output`: read after each step.
   * - `value`: made and used up within a step; shares memory with others.
   */
  use: "weight" | "table" | "cache" | "input" | "output" | "value";
  /** Length. */
  bytes: number;
  /** First and last instruction that names it. */
  lifetime: [first: number, last: number];
}

/** How a weight gets from the package into the engine's memory. */
export type WeightLoad =
  & {
    /** Where it goes. */
    tensor: TensorId;
    /** Its elements in the package. */
    source: Initializer;
  }
  & (
    | { kind: "raw" }
    | {
      kind: "matrices";
      format: WeightFormat;
      scales: Initializer | undefined;
      rows: number;
      columns: number;
      /** How many equal matrices follow one another. */
      count: number;
    }
    | {
      kind: "latentUp";
      format: WeightFormat;
      heads: number;
      nope: number;
      value: number;
      rank: number;
    }
  );

/** The routed experts of a node. */
export interface ExpertLayer {
  /** The table of where they are. */
  places: TensorId;
  /** How many the node holds. */
  held: number;
  /** Experts of a token. */
  k: number;
  /** Stored stacks of theirs: levels and scales of gate_up, of down. */
  stored: Initializer[];
  /** Bytes of one expert as its stored tensors, one after the other. */
  stagedBytes: number;
  /** Bytes of its packed matrices. */
  packed: { gateUp: number; down: number };
  /** Stacks of packed matrices; left out where experts are read on demand. */
  stacks?: { gateUp: TensorId; down: TensorId };
}

/** An operand: a whole number, a float, a tensor, or the name of a size that varies. */
export type Operand = number | { float: number } | { tensor: TensorId } | { rows: RowCount };

/** Collects a program. */
export class ProgramBuilder {
  /** The words so far. */
  readonly words: number[] = [];
  /** The tensor table so far. */
  readonly tensors: PlannedTensor[] = [];
  /** The weights so far. */
  readonly loads: WeightLoad[] = [];
  /** Nodes with routed experts so far. */
  readonly experts: ExpertLayer[] = [];
  /** What the team and the host share to read experts on demand; no bytes where all are loaded. */
  supply: TensorId | undefined;
  #instructions = 0;

  /** Adds a tensor. @param use What it is for. @param bytes Its length. @returns Its number. */
  tensor(use: PlannedTensor["use"], bytes: number): TensorId {
    this.tensors.push({ use, bytes, lifetime: [this.#instructions, this.#instructions] });
    return this.tensors.length - 1 as TensorId;
  }

  /** Adds an instruction. @param opcode Which. @param operands In the opcode's order. */
  emit(opcode: Opcode, operands: Operand[]): void {
    const [code, count] = OPCODES[opcode];
    if (operands.length !== count) throw new RangeError(`${opcode} takes ${count} operands`);
    this.words.push(code, ...operands.map((operand) => this.#word(operand)));
    this.#instructions++;
  }

  #word(operand: Operand): number {
    if (typeof operand === "number") return operand;
    if ("float" in operand) return new Uint32Array(Float32Array.of(operand.float).buffer)[0]!;
    if ("rows" in operand) return ROWS[operand.rows];
    this.tensors[operand.tensor]!.lifetime[1] = this.#instructions;
    return operand.tensor;
  }
}
