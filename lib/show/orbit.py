"""Interactive 3-D views in a page: the parts that the views of all tasks share, drawn by Plotly.

A view is a frame of controls around a plot, with its data as JSON inside. Python lays out and colours (and Plotly's own
validation checks it); orbit.js and the task's own program fill in the points and make the controls work.
The screen's axes are x right, y forward, z up.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

MAX_POINTS = 8192  # dots a cloud: with colours, some 0.5 MB of page
STYLE = """
.view { border: 1px solid var(--line); border-radius: 8px; margin: .8rem 0; overflow: hidden; }
.view .plot { height: min(62vh, 620px); min-height: 380px; }
.view .bar { display: flex; flex-wrap: wrap; gap: .5rem 1.1rem; align-items: center; padding: .55rem .9rem;
             background: #f7f7f8; border-bottom: 1px solid var(--line); font-size: .9rem; }
.view .bar.lower { border: 0; border-top: 1px solid var(--line); }
.view button { font: inherit; padding: .15rem .8rem; border: 1px solid #bbb; border-radius: 5px; background: #fff;
               cursor: pointer; } .view button:hover { border-color: var(--accent); }
.view label { display: inline-flex; gap: .35rem; align-items: center; cursor: pointer; }
.view .dot { width: .75em; height: .75em; border-radius: 50%; }
.view input[type=range] { width: 11rem; accent-color: var(--accent); } .view select { font: inherit; }
.view output { min-width: 3.2rem; font-variant-numeric: tabular-nums; }
.view .key { display: inline-flex; gap: .5rem; align-items: center; color: var(--soft); font-size: .85rem; }
.view .key { min-height: 54px; } .view .key[hidden] { display: none; } .view .key img { width: 54px; height: 54px; }
.view .ramp { width: 9rem; height: .8rem; border-radius: 2px; }
"""
CAMERA_BUTTONS = '<button data-camera="sensor">Sensor view</button><button data-camera="above">From above</button>'


def scripts(program: Path) -> list[str]:
    """What a page with views needs, once: Plotly, what all views share, and the program of the task's views."""
    return [get_plotlyjs(), Path(__file__).with_suffix(".js").read_text(), program.read_text()]


def lay_out(figure: go.Figure, points: np.ndarray, titles: Sequence[str]) -> None:
    """Sets the axes of a figure so that points (N, 3), in the screen's axes, fill it. titles: of x, y and z."""
    low, high = np.quantile(points, (0.002, 0.998), axis=0)
    margin = 0.03 * float((high - low).max() or 1.0)
    low, high = low - margin, high + margin
    axis = {
        "showbackground": False,
        "gridcolor": "#e6e6e6",
        "zeroline": False,
        "showspikes": False,
        "tickfont": {"size": 10, "color": "#999"},
        "nticks": 6,
    }
    figure.update_layout(
        template="none",
        showlegend=False,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor="#ffffff",
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": "#999999", "font": {"color": "#222222", "size": 12}},
        scene={
            **{
                f"{letter}axis": {
                    **axis,
                    "range": [float(low[k]), float(high[k])],
                    "title": {"text": titles[k], "font": {"size": 11, "color": "#777"}},
                }
                for k, letter in enumerate("xyz")
            },
            "aspectmode": "data",
            "dragmode": "orbit",
        },
    )


def json_inside(content: Any) -> str:
    """A script element that holds JSON, which cannot end the element it stands in."""
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def packed(values: np.ndarray) -> str:
    """float32 or uint8 values as base64, rows first."""
    return base64.b64encode(np.ascontiguousarray(values)).decode()
