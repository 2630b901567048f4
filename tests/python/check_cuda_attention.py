"""The op LatentAttention as CUDA kernels, on the emulated runtime, inside stock onnxruntime: against float64.

    check_cuda_attention.py LIBRARY CACHE

LIBRARY serves CPU sessions with the CUDA kernels, CACHE is bf16 or fp8. The rows that the step appends must
be those of float64, rounded to the nearest of the cache's type, and y what attention over the rows as they
are stored gives.
"""

import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LATENT, ROTARY, BLOCK = 512, 64, 16
# Element, its bits, a step between neighbours relative to their size, and the largest error of y.
CACHES = {
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, np.uint16, 2**-7, 6e-3),
    "fp8": (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, np.uint8, 2**-3, 6e-3),
}
HEADS, NOPE, VALUE = 3, 64, 128
SCALE, EPSILON = 0.1, 1e-5
# Tokens before, new tokens; the one without tokens and the one on the scratch block are padding.
SEQUENCES = [(40, 1), (0, 0), (5, 20), (0, 1), (0, 33)]


def rotated(pairs, cos, sin):
    a, b = pairs[..., 0::2], pairs[..., 1::2]
    return np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(pairs.shape)


def main():
    library, name = sys.argv[1:]
    element, storage, integer, step, bound = CACHES[name]
    rng = np.random.default_rng(11)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    counts = [new for _, new in SEQUENCES]
    contexts = np.array([past + new for past, new in SEQUENCES], np.int32)
    starts = np.cumsum([0, *counts]).astype(np.int32)
    tokens = int(starts[-1])
    tables = np.full((len(SEQUENCES), 4), 2_000_000_000, np.int32)
    free = list(rng.permutation(np.arange(1, 12)))
    for b, context in enumerate(contexts):
        for i in range(-(-context // BLOCK)):
            tables[b, i] = 0 if b == 3 else free.pop()
    slot = lambda b, position: tables[b, position // BLOCK] * BLOCK + position % BLOCK
    slots = np.array([slot(b, past + i) for b, (past, new) in enumerate(SEQUENCES) for i in range(new)], np.int32)

    query, latent = normal(tokens, HEADS * (NOPE + ROTARY)), normal(tokens, LATENT + ROTARY) * 2
    norm_weight = 1 + normal(LATENT) / 10
    kv_b = (normal(HEADS, NOPE + VALUE, LATENT) * LATENT**-0.5).astype(np.float16)
    angles = rng.uniform(0, 6, (tokens, ROTARY // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    rows = np.full((12 * BLOCK, LATENT + ROTARY), np.nan, storage)
    for b, (past, _) in enumerate(SEQUENCES):
        for position in range(past):
            rows[slot(b, position)] = normal(LATENT + ROTARY).astype(storage)
    cache = rows.reshape(12, BLOCK, 1, -1)

    feeds = dict(query=query, latent=latent, norm_weight=norm_weight, kv_b=kv_b, cos=cos, sin=sin, slots=slots,
                 query_starts=starts, context_lengths=contexts, block_tables=tables)
    values = [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
              for key, value in feeds.items() if key != "kv_b"]
    values.append(helper.make_tensor_value_info("cache", element, cache.shape))
    node = helper.make_node("LatentAttention", [*feeds, "cache"], ["y", "cache_out"], domain="hybridseek", scale=SCALE, epsilon=EPSILON)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [tokens, HEADS * VALUE]),
               helper.make_tensor_value_info("cache_out", element, cache.shape)]
    graph = helper.make_graph([node], "attention", values, outputs, [numpy_helper.from_array(kv_b, "kv_b")])
    model = helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("hybridseek", 1)])
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    bits = cache.view(integer).copy()
    tensor = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, element)
    binding.bind_ortvalue_input("cache", tensor)
    binding.bind_ortvalue_output("cache_out", tensor)
    for key, value in feeds.items():
        if key != "kv_b":
            binding.bind_cpu_input(key, value)
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    y = binding.get_outputs()[1].numpy().reshape(tokens, HEADS, VALUE)

    wide = latent.astype(np.float64)
    compressed = wide[:, :LATENT]
    normed = compressed / np.sqrt((compressed**2).mean(-1, keepdims=True) + EPSILON) * norm_weight
    want_rows = np.concatenate([normed, rotated(wide[:, LATENT:], cos, sin)], -1)
    stored = bits.view(storage).astype(np.float64).reshape(-1, LATENT + ROTARY)
    smallest = 2.0**-6 if name == "fp8" else 0  # below it neighbours lie equally far apart
    row_error = (np.abs(stored[slots] - want_rows) / np.maximum(np.abs(want_rows), smallest)).max() / step
    untouched = np.setdiff1d(np.arange(len(rows)), slots)
    same = (bits.reshape(len(rows), -1)[untouched] == rows.view(integer)[untouched]).all()

    split = query.astype(np.float64).reshape(tokens, HEADS, -1)
    rope = np.stack([rotated(split[:, h, NOPE:], cos, sin) for h in range(HEADS)], 1)
    up = kv_b.astype(np.float64)
    want = np.zeros(y.shape)
    for b, (past, new) in enumerate(SEQUENCES):
        context = stored[[slot(b, position) for position in range(past + new)]] if new else None
        for i in range(new):
            t, seen = starts[b] + i, past + i + 1
            for h in range(HEADS):
                keys = np.concatenate([context[:seen, :LATENT] @ up[h, :NOPE].T, context[:seen, LATENT:]], -1)
                scores = keys @ np.concatenate([split[t, h, :NOPE], rope[t, h]]) * SCALE
                weights = np.exp(scores - scores.max())
                want[t, h] = up[h, NOPE:] @ (weights / weights.sum() @ context[:seen, :LATENT])
    error = np.nan_to_num(np.abs(y - want), nan=np.inf).max() / np.abs(want).max()
    good = error <= bound and row_error <= 0.51 and same
    print(f"{'ok' if good else 'FAILED'} {name}: y {error:.1e}, rows {row_error:.2f} steps, others untouched: {same}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
