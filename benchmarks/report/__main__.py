"""`python benchmarks/report`: see `report.page`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a folder that is run has only itself there

from report.page import main

main()
