"""Where the repository is, and test data that does not belong to it."""

import pathlib

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
BENCHMARKS = ROOT / "benchmarks"
SHARED = ROOT.parent / "shared"  # real recordings and tables, beside the repository where there are
