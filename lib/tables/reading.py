"""Results as text on a terminal: one of them, or several of one protocol side by side."""

from typing import Any

from lib.tables.names import headline, sample_word, scored_on, title


def summary(result: dict[str, Any]) -> str:
    """One result for reading."""
    word = sample_word(result)
    if "network" not in result:
        model, size = result.get("results") or f"baseline {result['baseline']}", []
    else:
        step = result["training"].get("step")
        model = f"{result['checkpoint']} ({result['network']}" + (f", step {step})" if step is not None else ")")
        size = [("parameters", f"{result['parameters']:,}")]
        size += [("size", f"{result['megabytes']:.1f} MB (float32 weights, 1 MB = 10^6 bytes)")]
        if result["gigaflop"] is not None:
            arithmetic = f"{result['gigaflop']:.2f} GFLOP a {word} (matrix products, a multiply-add counts 2)"
            size += [("arithmetic", arithmetic)]
    rows = [("model", model), ("data", scored_on(result))]
    rows += [(name, f"{result['metrics'][name]:.4f} {unit}".rstrip()) for name, unit in headline(result).items()]
    rows += size
    if "seconds_per_sample" in result:
        device = result["protocol"]["device"]
        timing = f"{result['seconds_per_sample']:.4f} s (network alone, one {word} at a time, {device})"
        rows += [(f"time per {word}", timing)]
    width = 1 + max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)


def table(results: list[dict[str, Any]]) -> str:
    """Results of one protocol for reading: a line each, columns aligned."""
    word, metrics = sample_word(results[0]), headline(results[0])
    names = [title(name, unit) for name, unit in metrics.items()]
    lines = [["checkpoint", "network", "parameters", "MB", "file MB", "GFLOP", f"s/{word}", *names]]
    for result in results:
        sizes = [f"{result['parameters']:,}", f"{result['megabytes']:.2f}", f"{result['file_megabytes']:.2f}"]
        arithmetic = "" if result["gigaflop"] is None else f"{result['gigaflop']:.2f}"
        scores = [f"{result['metrics'][name]:.4f}" for name in metrics]
        costs = [*sizes, arithmetic, f"{result['seconds_per_sample']:.4f}"]
        lines.append([result["checkpoint"], result["network"], *costs, *scores])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = "<<" + ">" * (len(widths) - 2)  # words to the left, numbers to the right
    aligned = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True))
        for line in lines
    ]
    note = (
        f"{scored_on(results[0])}, {results[0]['protocol']['device']}. MB: float32 weights, 10^6 bytes; GFLOP: matrix "
        f"products for a {word}, a multiply-add counts 2; s/{word}: the network alone, one {word} at a time"
    )
    return "\n".join([*aligned, note])
