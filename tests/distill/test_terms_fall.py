"""What experiments/scene_flow/terms_fall.sh wrote: on real frames the term of every method falls within 200 steps.

Of ``self`` and ``online`` it is the whole loss: see OWN_TERM.
"""

import json
from pathlib import Path

import pytest

from lib.losses.distill import METHODS

RESULTS = Path(__file__).resolve().parents[2] / "results/scene_flow/terms"
# The terms of a method's own; a method that is not listed has one, of its name. ``self`` and ``online`` compare flows
# of networks in training. Untrained flows are short, and so near to each other. The ground truth lengthens them, and
# they part: ``self_flow`` and ``online`` rise in these logs, while the whole loss and ``self_feature`` fall.
# test_distill_training.py shows that each of them falls when nothing else is learned.
OWN_TERM = {"output": ["loss_kd"], "self": ["loss", "self_feature"], "online": ["loss"]}

# No record: scene flow gives no logits.
UNRECORDED = {"logits"}


def mean(lines: list[dict], term: str, after: int, until: int) -> float:
    """Of a term over the steps of the log lines that end within (after, until]."""
    total, steps, before = 0.0, 0, 0
    for line in lines:
        count, before = line["step"] - before, line["step"]
        if after < line["step"] <= until:
            total, steps = total + count * line["train"][term], steps + count
    return total / steps


@pytest.mark.parametrize("name", [name for name in METHODS if name not in UNRECORDED])
def test_the_term_falls(name):
    if not RESULTS.is_dir():
        pytest.skip("no results/scene_flow/terms: run experiments/scene_flow/terms_fall.sh with a teacher")
    run = json.loads((RESULTS / f"{name}.json").read_text())
    flags, lines = run["config"]["flags"], run["log"]
    assert flags["dataset"] == "ft3d" and flags["steps"] == 200
    assert name in flags["distill"], "the file is that method's"
    assert lines[-1]["step"] == 200
    for term in OWN_TERM.get(name, [name]):
        assert mean(lines, term, 133, 200) < 0.97 * mean(lines, term, 0, 67), term
