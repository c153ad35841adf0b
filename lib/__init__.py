"""Everything the scripts share: data, losses, metrics, the training engine, and below them all the point operations."""

import os

# Read by the OpenMP runtime when torch is first imported, so it stands before every other import of a script. Idle
# threads that spin would take the cores from the compiled loops that run between torch's operators.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
