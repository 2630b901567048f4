"""Takes synchronisation out of the compiled MLA kernels, one instruction at a time; each must be caught.

    mutations.py LIBRARY KERNEL TOLERANCES

MUTANTS says which instructions are taken out, and how many of them may survive, and why.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "emu" / "tests"))
from mutants import Kernels  # noqa: E402

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
# More sequences than blocks, so that a block goes through all of its loops.
CASE = "decode_many"
MULTIPROCESSORS = "2"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("kernel", choices=MUTANTS)
    parser.add_argument("tolerances")
    options = parser.parse_args()
    script = Path(__file__).with_name("cases.py")
    command = [sys.executable, str(script), options.library, options.kernel, options.tolerances, "--case", CASE]
    kernels = Kernels(command, HYBRIDSEEK_EMU_SMS=MULTIPROCESSORS)
    # The kernel that the cases run is the one that is not causal: its traits begin with "false".
    sys.exit(not kernels.check(options.kernel, "ILb0E", MUTANTS[options.kernel]))


if __name__ == "__main__":
    main()
