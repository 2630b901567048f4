/**
 * The collective ops, over TCP and over the emulated NCCL: several ranks in this process, against sums made here in
 * the order of ranks, bit for bit. Over MPI they run in ranks_test.ts, since a process is one MPI rank.
 */
import { strict as assert } from "node:assert";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  type Addon,
  loadAddon,
  type NativeRanks,
  openOnnxRuntime,
} from "../../src/backend/native/addon.ts";
import { GraphBuilder, opsetImports, valueInfo } from "../../src/onnx/graph_builder.ts";
import { ModelProtoSchema } from "../../src/onnx/onnx_pb.ts";
import { emulator, needs as needsTools } from "../gpu/gpu.ts";
import { needs } from "../shared.ts";

const TIMEOUT_MS = 30_000;

/** A free port. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

async function joinAll(addon: Addon, ranks: number, key = "", timeout = TIMEOUT_MS) {
  const port = freePort();
  return await Promise.all(
    Array.from(
      { length: ranks },
      (_, rank) => addon.joinSockets("127.0.0.1", port, key, [rank, ranks, timeout]),
    ),
  );
}

/** A model of one collective. */
function modelOf(op: string, communicator: number, countDims: string[]): Uint8Array {
  const builder = new GraphBuilder();
  const counts = countDims.length > 0 ? ["counts"] : [];
  builder.op(op, ["x", ...counts], { communicator }, { domain: "hybridseek", outputs: ["y"] });
  return toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      irVersion: 10n,
      opsetImport: opsetImports(),
      graph: {
        name: op,
        node: builder.nodes,
        input: [
          valueInfo("x", "f32", ["T", "D"]),
          ...counts.map((name) => valueInfo(name, "i32", countDims)),
        ],
        output: [valueInfo("y", "f32", ["rows", "D"])],
      },
    }),
  );
}

/** What a rank gives: numbers whose sum depends on the order, the same in every run. */
function valuesOf(rank: number, rows: number, columns: number): Float32Array {
  return Float32Array.from(
    { length: rows * columns },
    (_, i) => Math.fround(Math.sin(1 + i * 0.37 + rank * 11.3) * 10 ** ((i + rank) % 7 - 3)),
  );
}

/** Sums in f32, in the order of ranks. */
function sumOf(parts: Float32Array[]): Float32Array {
  return parts[0]!.map((_, i) =>
    parts.map((part) => part[i]!).reduce((a, b) => Math.fround(a + b))
  );
}

const join = (parts: Float32Array[]) => Float32Array.from(parts.flatMap((part) => [...part]));

/** A collective on all ranks: what each gives, how many rows each gets. */
async function runAll(
  addon: Addon,
  group: NativeRanks[],
  op: string,
  given: Float32Array[],
  columns: number,
  rows: number[],
  counts?: { dims: number[]; values: number[] },
): Promise<Float32Array[]> {
  const { path } = await openOnnxRuntime(addon);
  return await Promise.all(group.map(async (ranks, rank) => {
    const [, , communicator] = addon.placeOf(ranks);
    const countDims = counts ? counts.dims.map((_, axis) => `W${axis}`) : [];
    const session = await addon.createSession(path, modelOf(op, communicator, countDims), ".", 1);
    const y = new Float32Array(rows[rank]! * columns);
    const x = given[rank]!;
    await addon.run(
      session,
      [
        ["x", [x.length / columns, columns], x],
        ...(counts ? [["counts", counts.dims, Int32Array.from(counts.values)] as const] : []),
      ] as Parameters<Addon["run"]>[1],
      [["y", [rows[rank]!, columns], y]],
    );
    addon.closeSession(session);
    return y;
  }));
}

/** Every collective with odd sizes, none at all, and more than is summed at once. */
async function checkAll(addon: Addon, group: NativeRanks[]) {
  const ranks = group.length;
  const all = Array.from({ length: ranks }, (_, rank) => rank);
  for (const [rows, columns] of [[1, 1], [3, 7], [0, 5], [131, 257]] as const) {
    const given = all.map((rank) => valuesOf(rank, rows, columns));
    const want = rows === 0 ? new Float32Array(0) : sumOf(given);
    const got = await runAll(addon, group, "AllReduce", given, columns, all.map(() => rows));
    for (const sum of got) assert.deepEqual(sum, want, `AllReduce [${rows}, ${columns}]`);
  }
  for (const rows of [all.map((rank) => rank * 3 % 5), all.map(() => 0), all.map(() => 64)]) {
    const columns = 129;
    const counts = { dims: [ranks], values: rows };
    const total = rows.reduce((a, b) => a + b);
    const given = all.map((rank) => valuesOf(rank, rows[rank]!, columns));
    const everybody = all.map(() => total);
    const gathered = await runAll(addon, group, "AllGather", given, columns, everybody, counts);
    for (const got of gathered) assert.deepEqual(got, join(given), `AllGather ${rows}`);

    const partial = all.map((rank) => valuesOf(rank, total, columns));
    const sum = total === 0 ? new Float32Array(0) : sumOf(partial);
    const scattered = await runAll(addon, group, "ReduceScatter", partial, columns, rows, counts);
    assert.deepEqual(join(scattered), sum, `ReduceScatter ${rows}`);
    for (const [rank, got] of scattered.entries()) assert.equal(got.length, rows[rank]! * columns);
  }
  const columns = 5;
  const counts = {
    dims: [ranks, ranks],
    values: all.flatMap((i) => all.map((j) => (i * 2 + j) % 4)),
  };
  const rowsFor = (from: number, to: number) => counts.values[from * ranks + to]!;
  const letters = all.map((from) =>
    all.map((to) => valuesOf(from * ranks + to, rowsFor(from, to), columns))
  );
  const received = all.map((to) => all.reduce((sum, from) => sum + rowsFor(from, to), 0));
  const got = await runAll(addon, group, "AllToAll", letters.map(join), columns, received, counts);
  for (const to of all) {
    assert.deepEqual(got[to], join(all.map((from) => letters[from]![to]!)), `AllToAll to ${to}`);
  }
}

