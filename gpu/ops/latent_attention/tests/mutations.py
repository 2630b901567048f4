"""Takes synchronisation out of the compiled MLA kernels, one instruction at a time; each must be caught.

    mutations.py LIBRARY KERNEL TOLERANCES

A mutant is caught when a run gives a fault or a wrong result. MUTANTS says which instructions are taken out,
and how many of them may survive, and why.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MUTANTS = {
    "sm80_bf16": {
        r"cp\.async\.wait_group": (0, ""),
        r"bar\.sync": (5, "three before the weights are stored, which the barrier of the row maxima makes needless; "
                          "one behind the loop, before sums that have shared memory of their own; and the first of "
                          "the grid's barrier, which orders global memory, where the executor sees no races"),
    },
    "sm90_bf16": {
        r"mbarrier\.arrive\.": (0, ""),
        r"cp\.async\.mbarrier\.arrive": (1, "the queries' copies also arrive with the first keys', "
                                             "which the consumer waits for before it reads either"),
        r"wgmma\.wait_group": (0, ""),
        r"bar\.sync": (1, "the barrier behind the grid's, which ends with one"),
        r"barrier\.sync": (2, "the grid's two, beside each of which the kernel has one more"),
        r"bar\.arrive": (0, ""),
    },
}
# More sequences than blocks, so that a block goes through all of its loops; in two orders of warps.
CASE = "decode_many"
MULTIPROCESSORS = "2"
SEEDS = ["0", "1"]
# Instructions of a run that ends are fewer by far.
LIMIT = "5000000"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("kernel", choices=MUTANTS)
    parser.add_argument("tolerances")
    options = parser.parse_args()
    script = Path(__file__).with_name("cases.py")
    command = [sys.executable, str(script), options.library, options.kernel, options.tolerances]

    def run(**environment):
        """The output of the first run that fails, or None."""
        for seed in SEEDS:
            environment = {**environment, "HYBRIDSEEK_EMU_SMS": MULTIPROCESSORS, "HYBRIDSEEK_EMU_SEED": seed}
            result = subprocess.run([*command, "--case", CASE], env={**os.environ, **environment}, capture_output=True, text=True)
            if result.returncode != 0:
                return result.stdout + result.stderr
        return None

    with tempfile.TemporaryDirectory() as original, tempfile.TemporaryDirectory() as changed:
        output = run(HYBRIDSEEK_EMU_DUMP=original)
        if output is not None:
            sys.exit(f"FAILED the kernel as it is:\n{output}")
        (source,) = Path(original).iterdir()
        lines = source.read_text().split("\n")
        # The kernel that the cases run is the one that is not causal: its traits begin with "false".
        begin = next(n for n, line in enumerate(lines) if ".entry" in line and "ILb0E" in line)
        end = next((n for n in range(begin + 1, len(lines)) if ".entry" in lines[n]), len(lines))

        def caught(place, replacement):
            mutant = list(lines)
            mutant[place] = replacement
            Path(changed, source.name).write_text("\n".join(mutant))
            return run(HYBRIDSEEK_EMU_PTX=changed, HYBRIDSEEK_EMU_LIMIT=LIMIT) is not None

        failed = False
        for pattern, (allowed, reason) in MUTANTS[options.kernel].items():
            places = [n for n in range(begin, end) if re.match(r"\s*(@!?%\w+\s+)?" + pattern, lines[n])]
            counts = {"caught": 0, "not reached": 0, "survive": 0}
            for place in places:
                if caught(place, ""):
                    counts["caught"] += 1
                elif not caught(place, "trap;"):
                    counts["not reached"] += 1
                else:
                    counts["survive"] += 1
                    print(f"  survives: line {place + 1}: {lines[place].strip()}", flush=True)
            good = bool(places) and counts["survive"] <= allowed
            failed |= not good
            summary = ", ".join(f"{n} {what}" for what, n in counts.items())
            print(f"{'ok' if good else 'FAILED'} {options.kernel} without {pattern}: {summary}" + (f" ({reason})" if reason else ""), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
