"""The op PagedAttention as CUDA kernels, on the emulated runtime, inside stock onnxruntime: against float64.

    check_cuda_paged.py LIBRARY WIDTH

LIBRARY serves CPU sessions with the CUDA kernels, WIDTH is that of keys and values: FlashInfer's are 128. The
rows that the step appends must be those of float64, rounded to the nearest bf16, and y what attention over the
rows as they are stored gives. Heads of which there is no kernel, and caches of f32, must be refused.
"""

import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

BLOCK, HEADS, GROUPS = 16, 6, 2
# Tokens before, new tokens; the one without tokens and the one on the scratch block are padding.
SEQUENCES = [(40, 1), (0, 0), (5, 20), (0, 1), (0, 33)]
BLOCKS = 12


def session_of(library, width, element, tokens):
    sizes = dict(query=[tokens, HEADS * width], key=[tokens, GROUPS * width], value=[tokens, GROUPS * width],
                 cos=[tokens, width // 2], sin=[tokens, width // 2])
    step = dict(slots=[tokens], query_starts=[len(SEQUENCES) + 1], context_lengths=[len(SEQUENCES)],
                block_tables=[len(SEQUENCES), 4])
    cache = [BLOCKS, BLOCK, GROUPS, width]
    value = helper.make_tensor_value_info
    inputs = [value(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()]
    inputs += [value(name, TensorProto.INT32, shape) for name, shape in step.items()]
    inputs += [value(name, element, cache) for name in ("key_cache", "value_cache")]
    outputs = [value("y", TensorProto.FLOAT, [tokens, HEADS * width])]
    outputs += [value(name + "_out", element, cache) for name in ("key_cache", "value_cache")]
    node = helper.make_node("PagedAttention", [v.name for v in inputs], [v.name for v in outputs], domain="hybridseek",
                            name="attention", scale=width**-0.5, rotary_interleaved=0)
    graph = helper.make_graph([node], "attention", inputs, outputs)
    model = helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("hybridseek", 1)])
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def refused(library, width, element, reason):
    try:
        session_of(library, width, element, 5)
    except Exception as problem:
        return 'PagedAttention "attention"' in str(problem) and reason in str(problem)
    return False


def main():
    library, width = sys.argv[1], int(sys.argv[2])
    rng = np.random.default_rng(7)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    counts = [new for _, new in SEQUENCES]
    contexts = np.array([past + new for past, new in SEQUENCES], np.int32)
    starts = np.cumsum([0, *counts]).astype(np.int32)
    tokens = int(starts[-1])
    tables = np.full((len(SEQUENCES), 4), 2_000_000_000, np.int32)
    free = list(rng.permutation(np.arange(1, BLOCKS)))
    for b, context in enumerate(contexts):
        for i in range(-(-context // BLOCK)):
            tables[b, i] = 0 if b == 3 else free.pop()
    slot = lambda b, position: tables[b, position // BLOCK] * BLOCK + position % BLOCK
    slots = np.array([slot(b, past + i) for b, (past, new) in enumerate(SEQUENCES) for i in range(new)], np.int32)
    query, key, value = (normal(tokens, heads * width) for heads in (HEADS, GROUPS, GROUPS))
    angles = rng.uniform(0, 6, (tokens, width // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    caches = []
    for _ in range(2):
        rows = np.full((BLOCKS * BLOCK, GROUPS, width), np.nan, ml_dtypes.bfloat16)
        for b, (past, _) in enumerate(SEQUENCES):
            for position in range(past):
                rows[slot(b, position)] = normal(GROUPS, width)
        caches.append(rows)

    session = session_of(library, width, TensorProto.BFLOAT16, tokens)
    binding = session.io_binding()
    bits = [rows.view(np.uint16).reshape(BLOCKS, BLOCK, GROUPS, width).copy() for rows in caches]
    for name, array in zip(("key_cache", "value_cache"), bits):
        tensor = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, TensorProto.BFLOAT16)
        binding.bind_ortvalue_input(name, tensor)
        binding.bind_ortvalue_output(name + "_out", tensor)
    for name, array in dict(query=query, key=key, value=value, cos=cos, sin=sin, slots=slots, query_starts=starts,
                            context_lengths=contexts, block_tables=tables).items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    y = binding.get_outputs()[2].numpy().reshape(tokens, HEADS, width)

    def rotated(rows, heads):
        wide = rows.astype(np.float64).reshape(tokens, heads, width)
        a, b = wide[..., : width // 2], wide[..., width // 2 :]
        c, s = cos[:, None].astype(np.float64), sin[:, None].astype(np.float64)
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    stored = [array.view(ml_dtypes.bfloat16).astype(np.float64).reshape(-1, GROUPS, width) for array in bits]
    want_rows = rotated(key, GROUPS), value.astype(np.float64).reshape(tokens, GROUPS, width)
    row_error = max((np.abs(got[slots] - want) / np.abs(want)).max() for got, want in zip(stored, want_rows)) * 2**7
    others = np.setdiff1d(np.arange(BLOCKS * BLOCK), slots)
    same = all((array.reshape(-1, GROUPS, width)[others] == rows.view(np.uint16)[others]).all()
               for array, rows in zip(bits, caches))
    want, asked = np.zeros(y.shape), rotated(query, HEADS)
    for b, (past, new) in enumerate(SEQUENCES):
        for i in range(new):
            at = [slot(b, position) for position in range(past + i + 1)]
            for h in range(HEADS):
                group = h // (HEADS // GROUPS)
                scores = stored[0][at, group] @ asked[starts[b] + i, h] * width**-0.5
                weights = np.exp(scores - scores.max())
                want[starts[b] + i, h] = weights / weights.sum() @ stored[1][at, group]
    error = np.nan_to_num(np.abs(y - want), nan=np.inf).max() / np.abs(want).max()
    refusals = (refused(library, 24, TensorProto.BFLOAT16, "multiples of 16"),
                refused(library, width, TensorProto.FLOAT, "must be bfloat16"))
    good = error <= 6e-3 and row_error <= 0.51 and same and all(refusals)
    print(f"{'ok' if good else 'FAILED'} {width} columns: y {error:.1e}, rows {row_error:.2f} steps, others untouched: "
          f"{same}, refusals: {refusals}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
