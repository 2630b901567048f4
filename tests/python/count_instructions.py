"""Counts the WebAssembly instructions of steps, for tests/engine/instruction_counts_test.ts.

    python count_instructions.py < request

The request, JSON: `modules` {build: path of the engine's .wasm}, `pages` and `start` of its memory, `job`,
`logits` {address, bytes}, `images` {step: path of the memory from `start` on, ready to run}. The answer, JSON:
{build: {step: {instructions, logitsSha256}}}.

Each build runs each image on wasmtime, whose fuel is one for each instruction executed (those that only
structure the code are free), on every machine.
"""

import hashlib
import json
import sys
from pathlib import Path

from wasmtime import Config, Engine, Instance, Limits, Memory, MemoryType, Module, Store

FUEL = 1 << 62


def count(engine, module, request, image):
    store = Store(engine)
    store.set_fuel(FUEL)
    pages, logits = request["pages"], request["logits"]
    memory = Memory(store, MemoryType(Limits(pages, pages)))
    run = Instance(store, module, [memory]).exports(store)["run"]
    memory.write(store, image, request["start"])
    before = store.get_fuel()
    run(store, request["job"], 0)
    after = store.get_fuel()
    found = memory.read(store, logits["address"], logits["address"] + logits["bytes"])
    return {"instructions": before - after, "logitsSha256": hashlib.sha256(found).hexdigest()}


def main():
    request = json.load(sys.stdin)
    config = Config()
    config.consume_fuel = True
    config.wasm_relaxed_simd = True
    config.wasm_relaxed_simd_deterministic = True
    engine = Engine(config)
    images = {step: Path(path).read_bytes() for step, path in request["images"].items()}
    answer = {}
    for build, path in request["modules"].items():
        module = Module.from_file(engine, path)
        answer[build] = {step: count(engine, module, request, image) for step, image in images.items()}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
