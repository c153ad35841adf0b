"""``benchmark.py model|train|scaling``: whole networks."""

from typing import Any

import numpy as np
import torch

from benchmarks.measure import alternately, best_product_rate, in_fresh_process, timed
from benchmarks.profile import on_one_thread
from benchmarks.workloads import SERVED, Workload, distillation, inference, training
from models import count_parameters
from models.scene_flow.arithmetic import count_flops
from models.scene_flow.cuda_graph import GraphedNetwork

TEACHER, STUDENT, PLAIN = "teacher", "student", "plain teacher"
GRAPH = ", CUDA graph"
RATIOS = {  # how many times as quick the second is as the first
    "teacher_over_plain": (PLAIN, TEACHER),
    "student_over_teacher": (TEACHER, STUDENT),
    "teacher_graph_over_plain": (PLAIN, TEACHER + GRAPH),
    "student_graph_over_plain": (PLAIN, STUDENT + GRAPH),
    "student_graph_over_teacher_graph": (TEACHER + GRAPH, STUDENT + GRAPH),
}
SCALING_STEPS = 5  # sizes, each twice the one before: 8192 .. 131072
METHODS_BATCH = 2  # scenes: semckd compares the scenes of a batch


def model(points: int, batch: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Inference of teacher, student and the plain teacher: time, share of the machine's rate, memory, counts.

    On a GPU teacher and student also as CUDA graphs.
    """
    rate = best_product_rate(device)
    names = (TEACHER, STUDENT, PLAIN)
    loads = {name: Workload(name, points, batch, device) for name in names}
    times = alternately({name: inference(loads[name]) for name in (TEACHER, STUDENT)}, device, repeats)
    times[PLAIN] = timed(inference(loads[PLAIN]), device, repeats)  # by itself: it leaves caches and memory cold
    if device.type == "cuda":
        graphs = {name + GRAPH: (loads[name], GraphedNetwork(loads[name].net)) for name in (TEACHER, STUDENT)}
        times |= alternately({name: inference(*pair) for name, pair in graphs.items()}, device, repeats)
    arithmetic = {name: _arithmetic(loads[name], points) for name in (TEACHER, STUDENT)}
    peaks = {name: _in_its_own_process("inference", name, points, batch, device)["peak_bytes"] for name in names}
    seconds = {name: entry["median_seconds"] for name, entry in times.items()}
    flop = {name: entry["flop"] * batch for name, entry in arithmetic.items()}
    profiles = {}
    if device.type == "cpu":
        profiles = {name: on_one_thread(inference(loads[name]), repeats) for name in (TEACHER, STUDENT)}
    return {
        "best_product_flop_per_second": rate,
        "arithmetic": arithmetic,
        "times": times,
        "seconds_on_one_thread": profiles,
        "share_of_best_rate": _shares(flop, seconds, rate),
        "peak_bytes": peaks,
        "flow_difference_m": _flow_difference(loads),
    } | _ratios(seconds)


def _shares(flop: dict[str, float], seconds: dict[str, float], rate: float) -> dict[str, float]:
    """What the networks whose arithmetic is counted make of the best rate (FLOP/s), as graphs too where measured."""
    names = [name for name in seconds if name.removesuffix(GRAPH) in flop]
    return {name: flop[name.removesuffix(GRAPH)] / seconds[name] / rate for name in names}


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Those of ``RATIOS`` of which both sides are measured."""
    known = {name: pair for name, pair in RATIOS.items() if set(pair) <= set(seconds)}
    return {name: seconds[slow] / seconds[quick] for name, (slow, quick) in known.items()}


def _arithmetic(load: Workload, points: int) -> dict[str, Any]:
    """Parameters and the arithmetic of one pair, in all and by part; a multiply-add counts as 2."""
    flops = count_flops(load.net, points)
    return {"parameters": count_parameters(load.net), "flop": flops.total, "flop_by_part": flops.parts}


def _flow_difference(loads: dict[str, Workload]) -> dict[str, float]:
    """How far the plain teacher's flow is from ours, metres."""
    with torch.inference_mode():
        ours, theirs = (load.net.eval()(load.xyz1, load.xyz2).flows[0] for load in (loads[TEACHER], loads[PLAIN]))
    difference = (ours - theirs).norm(dim=-1)
    return {"median": difference.median().item(), "max": difference.max().item()}


def train(points: int, batch: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Training steps: ours and plain, their memory, distillation, and what each distillation method adds."""
    networks = (TEACHER, PLAIN)
    times = {name: timed(training(Workload(name, points, batch, device)), device, repeats) for name in networks}
    peaks = {name: _in_its_own_process("training", name, points, batch, device)["peak_bytes"] for name in networks}

    load = Workload(STUDENT, points, batch, device)
    teacher = load.frozen_twin(TEACHER)
    gammas = (0.0, 0.3)
    steps = {f"student step, gamma {gamma:g}": distillation(load, teacher, "output", gamma) for gamma in gammas}
    student = alternately(steps, device, repeats)
    without, with_teacher = (entry["median_seconds"] for entry in student.values())

    several = Workload(STUDENT, points, max(batch, METHODS_BATCH), device)
    calls = {"none": distillation(several, teacher, "output", 0.0)}
    calls |= {name: distillation(several, teacher, name) for name in SERVED}
    methods = alternately(calls, device, min(repeats, 3))
    base = methods["none"]["median_seconds"]
    return {
        "times": times | student,
        "peak_bytes": peaks,
        "methods": methods,
        "methods_batch": len(several.xyz1),
        "pairs_per_second": {name: batch / entry["median_seconds"] for name, entry in times.items()},
        "extra_training_time": {name: entry["median_seconds"] / base - 1 for name, entry in methods.items()},
        "teacher_over_plain": times[PLAIN]["median_seconds"] / times[TEACHER]["median_seconds"],
        "peak_memory_over_plain": peaks[TEACHER] / peaks[PLAIN],
        "distillation_over_gamma_0": with_teacher / without,
    }


def scaling(points: int, batch: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Inference of the teacher from ``points`` to 16 times as many, each size in a process of its own."""
    sizes = [points << step for step in range(SCALING_STEPS)]
    rows = [_in_its_own_process("inference", TEACHER, size, batch, device, repeats) for size in sizes]
    seconds, memory = ([row[name] for row in rows] for name in ("median_seconds", "peak_bytes"))
    return {
        "points": sizes,
        "times": {f"{TEACHER} {size}": row for size, row in zip(sizes, rows, strict=True)},
        "time_exponent": _slope(sizes, seconds),
        "memory_exponent": _slope(sizes, [m - row["peak_bytes_before"] for m, row in zip(memory, rows, strict=True)]),
        "peak_bytes_of_the_largest": memory[-1],
    }


def _slope(sizes: list[int], values: list[float]) -> float:
    """The exponent p of the least-squares fit values ~ sizes ** p."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _in_its_own_process(
    work: str, network: str, points: int, batch: int, device: torch.device, repeats: int = 1
) -> dict[str, Any]:
    task = {"work": work, "network": network, "points": points, "batch": batch, "repeats": repeats}
    return in_fresh_process(**task, device=str(device))
