/**
 * The program of a rank that rank 0 has started on its machine: it computes its part of a model until rank 0
 * closes it.
 * @module
 */
import { followRanks } from "./ranks_backend.ts";

const { default: process } = await import("node:process");
// Ctrl-C reaches all processes of a terminal: rank 0 ends what it does in order.
process.on("SIGINT", () => {});
try {
  await followRanks();
} catch (error) {
  process.stderr.write(`rank ${process.env.RANK}: ${(error as Error).message}\n`);
  process.exit(1);
}
