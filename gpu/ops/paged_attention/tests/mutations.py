"""Takes synchronisation out of our attention kernel, one instruction at a time; each must be caught.

    mutations.py LIBRARY TOLERANCES
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "emu" / "tests"))
from mutants import Kernels  # noqa: E402

MUTANTS = {
    r"cp\.async\.wait_group": (0, ""),
    r"bar\.sync": (0, ""),
}


def main():
    library, tolerances = sys.argv[1:]
    script = Path(__file__).with_name("cases.py")
    kernels = Kernels([sys.executable, str(script), library, tolerances, "--case", "small"])
    sys.exit(not kernels.check("generic attention", "generic_attentionINS0_9Bf16CacheELi2E", MUTANTS))


if __name__ == "__main__":
    main()
