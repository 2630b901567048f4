"""Takes instructions out of compiled kernels, one at a time, and counts the mutants that no run notices.

A mutant is caught when a run of the cases gives a fault or a wrong result.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

SEEDS = ["0", "1"]  # orders of warps
# Instructions of a run that ends are fewer by far.
LIMIT = "5000000"


class Kernels:
    """The PTX that `command` runs, which is a program that ends with 0 if its results are right."""

    def __init__(self, command, **environment):
        self.command = command
        self.environment = environment
        with tempfile.TemporaryDirectory() as folder:
            output = self.run(HYBRIDSEEK_EMU_DUMP=folder)
            if output is not None:
                raise SystemExit(f"FAILED the kernels as they are:\n{output}")
            self.sources = {source.name: source.read_text().split("\n") for source in Path(folder).iterdir()}

    def run(self, **environment):
        """The output of the first run that fails, or None."""
        for seed in SEEDS:
            variables = {**os.environ, **self.environment, **environment, "HYBRIDSEEK_EMU_SEED": seed}
            result = subprocess.run(self.command, env=variables, capture_output=True, text=True)
            if result.returncode != 0:
                return result.stdout + result.stderr
        return None

    def caught(self, name, place, replacement):
        mutant = list(self.sources[name])
        mutant[place] = replacement
        with tempfile.TemporaryDirectory() as folder:
            for other, lines in self.sources.items():
                Path(folder, other).write_text("\n".join(mutant if other == name else lines))
            return self.run(HYBRIDSEEK_EMU_PTX=folder, HYBRIDSEEK_EMU_LIMIT=LIMIT) is not None

    def check(self, title, entry, mutants):
        """Mutates the one kernel whose mangled name has `entry`.

        `mutants` says for a pattern of instructions how many may survive, and why. Prints a line for each
        and says whether all is well.
        """
        name, begin = next((name, n) for name, lines in self.sources.items() for n, line in enumerate(lines)
                           if ".entry" in line and re.search(entry, line))
        lines = self.sources[name]
        end = next((n for n in range(begin + 1, len(lines)) if ".entry" in lines[n]), len(lines))
        all_good = True
        for pattern, (allowed, reason) in mutants.items():
            places = [n for n in range(begin, end) if re.match(r"\s*(@!?%\w+\s+)?" + pattern, lines[n])]
            counts = {"caught": 0, "not reached": 0, "survive": 0}
            for place in places:
                if self.caught(name, place, ""):
                    counts["caught"] += 1
                elif not self.caught(name, place, "trap;"):
                    counts["not reached"] += 1
                else:
                    counts["survive"] += 1
                    print(f"  survives: line {place + 1}: {lines[place].strip()}", flush=True)
            good = counts["not reached"] < len(places) and counts["survive"] <= allowed
            all_good &= good
            summary = ", ".join(f"{n} {what}" for what, n in counts.items())
            print(f"{'ok' if good else 'FAILED'} {title} without {pattern}: {summary}" + (f" ({reason})" if reason else ""), flush=True)
        return all_good
