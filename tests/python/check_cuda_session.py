"""A model whose ops run as CUDA kernels, on the emulated runtime, inside stock onnxruntime: against its golden.

    check_cuda_session.py LIBRARY PACKAGE FIXTURE WEIGHTS TOLERANCES

LIBRARY serves CPU sessions with the CUDA kernels (its build's option HYBRIDSEEK_EMULATED_CUDA); PACKAGE is
the fixture exported with WEIGHTS, f32 or int4; FIXTURE is the folder of its golden. The caches become bf16
and are updated in place. Logits of the whole prompts (f32), and of ragged steps that prefill,
decode and chunk, must be within TOLERANCES of the golden's and of those of stock onnxruntime with an f32
cache; the likeliest token must be the same wherever its lead is above four times that. Where two experts' scores
are nearly the same, rounding decides between them: tokens that were routed otherwise than by onnxruntime do not
count, and must be few.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors import safe_open

BLOCK = 16
# Of all tokens.
MOST_REROUTED = 0.05


class Session:
    """The package in a session, with caches of `blocks` blocks; without a library, stock onnxruntime's f32.
    `model` stands for the package's file. A step's outputs but for the caches are kept as `results`."""

    def __init__(self, package, library, blocks, model=None):
        model = model or onnx.load(Path(package, "model.onnx"), load_external_data=False)
        element = onnx.TensorProto.BFLOAT16 if library else onnx.TensorProto.FLOAT
        caches = [v for v in (*model.graph.input, *model.graph.output) if v.name.startswith("cache.")]
        for value in caches:
            value.type.tensor_type.elem_type = element
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(package))
        if library:
            options.register_custom_ops_library(library)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.caches = []
        for value in model.graph.input:
            if not value.name.startswith("cache."):
                continue
            heads, row = (size.dim_value for size in value.type.tensor_type.shape.dim[2:])
            # Rows that nobody wrote are no numbers.
            shape = (blocks, BLOCK, heads, row)
            bits = np.full(shape, 0x7FC0, np.uint16) if library else np.full(shape, np.nan, np.float32)
            tensor = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, element)
            self.caches.append(tensor)
            self.binding.bind_ortvalue_input(value.name, tensor)
            self.binding.bind_ortvalue_output(value.name + ".out", tensor)

    def run(self, step):
        """Logits of every token of a step, [(tokens, how many came before, blocks), ...], and its experts."""
        tokens = [t for sequence, _, _ in step for t in sequence]
        positions = [past + i for sequence, past, _ in step for i in range(len(sequence))]
        slots = [blocks[(past + i) // BLOCK] * BLOCK + (past + i) % BLOCK
                 for sequence, past, blocks in step for i in range(len(sequence))]
        starts = np.cumsum([0] + [len(sequence) for sequence, _, _ in step])
        contexts = [past + len(sequence) for sequence, past, _ in step]
        tables = np.full((len(step), max(len(blocks) for _, _, blocks in step) + 1), 0)
        for row, (_, _, blocks) in zip(tables, step):
            row[: len(blocks)] = blocks
        feeds = dict(token_ids=tokens, positions=positions, slots=slots, query_starts=starts, context_lengths=contexts,
                     block_tables=tables, logit_rows=np.arange(len(tokens)))
        for name, value in feeds.items():
            self.binding.bind_cpu_input(name, np.array(value, np.int32))
        others = [output.name for output in self.session.get_outputs() if not output.name.startswith("cache.")]
        for name in others:
            self.binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(self.binding)
        # In the order in which they were bound.
        values = self.binding.get_outputs()[len(self.caches):]
        self.results = {name: value.numpy() for name, value in zip(others, values)}
        experts = [np.sort(self.results[name], -1) for name in others if name.endswith(".experts")]
        return self.results["logits"], np.concatenate(experts, -1) if experts else np.zeros((len(tokens), 0))


class Check:
    def __init__(self, declared):
        self.declared = declared
        self.good = True
        self.tokens = self.rerouted = 0

    def step(self, what, step, cuda, stock, want=None):
        """Runs a step in both sessions; `want`, if not what the second gives, are the logits of its last tokens."""
        (got, experts), (reference, right_experts) = cuda.run(step), stock.run(step)
        want = reference if want is None else want
        last = slice(len(got) - len(want), None)
        rerouted = (experts != right_experts).any(-1)[last]
        self.tokens += len(want)
        self.rerouted += rerouted.sum()
        self.logits(f"{what}, {rerouted.sum()} routed otherwise", got[last][~rerouted], want[~rerouted])

    def logits(self, what, got, want):
        error = np.nan_to_num(np.abs(got - want), nan=np.inf).max(initial=0)
        ordered = np.sort(want, -1)
        decided = ordered[:, -1] - ordered[:, -2] > 4 * self.declared
        wrong = (got.argmax(-1) != want.argmax(-1)) & decided
        good = error <= self.declared and not wrong.any()
        self.good &= good
        print(f"{'ok' if good else 'FAILED'} {what}: logits within {error:.2e} of {np.abs(want).max(initial=0):.1f}, "
              f"{decided.sum()} of {len(want)} tokens decided, {wrong.sum()} wrong", flush=True)

    def finish(self):
        self.good &= bool(self.rerouted <= MOST_REROUTED * self.tokens)
        print(f"{'ok' if self.good else 'FAILED'}: {self.rerouted} of {self.tokens} tokens routed otherwise")
        sys.exit(not self.good)


def main():
    library, package, fixture, weights, tolerances = sys.argv[1:]
    golden = json.loads(Path(fixture, "golden.json").read_text())
    with safe_open(Path(fixture, "golden.safetensors"), "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    declared = json.loads(Path(tolerances).read_text())
    check = Check(declared.get(Path(fixture).name, declared[weights]))
    prompts = [prompt["input_ids"] for prompt in golden["prompts"]]
    follows = [prompt["greedy"] for prompt in golden["prompts"]]
    blocks = [[1 + 8 * i + j for j in (3, 0, 6, 1, 4, 7, 2, 5)] for i in range(len(prompts))]
    open_session = lambda library: Session(package, library, 1 + 8 * len(prompts))

    if weights == "f32":
        sessions = open_session(library), open_session(None)
        for i, tokens in enumerate(prompts):
            check.step(f"prompt of {len(tokens)}", [(tokens, 0, blocks[i])], *sessions, tensors[f"logits.{i}"])
        check.step("trace", [(golden["trace"]["input_ids"], 0, blocks[0])], *sessions, tensors["trace.logits"])

    # The same steps by the bodies in the file.
    sessions = open_session(library), open_session(None)
    past = [0] * len(prompts)
    for number in range(4):
        step = []
        for i, tokens in enumerate(prompts):
            # Two chunks of the longest prompt, then its golden continuation, as the others from the start.
            all_tokens = [*tokens, *follows[i]]
            end = 23 if number == 0 and len(tokens) > 40 else max(len(tokens), past[i] + 1)
            step.append((all_tokens[past[i]: end], past[i], blocks[i]))
            past[i] = end
        check.step(f"step {number}, {sum(len(s) for s, _, _ in step)} tokens", step, *sessions)
    check.finish()


if __name__ == "__main__":
    main()
