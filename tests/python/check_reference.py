"""The exported reference model in stock Python onnxruntime, against its goldens made with transformers.

    python check_reference.py PACKAGE GOLDENS [LIBRARY]

The package in f32, GOLDENS = ../shared/reference-goldens; with LIBRARY the op library's kernels run.

Checks the last logits and the greedy tokens of every prompt and the held-out perplexity. Prints the figures; exits
with 1 if one is off.
"""
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from check_package import LOGIT_BOUND, Model, Report

END, MOST_TOKENS = 4089, 96
PERPLEXITY_BOUND = 1e-4  # relative


def check_prompts(model, goldens, report):
    tensors = load_file(goldens / "generations.safetensors")
    generations = json.loads((goldens / "generations.json").read_text())["generations"]
    errors, equal = [], 0
    for i, generation in enumerate(generations):
        want = tensors[f"prompt.{i}.last_logits"]
        model.reset()
        logits = model.step([("only", generation["input_ids"])])["logits"][0]
        errors.append(np.abs(logits - want).max() / (want.max() - want.min()))
        new = [int(logits.argmax())]
        while new[-1] != END and len(new) < MOST_TOKENS:
            new.append(int(model.step([("only", new[-1:])])["logits"][0].argmax()))
        equal += new == generation["greedy_ids"]
    error = np.max(errors)  # not max: a NaN must win
    report.line(error <= LOGIT_BOUND, f"last logits of {len(generations)} prompts: error {error:.1e} of the range")
    report.line(equal == len(generations), f"greedy: {equal} of {len(generations)} texts equal")


def check_perplexity(model, goldens, report):
    heldout = json.loads((goldens / "heldout-perplexity.json").read_text())
    total, count = 0.0, 0
    for tokens in heldout["all_docs"]:
        logits = model.logits(tokens).astype("f8")[:-1]
        top = logits.max(-1, keepdims=True)
        nll = np.log(np.exp(logits - top).sum(-1)) + top[:, 0] - logits[np.arange(len(tokens) - 1), tokens[1:]]
        total, count = total + nll.sum(), count + len(nll)
    perplexity = np.exp(total / count)
    change = perplexity / heldout["perplexity"] - 1
    report.line(abs(change) <= PERPLEXITY_BOUND, f"perplexity of {count} tokens: {perplexity:.6f}, {change:+.1e} relative")


if __name__ == "__main__":
    model, report = Model(Path(sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else None), Report()
    goldens = Path(sys.argv[2])
    check_prompts(model, goldens, report)
    check_perplexity(model, goldens, report)
    sys.exit(0 if report.good else 1)
