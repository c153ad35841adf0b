"""What experiments/terms_fall.sh wrote: on real frames the term of every method falls within 200 steps.

Of ``self`` and ``online`` it is the whole loss: see OWN_TERM.
"""

import json
from pathlib import Path

import pytest

from lib.losses.distill import METHODS

RESULTS = Path(__file__).resolve().parents[2] / "results/terms"
# Of the others: the method's name. ``self`` and ``online`` compare flows of networks in training, at gamma 0. Untrained
# flows are short, and so near to each other; as the ground truth lengthens them they part. ``self_flow`` and ``online``
# rise in these logs for it, while the whole loss and ``self_feature`` fall. test_distill_training.py shows each falling
# when it is all that is learned.
OWN_TERM = {"output": ["loss_kd"], "self": ["loss", "self_feature"], "online": ["loss"]}

# No record yet. Scene flow gives no logits. test_distill_training.py shows the terms of the other two falling on real
# frames.
UNRECORDED = {"logits", "attention", "similarity"}


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
        pytest.skip("no results/terms: run experiments/terms_fall.sh with a teacher")
    config = json.loads((RESULTS / f"{name}.config.json").read_text())
    assert config["flags"]["dataset"] == "ft3d" and config["flags"]["steps"] == 200
    assert name in config["flags"]["distill"], "the file is that method's"
    lines = [json.loads(line) for line in (RESULTS / f"{name}.log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 200
    for term in OWN_TERM.get(name, [name]):
        assert mean(lines, term, 133, 200) < 0.97 * mean(lines, term, 0, 67), term