for (const ranks of [1, 2, 4, 8]) {
  Deno.test(
    needs(`${ranks} ranks over TCP: every collective gives the sums in rank order`, {
      native: true,
    }),
    async () => {
      const addon = await loadAddon();
      const group = await joinAll(addon, ranks, "secret");
      await checkAll(addon, group);
      const bytes = Uint8Array.from({ length: 100_003 }, (_, i) => i * 7);
      const told = await Promise.all(
        group.map((one, rank) => addon.broadcast(one, rank === 0 ? bytes : new Uint8Array(0))),
      );
      for (const got of told) assert.deepEqual(got, bytes);
      const gathered = await Promise.all(
        group.map((one, rank) => addon.gather(one, bytes.slice(0, rank * 1000))),
      );
      assert.deepEqual(
        gathered[0]!.map(({ length }) => length),
        group.map((_, rank) => rank * 1000),
      );
      for (const one of group) addon.leaveRanks(one);
    },
  );
}

const withNccl = needsTools(
  "4 ranks on the emulated NCCL: every collective gives the sums in rank order",
  "build",
);
Deno.test(
  withNccl.ignore ? withNccl : needs(withNccl.name, { native: true }),
  async () => {
    const { nccl } = await emulator();
    const addon = await loadAddon();
    const known = await joinAll(addon, 4);
    const group = await Promise.all(known.map((one) => addon.joinNccl(one, nccl)));
    await checkAll(addon, group);
    for (const one of [...group, ...known]) addon.leaveRanks(one);
  },
);

Deno.test(
  needs("ranks that fail, leave, do not come or are strangers are told", { native: true }),
  async () => {
    const addon = await loadAddon();
    const failure = async (promise: Promise<unknown>) =>
      await promise.then(() => assert.fail("it did not fail"), (error: Error) => error.message);

    const failing = await joinAll(addon, 3);
    const waits = [
      failure(addon.gather(failing[0]!, new Uint8Array(1))),
      failure(addon.broadcast(failing[1]!, new Uint8Array(0))), // for rank 0, which hears it of rank 2
    ];
    addon.abortRanks(failing[2]!, "rank 2 failed: no more");
    assert.deepEqual(await Promise.all(waits), Array(2).fill("rank 2 failed: no more"));
    assert.match(await failure(addon.broadcast(failing[2]!, new Uint8Array(0))), /no more/);

    const leaving = await joinAll(addon, 2);
    addon.leaveRanks(leaving[1]!);
    assert.match(await failure(addon.gather(leaving[0]!, new Uint8Array(1))), /rank 1 is gone/);

    const silent = await joinAll(addon, 2, "", 300);
    assert.match(
      await failure(addon.gather(silent[0]!, new Uint8Array(1))),
      /rank 1 did not answer within 300 ms/,
    );

    const port = freePort();
    const [alone, stranger] = await Promise.all([
      failure(addon.joinSockets("127.0.0.1", port, "ours", [0, 2, 1500])),
      failure(addon.joinSockets("127.0.0.1", port, "else", [1, 2, 1500])),
    ]);
    assert.match(alone!, /of 2 ranks did not come: 1/);
    assert.match(stranger!, /the key is wrong, or not all ranks came/);
    assert.throws(() => addon.joinSockets("127.0.0.1", port, "", [2, 2, 100]), /no rank 2 of 2/);
    assert.match(
      await failure(addon.joinSockets("127.0.0.1", 1, "", [1, 2, 100])),
      /nobody listens/,
    );
  },
);

Deno.test(
  needs("a collective without ranks, or with counts that contradict x, is refused", {
    native: true,
  }),
  async () => {
    const addon = await loadAddon();
    const { path } = await openOnnxRuntime(addon);
    await assert.rejects(
      addon.createSession(path, modelOf("AllReduce", 999_999, []), ".", 1),
      /no ranks are joined in this process/,
    );
    const [one] = await joinAll(addon, 1);
    const given = [valuesOf(0, 3, 2)];
    const wrong = (values: number[]) =>
      runAll(addon, [one!], "AllGather", given, 2, [3], { dims: [1], values });
    await assert.rejects(wrong([2]), /counts want 4 numbers/);
    await assert.rejects(wrong([-1]), /counts has -1/);
    await assert.rejects(addon.joinMpi("/nowhere/libmpi.so", 100), /nowhere\/libmpi\.so/);
    await assert.rejects(
      addon.joinMpi("libc.so.6", 100),
      /libc\.so\.6 is no MPI, needed is Open MPI/,
    );
    await assert.rejects(addon.joinNccl(one!, "/nowhere/libnccl.so"), /nowhere\/libnccl\.so/);
    addon.leaveRanks(one!);
  },
);

Deno.test(
  needs("stock ONNX Runtime refuses a graph of several ranks", { native: true }),
  async () => {
    const ort = await import("npm:onnxruntime-node@1.30.0");
    await assert.rejects(
      ort.default.InferenceSession.create(modelOf("AllReduce", 1, [])),
      /hybridseek.*AllReduce.* is not a registered function\/op/,
    );
  },
);
