"""The parts of ``benchmark.py``."""

import lib  # noqa: F401  (before torch: it sets up OpenMP)
