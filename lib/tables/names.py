"""What a table or a plot says of a result, in words: the network and how it learned, its data, its metrics."""

from typing import Any


def title(metric: str, unit: str) -> str:
    """A metric with its unit, as the head of a column."""
    return f"{metric} ({unit})" if unit else metric


def row_name(result: dict[str, Any]) -> str:
    """What was scored: "zero (baseline)", "teacher", "student, gamma 0.3 + 2 rkd".

    The number before a method is the weight of its term in the loss.
    """
    if "baseline" in result:
        return f"{result['baseline']} (baseline)"
    network = result.get("network", "network")
    return f"{network}, {learned_by(result)}" if is_student(result) else network


def learned_by(result: dict[str, Any]) -> str:
    """How a student learned: "from scratch (gamma 0)", "gamma 1 (no labels)", "gamma 0.3 + 2 rkd"."""
    gamma, methods = result["training"].get("gamma", 0.0), result["training"].get("distill", [])
    terms = [f" + {weight} {method}" for method, _, weight in (term.rpartition(":") for term in methods)]
    if gamma == 0 and not terms:
        return "from scratch (gamma 0)"
    return f"gamma {gamma:g}{' (no labels)' if gamma == 1 else ''}{''.join(terms)}"


def is_student(result: dict[str, Any]) -> bool:
    """Whether the network was trained by train_student.py, as far as its result says."""
    training, flags = result.get("training", {}), result.get("config", {}).get("flags", {})
    network = result.get("network", "")
    if "student" in flags or network.startswith("student") or training.get("gamma") or training.get("distill"):
        return True
    return "gamma" in training and network != "teacher"  # older files give the scene-flow teacher a gamma of 0, too


def sample_word(result: dict[str, Any]) -> str:
    """What the result's task calls one sample. Results that say nothing of it are of scene flow."""
    return result.get("sample", "scene")


def headline(result: dict[str, Any]) -> dict[str, str]:
    """metric -> unit, of the metrics that are printed and stand in tables. A result that names none prints all."""
    return {name: result["units"][name] for name in result.get("headline", result["units"])}


def trained_on(result: dict[str, Any]) -> str:
    """The data that the network was trained on; "" for a baseline."""
    return _training_data(result, result.get("training", {}))


def teacher_trained_on(result: dict[str, Any]) -> str:
    """The data that the network's teacher was trained on; "" without a teacher."""
    return _training_data(result, result.get("training", {}).get("teacher", {}))


def _training_data(result: dict[str, Any], facts: dict[str, Any]) -> str:
    if "dataset" not in facts:
        return ""
    count = facts.get("scenes")  # in result files this word means the samples of any task
    return facts["dataset"] if count is None else f"{count} {facts['dataset']} {sample_word(result)}s"


def scored_on(result: dict[str, Any]) -> str:
    """The data that a score is from."""
    protocol = result["protocol"]
    points = f", {protocol['num_points']} points" if protocol.get("num_points") else ""
    return f"{protocol['dataset']} {protocol['split']}, {protocol['scenes']} {sample_word(result)}s{points}"
