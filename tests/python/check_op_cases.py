"""The function bodies in stock Python onnxruntime, or the kernels of the op library, against the op cases.

    python check_op_cases.py FOLDER [LIBRARY]    FOLDER holds <case>.onnx, written by the tests that call this

Every model must pass onnx.checker's full check. Prints one line a case; exits with 1 if one is off.
"""
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors import safe_open

TESTS = Path(__file__).parent.parent


def tolerance(op, weights, by):
    for row in json.loads((TESTS / "tolerances.json").read_text())["rows"]:
        if (row["op"], row["weights"], row["by"]) == (op, weights, by):
            return row["bound"]
    raise KeyError(f"no tolerance for {op} {weights}")


def weights_of(overload, inputs):
    if overload in ("int8", "int4"):
        return overload
    weight = inputs.get("kv_b", inputs.get("gate_up"))
    return "f16" if weight is not None and weight.dtype == np.float16 else "f32"


def check(path, library):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    with safe_open(TESTS / "op-cases" / f"{path.stem}.safetensors", "numpy") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    inputs = {key[len("input."):]: value for key, value in tensors.items() if key.startswith("input.")}
    options = onnxruntime.SessionOptions()
    if library:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, {value.name: inputs[value.name] for value in session.get_inputs()})
    good, worst = True, 0.0
    for name, got in zip(names, results):
        want = tensors[f"output.{name}"]
        if want.dtype == np.int32:
            good &= np.array_equal(got, want)
            continue
        # The experts' weights come from the router, which is f32 always.
        weights = "f32" if name == "weights" else weights_of(metadata["overload"], inputs)
        good &= np.array_equal(np.isnan(got), np.isnan(want))
        error = np.nanmax(np.abs(got - want)) / np.nanmax(np.abs(want))
        good &= bool(error <= tolerance(metadata["op"], weights, "kernel" if library else "body"))
        worst = max(worst, error)
    print(f"{'ok  ' if good else 'FAIL'} {path.stem}: {worst:.1e}")
    return good


if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).glob("*.onnx"))
    assert paths, f"no models in {sys.argv[1]}"
    library = sys.argv[2] if len(sys.argv) > 2 else None
    sys.exit(0 if all([check(path, library) for path in paths]) else 1)
