/**
 * The program of a rank other than 0: it computes its part of a model until rank 0 closes it. Rank 0 starts it
 * on its machine; elsewhere a launcher can, in whose environment it finds rank 0 (`gpu/README.md`, "Several
 * ranks").
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
