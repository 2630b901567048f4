"""Runs the kernels of SparseExperts on the emulated CUDA runtime and compares them with float64.

    cases.py LIBRARY FORMAT TOLERANCES [--case NAME]

LIBRARY is the shared library of gpu/ops/sparse_experts, linked with the emulated runtime; FORMAT is bf16,
int8, int4 or fp8. Two references: float64 of what is given ("output"), and float64 with the activations
rounded to bf16 where the kernels round them ("rounded"), which leaves little room for anything else.
Prints a line per case and ends with 1 if one is beyond its tolerance.
"""

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "emu" / "tests"))
from cuda_device import Device  # noqa: E402

FORMATS = {"bf16": 0, "int8": 1, "int4": 2, "fp8": 3}


@dataclass
class Case:
    tokens: int
    hidden: int
    width: int
    experts: int
    k: int
    groups: int = 1
    top_groups: int = 1
    normalize: int = 0
    scaling: float = 1.0
    first: int = 0
    held: int = 0  # 0: all from `first` on
    ties: bool = False
    only: int = -1  # an expert that every token likes best
    once: bool = False  # the experts' matrices must be read once


CASES = {
    "one_token": Case(1, 128, 64, 16, 4),
    "few_tokens": Case(7, 192, 64, 9, 3, scaling=2.5),
    "every_expert": Case(24, 64, 128, 6, 3, normalize=1),
    "one_expert": Case(20, 128, 64, 8, 1, only=5),
    "groups": Case(5, 64, 64, 16, 4, groups=4, top_groups=2, scaling=16.0),
    "few_deep": Case(3, 832, 64, 4, 2),
    "most_experts": Case(3, 64, 64, 256, 8, groups=8, top_groups=3),
    "ties": Case(6, 64, 64, 12, 5, ties=True),
    "tied_groups": Case(6, 64, 64, 16, 3, groups=8, top_groups=3, ties=True),
    "held": Case(9, 64, 64, 12, 2, first=5, held=3),
    "none_hit": Case(3, 64, 64, 8, 1, only=1, first=4, held=4),
    "many_rows": Case(70, 320, 192, 2, 2),
    "many_rows_held": Case(150, 128, 64, 5, 3, first=1, held=3, normalize=1, scaling=0.5),
    "long_list": Case(600, 64, 64, 3, 1),
    "weights_once": Case(2, 1024, 512, 4, 2, only=2, once=True),
}


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in
                ("hidden", "width", "experts", "first", "held", "k", "groups", "top_groups", "normalize")]
    _fields_ += [("scaling", ctypes.c_float), ("format", ctypes.c_uint32)]


class Tensors(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in
                ("x", "router", "gate_up", "gate_up_scales", "down", "down_scales", "y", "chosen", "weights", "workspace")]


def stored(matrix, form):
    """Bytes and scales of matrices [held, rows, columns] as the kernels take them, and their values."""
    if form == "bf16":
        levels = matrix.astype(ml_dtypes.bfloat16)
        return levels.view(np.uint8), None, levels.astype(np.float64)
    if form == "fp8":
        scales = (np.abs(matrix).max(-1) / 448).astype(np.float32)
        levels = (matrix / scales[..., None]).astype(ml_dtypes.float8_e4m3fn)
        return levels.view(np.uint8), scales, levels.astype(np.float64) * scales[..., None]
    blocks = matrix.reshape(*matrix.shape[:2], -1, 32)
    zero, most = (128, 255) if form == "int8" else (8, 15)
    scales = (np.abs(blocks).max(-1) / (zero - 1)).astype(np.float16)
    levels = np.clip(np.round(blocks / scales[..., None].astype(np.float64)) + zero, 0, most).astype(np.uint8)
    # The lowest level too, which rounding alone never gives.
    levels[..., 0, 0] = 0
    values = ((levels.astype(np.float64) - zero) * scales[..., None]).reshape(matrix.shape)
    levels = levels.reshape(matrix.shape)
    packed = levels if form == "int8" else levels[..., 0::2] | levels[..., 1::2] << 4
    return np.ascontiguousarray(packed), scales, values


