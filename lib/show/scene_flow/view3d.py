"""A scene flow as an interactive 3-D view in a page: orbit, switch clouds, play the motion, ask a point.

Python lays out and colours (and Plotly's own validation checks it); view3d.js fills in the points and moves them.
"""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from matplotlib import image
from plotly.offline import get_plotlyjs

from lib.show.page import data_uri
from lib.show.scene_flow.view import (
    CLOUDS,
    ERROR_MAP,
    View,
    colour_wheel,
    error_colours,
    flow_colours,
    round_scale,
    to_viewer,
)

MAX_POINTS = 8192  # dots a cloud: with colours, some 0.5 MB of page
MOVING = "moving source"
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


def scripts() -> list[str]:
    """What a page with views needs, once: Plotly and the views' program."""
    return [get_plotlyjs(), Path(__file__).with_suffix(".js").read_text()]


def view3d(view: View, title: str, limit: int = MAX_POINTS) -> str:
    """The view as HTML, for a page that has ``STYLE`` and ``scripts()``. At most ``limit`` points a cloud are drawn."""
    view = view.thinned(limit)
    flow_scale = round_scale(np.linalg.norm(view.flow[:, [0, 2]], axis=1))
    colours, keys = {"flow": _packed(flow_colours(view.flow, flow_scale))}, [_wheel(flow_scale)]
    if view.truth is not None:
        error_scale = round_scale(view.error)
        colours["error"] = _packed(error_colours(view.error, error_scale))
        keys.append(_ramp(error_scale))
    content = {
        "figure": json.loads(_figure(view).to_json()),
        "source": _packed(view.source),
        "flow": _packed(view.flow),
        "target": None if view.target is None else _packed(view.target),
        "error": None if view.truth is None else _packed(view.error.astype(np.float32)),
        "colours": colours,
    }
    names = ["source", *(["target"] if view.target is not None else []), MOVING]
    boxes = "".join(
        f'<label><input type="checkbox" data-cloud="{name}"{"" if name == "source" else " checked"}>'
        f'<span class="dot" style="background:{_colour(name)}"></span>{name}</label>'
        for name in names
    )
    modes = {"flow": "direction of the flow", "error": "error", "cloud": "its own colour"}
    options = "".join(
        f'<option value="{mode}">{text}</option>' for mode, text in modes.items() if mode in colours or mode == "cloud"
    )
    return (
        f'<div class="view"><div class="bar"><b>{html.escape(title)}</b>{boxes}'
        f"<label>{MOVING} in <select data-colour>{options}</select></label>{''.join(keys)}</div>"
        f'<div class="plot"></div>'
        f'<div class="bar lower"><button data-play>Play</button>'
        f'<label>source <input type="range" min="0" max="1" step="0.01" value="0" aria-label="motion"> target</label>'
        f'<output>0 %</output><button data-camera="sensor">Sensor view</button>'
        f'<button data-camera="above">From above</button>'
        f'<span class="note">{html.escape(view.drawn())} drawn</span></div>'
        f'<script type="application/json">{_json(content)}</script></div>'
    )


def _figure(view: View) -> go.Figure:
    """Axes, camera and the clouds' marks; the points come later."""
    everything = to_viewer(np.concatenate(list(view.clouds().values())))
    low, high = np.quantile(everything, (0.002, 0.998), axis=0)
    margin = 0.03 * float((high - low).max() or 1.0)
    low, high = low - margin, high + margin
    size = float(np.clip(2.2 * (8192 / len(view.source)) ** 0.3, 2.2, 4.0))
    hover = "(%{customdata[0]:.2f}, %{customdata[1]:.2f}, %{customdata[2]:.2f}) m"
    vector = "<br>flow (%{customdata[3]:.3f}, %{customdata[4]:.3f}, %{customdata[5]:.3f}) m"
    vector += "<br>length %{customdata[6]:.3f} m"
    vector += "" if view.truth is None else "<br>error %{customdata[7]:.3f} m"
    figure = go.Figure()
    for name in ("source", "target", MOVING):
        figure.add_scatter3d(
            name=name,
            mode="markers",
            x=[],
            y=[],
            z=[],
            # The target's dots are smaller, so that what lies upon it is seen.
            marker={"size": size * (0.65 if name == "target" else 1.0), "color": _colour(name), "line": {"width": 0}},
            visible=name == MOVING or (name == "target" and view.target is not None),
            hovertemplate=f"<b>{name}</b> {hover}{'' if name == 'target' else vector}<extra></extra>",
        )
    axis = {
        "showbackground": False,
        "gridcolor": "#e6e6e6",
        "zeroline": False,
        "showspikes": False,
        "tickfont": {"size": 10, "color": "#999"},
        "nticks": 6,
    }
    titles = ("right (m)", "depth (m)", "up (m)")
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
    return figure


def _colour(name: str) -> str:
    return CLOUDS["warped source" if name == MOVING else name]


def _wheel(scale: float) -> str:
    content = io.BytesIO()
    image.imsave(content, colour_wheel(108), format="png")
    return (
        f'<span class="key" data-key="flow"><img src="{data_uri(content.getvalue())}" alt="colour wheel">'
        f"seen from above: up is forward, right is right; grey is still, the rim {scale:g} m or more"
        "</span>"
    )


def _ramp(scale: float) -> str:
    stops = ", ".join(f"rgb({', '.join(str(round(255 * c)) for c in ERROR_MAP[k])})" for k in range(0, 280, 31))
    return (
        f'<span class="key" data-key="error" hidden>0 <span class="ramp" style="background:linear-gradient(to '
        f'right, {stops})"></span> {scale:g} m or more</span>'
    )


def _json(content: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _packed(values: np.ndarray) -> str:
    """float32 or uint8 values as base64, rows first."""
    return base64.b64encode(np.ascontiguousarray(values)).decode()
