"""An exported package in stock Python onnxruntime, against the goldens made with transformers.

    python check_package.py PACKAGE FIXTURE [--broken] [--library LIBRARY]

Checks: onnx.checker's full check; logits of every prompt, the trace, the padded batch and the perplexity window;
router choices; 32 greedy tokens by stepping, all prompts in one ragged batch over shuffled blocks whose unwritten rows
are NaN. Prints the figures; exits with 1 if one is off. With --broken it must be off (a body was exchanged). With
--library the op library's kernels run, on caches that are bound as input and output and updated in place.
"""
import argparse
import ctypes
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

BLOCKS, BLOCK_SIZE = 96, 16
LOGIT_BOUND = 2e-4  # of the range of the golden logits
NEAR_TIE = 1e-5  # router margins below this may go either way
GREEDY_TOKENS = 32


class Model:
    def __init__(self, folder, library=None):
        path = str(folder / "model.onnx")
        onnx.checker.check_model(path, full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.library = library and ctypes.CDLL(library)
        if library:
            options.register_custom_ops_library(library)
            self.library.hybridseek_cache_copies.restype = ctypes.c_size_t
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.reset()

    def reset(self):
        self.caches = {
            value.name: np.full([BLOCKS, BLOCK_SIZE, *value.shape[2:]], np.nan, "f4")
            for value in self.session.get_inputs() if value.name.startswith("cache.")
        }
        self.free = list(np.random.default_rng(7).permutation(np.arange(1, BLOCKS)))
        self.sequences = {}

    def step(self, parts, every_row=False):
        """parts: [(sequence, new tokens)]; returns outputs by name."""
        tokens, positions, slots, starts, lengths, tables = [], [], [], [0], [], []
        for key, new in parts:
            sequence = self.sequences.setdefault(key, {"length": 0, "blocks": []})
            for token in new:
                if sequence["length"] == len(sequence["blocks"]) * BLOCK_SIZE:
                    sequence["blocks"].append(self.free.pop())
                position = sequence["length"]
                tokens.append(token)
                positions.append(position)
                slots.append(sequence["blocks"][position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
                sequence["length"] += 1
            starts.append(len(tokens))
            lengths.append(sequence["length"])
            tables.append(sequence["blocks"])
        width = max(map(len, tables))
        rows = range(len(tokens)) if every_row else [end - 1 for end in starts[1:]]
        i32 = lambda values: np.array(values, "i4")
        feeds = dict(
            token_ids=i32(tokens), positions=i32(positions), slots=i32(slots), query_starts=i32(starts),
            context_lengths=i32(lengths), block_tables=i32([table + [0] * (width - len(table)) for table in tables]),
            logit_rows=i32(list(rows)),
        )
        if self.library:
            return self.run_in_place(feeds)
        results = dict(zip(self.outputs, self.session.run(None, feeds | self.caches)))
        for name in self.caches:
            self.caches[name] = results[f"{name}.out"]
        return results

    def run_in_place(self, feeds):
        binding, copies = self.session.io_binding(), self.library.hybridseek_cache_copies()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for name, cache in self.caches.items():
            if isinstance(cache, np.ndarray):
                cache = self.caches[name] = onnxruntime.OrtValue.ortvalue_from_numpy(cache)
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(f"{name}.out", cache)
        wanted = [name for name in self.outputs if not name.endswith(".out")]
        for name in wanted:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        outputs = dict(zip([*(f"{name}.out" for name in self.caches), *wanted], binding.get_outputs()))
        for name, cache in self.caches.items():
            assert outputs[f"{name}.out"].data_ptr() == cache.data_ptr(), f"{name} has moved"
        assert self.library.hybridseek_cache_copies() == copies, "a cache was copied"
        return {name: outputs[name].numpy() for name in wanted}

    def logits(self, tokens):
        self.reset()
        return self.step([("only", tokens)], every_row=True)["logits"]


class Report:
    good = True

    def line(self, ok, text):
        self.good &= bool(ok)
        print(f"{'ok  ' if ok else 'FAIL'} {text}")


def check_logits(model, golden, tensors, report):
    pairs = [(model.logits(prompt["input_ids"]), tensors[f"logits.{i}"]) for i, prompt in enumerate(golden["prompts"])]
    pairs.append((model.logits(golden["trace"]["input_ids"]), tensors["trace.logits"]))
    for row, want in zip(golden["batch"]["rows"], tensors["batch.right.last_logits"]):
        pairs.append((model.logits(row)[-1:], want[None]))
    # np.max, not max: a NaN must win.
    error = np.max([np.abs(got[-len(want):] - want).max() / np.ptp(want) for got, want in pairs])
    report.line(error <= LOGIT_BOUND, f"logits: error {error:.1e} of the range")


def check_perplexity(model, golden, tensors, report):
    tokens = golden["perplexity"]["input_ids"]
    logits = model.logits(tokens).astype("f8")[:-1]
    top = logits.max(-1, keepdims=True)
    nll = np.log(np.exp(logits - top).sum(-1)) + top[:, 0] - logits[np.arange(len(tokens) - 1), tokens[1:]]
    error = np.abs(nll - tensors["perplexity.token_nll"]).max()
    report.line(error <= 2e-3, f"perplexity window of {len(tokens)}: token nll error {error:.1e}")


def check_router(model, golden, tensors, report):
    model.reset()
    results = model.step([("only", golden["trace"]["input_ids"])], every_row=True)
    for key in sorted(key for key in tensors if key.endswith(".experts")):
        layer = key.split(".")[2]
        chosen, scores = np.sort(results[f"layers.{layer}.experts"], -1), tensors[f"trace.router.{layer}.scores"]
        wrong, ties = [], []
        for token in np.nonzero((chosen != tensors[key]).any(-1))[0]:
            ours, theirs = set(chosen[token]) - set(tensors[key][token]), set(tensors[key][token]) - set(chosen[token])
            margin = min(scores[token][list(theirs)]) - max(scores[token][list(ours)])
            (ties if abs(margin) <= NEAR_TIE else wrong).append(f"token {token} margin {margin:.1e}")
        report.line(not wrong, f"router of layer {layer}: {len(wrong)} choices differ {wrong}; near ties {ties}")


def check_greedy(model, golden, report):
    prompts = golden["prompts"]
    model.reset()
    news = [[] for _ in prompts]
    parts = [(i, prompt["input_ids"]) for i, prompt in enumerate(prompts)]
    for _ in range(GREEDY_TOKENS):
        rows = model.step(parts)["logits"]
        for new, row in zip(news, rows):
            new.append(int(row.argmax()))
        parts = [(i, new[-1:]) for i, new in enumerate(news)]
    equal = sum(new == prompt["greedy"] for new, prompt in zip(news, prompts))
    report.line(equal == len(prompts), f"greedy, all prompts together: {equal} of {len(prompts)} equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path)
    parser.add_argument("fixture", type=Path)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--library")
    arguments = parser.parse_args()
    golden = json.loads((arguments.fixture / "golden.json").read_text())
    tensors = load_file(arguments.fixture / "golden.safetensors")
    model, report = Model(arguments.package, arguments.library), Report()
    check_logits(model, golden, tensors, report)
    if arguments.broken:
        sys.exit(1 if report.good else 0)
    check_perplexity(model, golden, tensors, report)
    check_router(model, golden, tensors, report)
    check_greedy(model, golden, report)
    sys.exit(0 if report.good else 1)
