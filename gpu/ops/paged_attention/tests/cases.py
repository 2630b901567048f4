"""Runs the kernels of PagedAttention on the emulated CUDA runtime and compares them with float64.

    cases.py LIBRARY TOLERANCES [--case NAME] [--most-reads TIMES]

LIBRARY is the shared library of gpu/ops/paged_attention, linked with the emulated runtime; TOLERANCES the data
file beside this one. Prints a line per case and ends with 1 if one is beyond its tolerance. --most-reads bounds
how often the step's rows of the caches are read, by the executor's count.
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

TABLES, FLOATS = 1 << 20, 64 << 20

# name: query lengths, context lengths, query heads, key heads, columns of a key and a value, rows of a block,
# interleaved pairs
CASES = {
    # FlashInfer's, in tiles of 16, 64 and 128 rows.
    "decode": ([1, 1, 1], [1, 300, 129], 3, 3, 128, 128, 64, False),
    "decode_grouped": ([1, 1], [70, 33], 16, 2, 128, 128, 16, True),
    "decode_long": ([1], [1000], 8, 1, 128, 128, 64, False),
    "decode_many": ([1] * 5, [200, 64, 33, 130, 97], 2, 2, 128, 128, 16, False),
    "prefill_short": ([20, 3], [50, 3], 2, 2, 128, 128, 16, False),
    "prefill_grouped": ([17, 1, 30], [17, 130, 200], 8, 1, 128, 128, 16, False),
    "prefill": ([150, 5], [231, 5], 2, 2, 128, 128, 64, True),
    # Ours.
    "narrow": ([1, 9, 1], [70, 33, 1], 8, 2, 16, 16, 16, False),
    "small": ([1, 40], [130, 77], 4, 4, 32, 32, 16, True),
    "wider_keys": ([1, 5, 1], [257, 64, 31], 6, 2, 192, 128, 64, False),
    "middle": ([33, 1], [100, 300], 3, 1, 64, 64, 64, False),
    "wide": ([1, 3], [50, 40], 40, 1, 96, 320, 16, True),
    "long": ([1], [2500], 5, 1, 96, 80, 16, False),
}


class Generic(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("sequences", "tokens", "heads", "groups", "tiles", "splits")]
    _fields_ += [("staged_bytes", ctypes.c_size_t)]


class Plan(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in (
        "tokens", "sequences", "heads", "groups", "width", "value_width", "block_size", "split", "blocks", "query_tile",
        "parts")]
    _fields_ += [("generic", Generic), ("staged_bytes", ctypes.c_size_t)]


class Tensors(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in (
        "query", "key", "value", "cos", "sin", "slots", "block_indices")]
    _fields_ += [("interleaved", ctypes.c_int)]
    _fields_ += [(name, ctypes.c_void_p) for name in (
        "key_cache", "value_cache", "rotated", "y", "int_workspace", "float_workspace")]
    _fields_ += [("scale", ctypes.c_float)]


def rotated(x, cos, sin, interleaved):
    """x [T, heads, W] in float64."""
    cos, sin = cos[:, None, :], sin[:, None, :]
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    a, b = a * cos - b * sin, b * cos + a * sin
    return np.stack([a, b], -1).reshape(x.shape) if interleaved else np.concatenate([a, b], -1)


def bf16(x):
    return x.astype(np.float32).astype(ml_dtypes.bfloat16)


def run_case(library, case, seed=5):
    """Gives the largest error of y relative to 1 + its size, whether the caches are right, and reads."""
    queries, contexts, heads, groups, width, value_width, block, interleaved = case
    rng = np.random.default_rng(seed)
    counts = [-(-m // block) for m in contexts]
    total = sum(counts) + 2
    order = rng.permutation(total)[: sum(counts)].astype(np.int32)
    block_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    query_starts = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
    tokens = int(query_starts[-1])
    place = lambda b, position: order[block_starts[b] + position // block] * block + position % block
    # Rows that nobody wrote hold no numbers: whatever reads them shows.
    caches = [np.full((total * block, groups, n), np.nan, ml_dtypes.bfloat16) for n in (width, value_width)]
    for b, (n, m) in enumerate(zip(queries, contexts)):
        for position in range(m - n):
            for cache in caches:
                cache[place(b, position)] = bf16(rng.standard_normal(cache.shape[1:]))
    slots = np.array([place(b, m - n + i) for b, (n, m) in enumerate(zip(queries, contexts)) for i in range(n)], np.int32)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    query, key, value = normal(tokens, heads, width), normal(tokens, groups, width), normal(tokens, groups, value_width)
    angles = rng.uniform(0, 6, (tokens, width // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    scale = width**-0.5

    device = Device(library)
    plan = Plan(tokens, len(queries), heads, groups, width, value_width, block)
    tables = np.zeros(TABLES, np.uint8)
    code = library.paged_attention_plan(
        pointer(query_starts), pointer(block_starts), pointer(np.array(contexts, np.int32)), pointer(tables),
        ctypes.c_size_t(TABLES), ctypes.c_size_t(FLOATS), ctypes.byref(plan))
    device.check(code, "plan")
    put = [device.put(cache.view(np.uint16)) for cache in caches]
    y = device.empty(tokens * heads * value_width * 4)
    tensors = Tensors(
        *(device.put(array) for array in (query, key, value, cos, sin, slots, order)), int(interleaved), *put,
        device.empty(tokens * heads * width * 2), y, device.put(tables, plan.staged_bytes), device.empty(FLOATS), scale)
    device.check(library.paged_attention_append(ctypes.byref(plan), ctypes.byref(tensors), None), "append")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYBRIDSEEK_EMU_LOG"] = log = str(Path(folder, "launches"))
        device.check(library.paged_attention_attend(ctypes.byref(plan), ctypes.byref(tensors), None), "attend")
        launches = [json.loads(line) for line in Path(log).read_text().splitlines()]
        del os.environ["HYBRIDSEEK_EMU_LOG"]
    row_bytes = groups * (width + value_width) * 2
    reads = (launches[0]["globalBytesRead"] - tokens * heads * width * 2) / (sum(contexts) * row_bytes)
    got = device.get(y, (tokens, heads, value_width), np.float32).astype(np.float64)
    stored = [device.get(at, cache.shape, np.uint16) for at, cache in zip(put, caches)]
    device.release()

    wide_cos, wide_sin = cos.astype(np.float64), sin.astype(np.float64)
    want_rows = rotated(key.astype(np.float64), wide_cos, wide_sin, interleaved), value.astype(np.float64)
    same = True
    for bits, cache, rows in zip(stored, caches, want_rows):
        others = np.setdiff1d(np.arange(len(cache)), slots)
        same &= bool((bits[others] == cache.view(np.uint16)[others]).all())
        # A key's last bit may differ from float64's.
        new = bits.view(ml_dtypes.bfloat16).astype(np.float64)[slots]
        same &= bool((np.abs(new - rows) <= np.abs(rows) * 2**-8 * 1.01 + 1e-6).all())
    asked = bf16(rotated(query.astype(np.float64), wide_cos, wide_sin, interleaved)).astype(np.float64)
    keys, values = (bits.view(ml_dtypes.bfloat16).astype(np.float64) for bits in stored)
    error = 0.0
    for b, (n, m) in enumerate(zip(queries, contexts)):
        at = [place(b, position) for position in range(m)]
        for h in range(heads):
            group = h // (heads // groups)
            scores = asked[query_starts[b] : query_starts[b + 1], h] @ keys[at, group].T * scale
            scores[np.arange(m)[None, :] > m - n + np.arange(n)[:, None]] = -np.inf
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            want = powers / powers.sum(-1, keepdims=True) @ values[at, group]
            off = np.abs(got[query_starts[b] : query_starts[b + 1], h] - want) / (1 + np.abs(want))
            error = max(error, np.nan_to_num(off, nan=np.inf).max())
    return error, same, reads, len(launches)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("tolerances")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--most-reads", type=float, default=float("inf"))
    options = parser.parse_args()
    library = ctypes.CDLL(options.library)
    with open(options.tolerances) as file:
        tolerance = json.load(file)["output"]
    failed = False
    for name, case in CASES.items():
        if options.case not in (None, name):
            continue
        begin = time.time()
        try:
            error, same, reads, launches = run_case(library, case)
            good = error <= tolerance and same and reads <= options.most_reads
            print(f"{'ok' if good else 'FAILED'} {name}: output {error:.2e}, caches right: {same}, cache read {reads:.3f} "
                  f"times, {launches} launches, {time.time() - begin:.2f} s", flush=True)
        except RuntimeError as problem:
            good = False
            print(f"FAILED {name}: {problem}", flush=True)
            library.cudaDeviceReset()
        failed |= not good
    sys.exit(failed)


if __name__ == "__main__":
    main()
