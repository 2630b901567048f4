"""Runs the MLA kernels on the emulated CUDA runtime and compares them with float64.

    cases.py LIBRARY KERNEL TOLERANCES [--sizes LATENT ROTARY] [--case NAME] [--most-reads TIMES]

LIBRARY is the shared library of gpu/ops/latent_attention, linked with the emulated runtime. KERNEL is the
end of a function of latent_attention.h ("sm80_bf16"); TOLERANCES the data file beside this one. Prints a
line per case and ends with 1 if one is beyond its tolerance. --sizes are 512 and 64, FlashInfer's, unless said
otherwise. --most-reads bounds how often a tile of heads, 64 of FlashInfer's kernels and 32 of ours, reads the cache, by the executor's count; it holds where contexts are not split, as with two multiprocessors.
"""

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "emu" / "tests"))
from cuda_device import Device, pointer  # noqa: E402

INT_WORKSPACE = 8 << 20
FLOAT_WORKSPACE = 64 << 20
SCALE = 192**-0.5

# name: query lengths, context lengths, heads, rows of a block, causal
CASES = {
    "decode_small": ([1, 1], [70, 13], 16, 16, False),
    "decode_ragged": ([1, 1, 1], [1, 300, 129], 16, 64, False),
    "decode_heads": ([1], [1000], 128, 64, False),
    "decode_odd_heads": ([1, 1], [33, 65], 3, 16, False),
    "decode_many": ([1] * 7, [200, 64, 1, 130, 33, 900, 97], 16, 16, False),
    "prefill": ([40, 5], [100, 5], 16, 16, True),
    "prefill_pages": ([17, 1, 3], [17, 130, 64], 16, 64, True),
}


class Generic(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("sequences", "tokens", "heads", "groups", "tiles", "splits")]
    _fields_ += [("staged_bytes", ctypes.c_size_t)]


