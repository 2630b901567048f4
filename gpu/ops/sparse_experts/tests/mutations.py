"""Takes synchronisation out of the compiled kernels of SparseExperts, one instruction at a time.

    mutations.py LIBRARY TOLERANCES

Each must be caught, but for those that MUTANTS lets survive, and why.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "emu" / "tests"))
from mutants import Kernels  # noqa: E402

# title: case, kernel, instructions
MUTANTS = {
    "product of few rows": ("few_deep", "grouped_gemmINS_11Int4WeightsENS_7FewRowsENS_11StoreSwiGlu", {
        r"cp\.async\.wait_group": (0, ""),
        r"cp\.async\.commit_group": (0, ""),
        r"bar\.sync": (0, ""),
    }),
    "product of many rows": ("many_rows", "grouped_gemmINS_11Int4WeightsENS_8ManyRowsENS_11StoreSwiGlu", {
        r"cp\.async\.wait_group": (0, ""),
        r"cp\.async\.commit_group": (0, ""),
        r"bar\.sync": (0, ""),
    }),
    "sorting": ("long_list", "sort_hits", {
        r"bar\.sync": (1, "the last, behind which nothing is written to shared memory"),
    }),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("tolerances")
    options = parser.parse_args()
    script = Path(__file__).with_name("cases.py")
    good = True
    for title, (case, entry, mutants) in MUTANTS.items():
        kernels = Kernels([sys.executable, str(script), options.library, "int4", options.tolerances, "--case", case])
        good &= kernels.check(title, entry, mutants)
    sys.exit(not good)


if __name__ == "__main__":
    main()