def route(case, logits):
    """The choice as the op defines it: experts [T, K], weights [T, K], and the smallest gap it hung on."""
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    chosen = np.zeros((case.tokens, case.k), np.int32)
    weights = np.zeros((case.tokens, case.k))
    for t, row in enumerate(scores):
        best = row.reshape(case.groups, -1).max(-1)
        kept = sorted(range(case.groups), key=lambda g: (-best[g], g))[: case.top_groups]
        size = case.experts // case.groups
        allowed = [e for e in range(case.experts) if e // size in kept]
        chosen[t] = sorted(allowed, key=lambda e: (-row[e], e))[: case.k]
        picked = row[chosen[t]]
        weights[t] = picked / (picked.sum() if case.normalize else 1) * case.scaling
    return chosen, weights


def rounded(array):
    return array.astype(ml_dtypes.bfloat16).astype(np.float64)


def expected(case, x, gate_up, down, chosen, weights, rounding):
    held = case.held or case.experts - case.first
    y = np.zeros((case.tokens, case.hidden))
    for t in range(case.tokens):
        for e, weight in zip(chosen[t] - case.first, weights[t]):
            if 0 <= e < held:
                both = gate_up[e] @ rounding(x[t])
                gate, up = both[0::2], both[1::2]
                y[t] += weight * (down[e] @ rounding(gate / (1 + np.exp(-gate)) * up))
    return y


def run_case(library, form, case, seed=5):
    rng = np.random.default_rng(seed)
    held = case.held or case.experts - case.first
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    x = normal(case.tokens, case.hidden)
    router = normal(case.experts, case.hidden) * np.float32(2 * case.hidden**-0.5)
    if case.ties:
        router[1::2] = router[0::2]
    if case.only >= 0:
        x[:, 0] = 8
        router[:, 0] = 0
        router[case.only, 0] = 4
    gate_up, gate_up_scales, gate_up_values = stored(normal(held, 2 * case.width, case.hidden) * case.hidden**-0.5, form)
    down, down_scales, down_values = stored(normal(held, case.hidden, case.width) * case.width**-0.5, form)
    chosen, weights = route(case, x.astype(np.float64) @ router.T.astype(np.float64))

    # Experts that nobody chose hold what is no number: whatever reads them shows.
    unused = [e for e in range(held) if e + case.first not in chosen]
    for levels, scales in ((gate_up, gate_up_scales), (down, down_scales)):
        if scales is not None:
            scales[unused] = np.nan
        else:
            levels.view(ml_dtypes.bfloat16)[unused] = np.nan

    shape = Shape(case.hidden, case.width, case.experts, case.first, held, case.k, case.groups, case.top_groups,
                  case.normalize, case.scaling, FORMATS[form])
    device = Device(library)
    library.sparse_experts_workspace.restype = ctypes.c_size_t
    workspace = library.sparse_experts_workspace(ctypes.byref(shape), case.tokens)
    put = lambda array: None if array is None else device.put(array)
    y = device.empty(case.tokens * case.hidden * 4)
    chosen_at, weights_at = device.empty(chosen.nbytes), device.empty(chosen.nbytes)
    tensors = Tensors(put(x), put(router), put(gate_up), put(gate_up_scales), put(down), put(down_scales), y,
                      chosen_at, weights_at, device.empty(workspace))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYBRIDSEEK_EMU_LOG"] = log = str(Path(folder, "launches"))
        code = library.sparse_experts_run(ctypes.byref(shape), ctypes.byref(tensors), case.tokens, None)
        device.check(code, "sparse_experts_run")
        launches = [json.loads(line) for line in Path(log).read_text().splitlines()]
    got_chosen = device.get(chosen_at, chosen.shape, np.int32)
    got_weights = device.get(weights_at, chosen.shape, np.float32)
    got = device.get(y, x.shape, np.float32).astype(np.float64)
    device.release()

    errors = {}
    if not (got_chosen == chosen).all():
        t = np.argwhere((got_chosen != chosen).any(-1))[0, 0]
        raise RuntimeError(f"token {t} chose {got_chosen[t]}, not {chosen[t]}")
    errors["weights"] = np.abs(got_weights - weights).max() / np.abs(weights).max()
    for name, rounding in (("output", lambda array: array), ("rounded", rounded)):
        want = expected(case, x.astype(np.float64), gate_up_values, down_values, chosen, weights, rounding)
        # A NaN must not compare as small.
        difference = np.nan_to_num(np.abs(got - want), nan=np.inf).max()
        errors[name] = difference / max(np.abs(want).max(), 1e-30) if difference > 0 else 0.0
    if case.once:
        once(case, chosen, launches, (gate_up, gate_up_scales, down, down_scales))
    return errors


def once(case, chosen, launches, matrices):
    """Refuses a run whose products read more than the used experts' matrices once and the activations."""
    used = len(set(chosen.flat))
    stacks = [sum(array.nbytes for array in pair if array is not None) // case.experts for pair in
              (matrices[:2], matrices[2:])]
    products = [launch for launch in launches if "grouped_gemm" in launch["kernel"]]
    for launch, stack, depth, index in zip(products, stacks, (case.hidden, case.width), (4, 0)):
        weights = used * stack
        columns = launch["grid"][1]
        # Every block reads the rows it multiplies with, and for 256 bytes of them their index; every warp
        # which rows those are.
        activations = chosen.size * (depth * 2 + depth // 128 * index) * columns
        places = used * columns * launch["block"][0] // 32 * 20
        read = launch["globalBytesRead"] - activations - places
        print(f"  {used} experts of {stack} B: {read / weights:.3f} times that was read")
        if not weights <= read <= 1.02 * weights:
            raise RuntimeError(f"{read} B were read for {weights} B of weights")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("tolerances")
    parser.add_argument("--case", choices=CASES)
    options = parser.parse_args()
    library = ctypes.CDLL(options.library)
    tolerance = json.loads(Path(options.tolerances).read_text())[options.format]
    failed = False
    for name, case in CASES.items():
        if options.case not in (None, name):
            continue
        begin = time.time()
        try:
            errors = run_case(library, options.format, case)
            good = all(error <= tolerance[what] for what, error in errors.items())
            listed = ", ".join(f"{what} {error:.1e}" for what, error in errors.items())
            print(f"{'ok' if good else 'FAILED'} {options.format} {name}: {listed}, {time.time() - begin:.2f} s", flush=True)
        except RuntimeError as problem:
            good = False
            print(f"FAILED {options.format} {name}: {problem}", flush=True)
            library.cudaDeviceReset()
        failed |= not good
    sys.exit(failed)


if __name__ == "__main__":
    main()