class Plan(ctypes.Structure):
    _fields_ = [
        ("heads", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("offsets", ctypes.c_int64 * 18),
        ("staged_bytes", ctypes.c_size_t),
        ("generic", Generic),
        ("generic_offset", ctypes.c_size_t),
    ]


class Tensors(ctypes.Structure):
    _fields_ = [
        ("query_latent", ctypes.c_void_p),
        ("query_rotary", ctypes.c_void_p),
        ("cache", ctypes.c_void_p),
        ("block_indices", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("log_sum_exp", ctypes.c_void_p),
        ("int_workspace", ctypes.c_void_p),
        ("float_workspace", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("cache_scale", ctypes.c_float),
        ("latent", ctypes.c_uint32),
        ("rotary", ctypes.c_uint32),
    ]


def reference(query, keys, latent_width, causal):
    """Float64 attention of one sequence: query [n, H, C + R], cache rows [m, C + R]."""
    n = query.shape[0]
    scores = np.einsum("nhd,md->nhm", query, keys) * SCALE
    if causal:
        visible = np.arange(len(keys))[None, :] <= len(keys) - n + np.arange(n)[:, None]
        scores = np.where(visible[:, None, :], scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    return (weights / total) @ keys[:, :latent_width], (top + np.log(total))[..., 0]


def run_case(library, kernel, case, sizes, seed=3, cache_scale=1.0):
    """Gives the largest errors of output, relative to 1 + its magnitude, and of log-sum-exp."""
    queries, contexts, heads, block, causal = case
    latent_width, rotary_width = sizes
    width = latent_width + rotary_width
    rng = np.random.default_rng(seed)
    fp8 = kernel.endswith("fp8")
    storage = ml_dtypes.float8_e4m3fn if fp8 else ml_dtypes.bfloat16
    counts = [-(-m // block) for m in contexts]
    total = sum(counts) + 3
    # Rows that no sequence owns hold NaN: whatever reads them shows.
    cache = np.full((total, block, width), np.nan, storage)
    order = rng.permutation(total)[: sum(counts)].astype(np.int32)
    block_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    query_starts = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
    for b, m in enumerate(contexts):
        rows = (rng.standard_normal((m, width)) * 0.5 / cache_scale).astype(storage)
        owned = order[block_starts[b] : block_starts[b + 1]]
        for page in range(counts[b]):
            part = rows[page * block : (page + 1) * block]
            cache[owned[page], : len(part)] = part
    n = int(query_starts[-1])
    latent = rng.standard_normal((n, heads, latent_width)).astype(ml_dtypes.bfloat16)
    rotary = rng.standard_normal((n, heads, rotary_width)).astype(ml_dtypes.bfloat16)

    tables = np.zeros(INT_WORKSPACE, np.uint8)
    lengths = np.array(contexts, np.int32)
    plan = Plan()
    code = library.latent_attention_plan(
        pointer(query_starts), pointer(block_starts), pointer(lengths), len(queries), heads, block, int(causal),
        pointer(tables), ctypes.c_size_t(FLOAT_WORKSPACE), ctypes.byref(plan),
    )
    device = Device(library)
    device.check(code, "plan")
    output = device.empty(n * heads * latent_width * 2)
    lse = device.empty(n * heads * 4)
    tensors = Tensors(
        device.put(latent), device.put(rotary), device.put(cache.view(np.uint8)), device.put(order), output, lse,
        device.put(tables, plan.staged_bytes), device.empty(FLOAT_WORKSPACE), SCALE, cache_scale,
        *sizes,
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYBRIDSEEK_EMU_LOG"] = log = str(Path(folder, "launches"))
        code = getattr(library, "latent_attention_" + kernel)(
            ctypes.byref(plan), ctypes.byref(tensors), int(causal), None
        )
        device.check(code, kernel)
        launch, *_ = (json.loads(line) for line in Path(log).read_text().splitlines())
    query_bytes = n * heads * width * 2
    tile_bytes = sum(contexts) * width * cache.itemsize * -(-heads // (32 if "generic" in kernel else 64))
    reads = (launch["globalBytesRead"] - query_bytes) / tile_bytes
    out = device.get(output, (n, heads, latent_width), ml_dtypes.bfloat16).astype(np.float64)
    sums = device.get(lse, (n, heads), np.float32)
    device.release()

    error = sum_error = 0.0
    values = cache.astype(np.float64) * cache_scale
    for b, m in enumerate(contexts):
        at = slice(query_starts[b], query_starts[b + 1])
        query = np.concatenate([latent[at], rotary[at]], -1).astype(np.float64)
        owned = order[block_starts[b] : block_starts[b + 1]]
        rows = values[owned].reshape(-1, width)[:m]
        want, want_sums = reference(query, rows, latent_width, causal)
        # A NaN must not compare as small.
        error = max(error, np.nan_to_num(np.abs(out[at] - want) / (1 + np.abs(want)), nan=np.inf).max())
        sum_error = max(sum_error, np.nan_to_num(np.abs(sums[at] - want_sums), nan=np.inf).max())
    return error, sum_error, reads


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("kernel")
    parser.add_argument("tolerances")
    parser.add_argument("--sizes", type=int, nargs=2, default=(512, 64))
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--most-reads", type=float, default=float("inf"))
    options = parser.parse_args()
    library = ctypes.CDLL(options.library)
    with open(options.tolerances) as file:
        tolerance = json.load(file)[options.kernel]
    failed = False
    for name, case in CASES.items():
        if options.case not in (None, name):
            continue
        begin = time.time()
        try:
            error, sum_error, reads = run_case(library, options.kernel, case, options.sizes, cache_scale=0.5 if options.kernel.endswith("fp8") else 1.0)
            good = error <= tolerance["output"] and sum_error <= tolerance["logSumExp"] and reads <= options.most_reads
            print(f"{'ok' if good else 'FAILED'} {options.kernel} {options.sizes} {name}: output {error:.2e}, "
                  f"log-sum-exp {sum_error:.2e}, cache read {reads:.3f} times by a tile of heads, {time.time() - begin:.2f} s", flush=True)
        except RuntimeError as problem:
            good = False
            print(f"FAILED {options.kernel} {name}: {problem}", flush=True)
            library.cudaDeviceReset()
        failed |= not good
    sys.exit(failed)


if __name__ == "__main__":
    main()
