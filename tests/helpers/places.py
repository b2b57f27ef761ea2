"""Where the repository is, and test data that does not belong to it."""

import pathlib

HELPERS = pathlib.Path(__file__).parent
ROOT = HELPERS.parents[1]
SHARED = ROOT.parent / "shared"  # real recordings and tables, beside the repository where there are
