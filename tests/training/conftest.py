"""Lets the processes that the tests start import `toy` and `ranks` by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
