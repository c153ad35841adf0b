"""One piece of work in a process of its own: its time and its peak memory, as JSON on standard output.

Started by ``benchmark.py``: python -m benchmarks.probe '{"work": "inference", "network": "teacher", "points": 8192,
"batch": 1, "device": "cpu", "repeats": 1}'.
"""

import json
import sys
from pathlib import Path

import torch

from benchmarks.measure import timed
from benchmarks.workloads import WORKS, Workload


def main() -> int:
    task = json.loads(sys.argv[1])
    device = torch.device(task["device"])
    workload = Workload(task["network"], task["points"], task["batch"], device)
    before = _peak(device)
    warm_up = task["repeats"] > 1  # a single call is made for its memory
    times = timed(WORKS[task["work"]](workload), device, task["repeats"], warm_up)
    print(json.dumps(times | {"peak_bytes": _peak(device), "peak_bytes_before": before}))
    return 0


def _peak(device: torch.device) -> int:
    """Bytes: of the tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had at the fork
    return int(status.split("VmHWM:")[1].split()[0]) * 1024  # Linux counts kilobytes


if __name__ == "__main__":
    sys.exit(main())
