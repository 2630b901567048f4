"""A model with routed experts on the host, whose other ops run as CUDA kernels on the emulated runtime.

    check_cuda_hybrid.py LIBRARY NATIVE PACKAGE TOLERANCE LAYERS PLACED...

LIBRARY serves CPU sessions with the CUDA kernels, NATIVE with the CPU's. PACKAGE has LAYERS layers with routed
experts, and files PLACED whose last 0, 1, ... of these are on the host, as their names say: `placed-N.onnx`.
For each:

- logits are within TOLERANCE of stock onnxruntime's, and the likeliest token is the same wherever its lead is
  above four times that, for tokens that choose the same experts there: near ties of a random model's routers
  fall either way;
- a step launches the kernel that chooses experts once for each layer that is not on the host, by the emulated
  runtime's own log;
- each node on the host gives, for the same rows, the bits of SparseExperts in a session of NATIVE.

HYBRIDSEEK_EMU_LOG must name the log's file.
"""

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from check_cuda_session import BLOCK, Check, Session

HOST = "HostSparseExperts"


def choices():
    """Launches so far of the kernel that chooses experts."""
    log = Path(os.environ["HYBRIDSEEK_EMU_LOG"])
    return log.read_text().count("choose_experts") if log.exists() else 0


def cpu_experts(library, package, model, node, x):
    """y, experts and weights of a node's rows by the CPU kernel."""
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    alone.op_type = "SparseExperts"
    alone.input[0] = "x"
    del alone.output[:]
    alone.output.extend(["y", "experts", "weights"])
    value = lambda name, type: onnx.helper.make_tensor_value_info(name, type, None)
    graph = onnx.helper.make_graph(
        [alone], "node", [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", x.shape[1]])],
        [value("y", onnx.TensorProto.FLOAT), value("experts", onnx.TensorProto.INT32), value("weights", onnx.TensorProto.FLOAT)],
        [t for t in model.graph.initializer if t.name in node.input])
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(package))
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(single.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def main():
    library, native, package, tolerance, layers, *placed = sys.argv[1:]
    check = Check(float(tolerance))
    # Two prompts, a chunk and tokens of both, tokens of both.
    random = np.random.default_rng(1)
    first, second = random.integers(0, 500, 45).tolist(), random.integers(0, 500, 9).tolist()
    one, other = [1, 4, 3], [2]
    steps = [[(first[:20], 0, one), (second[:7], 0, other)],
             [(first[20:44], 20, one), (second[7:8], 7, other)],
             [(first[44:], 44, one), (second[8:], 8, other)]]
    stock = Session(package, None, 5)
    wanted = [stock.run(step) for step in steps]

    for path in placed:
        count = int(Path(path).stem.split("-")[1])
        model = onnx.load(path, load_external_data=False)
        hosts = [node for node in model.graph.node if node.op_type == HOST]
        routers = {node.input[1] for node in hosts}
        x_type = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["T", None])
        names = list(dict.fromkeys(name for node in hosts for name in (node.input[0], node.output[0])))
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.helper.make_value_info(name, x_type) for name in names if name not in known)
        session = Session(package, library, 5, model=model)
        good = len(routers) == count
        for number, step in enumerate(steps):
            before = choices()
            logits, experts = session.run(step)
            launches = choices() - before
            want, right_experts = wanted[number]
            same = (experts == right_experts).all(-1)
            good &= same.mean() >= 0.8
            what = f"{count} of {layers} layers on the host, step {number}, {same.sum()} of {len(same)} tokens"
            check.logits(what, logits[same], want[same])
            good &= launches == int(layers) - count
            for node in hosts:
                y, *_ = cpu_experts(native, package, model, node, session.results[node.input[0]])
                good &= y.tobytes() == session.results[node.output[0]].tobytes() and bool(np.abs(y).max() > 0)
        check.good &= good
        print(f"{'ok' if good else 'FAILED'} {count} of {layers}: {launches} choices on the device, "
              f"{len(hosts)} nodes with the CPU kernel's bits", flush=True)
    sys.exit(not check.good)


if __name__ == "__main__":
    main()
