"""A scene flow as an interactive 3-D view in a page: orbit, switch clouds, play the motion, ask a point.

Python lays out and colours (and Plotly's own validation checks it); view3d.js fills in the points and moves them.
"""

from __future__ import annotations

import html
import io
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from matplotlib import image

from lib.show import orbit
from lib.show.orbit import MAX_POINTS, packed
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

MOVING = "moving source"


def scripts() -> list[str]:
    """What a page with views needs, once."""
    return orbit.scripts(Path(__file__).with_suffix(".js"))


def view3d(view: View, title: str, limit: int = MAX_POINTS) -> str:
    """The view as HTML, for a page that has ``orbit.STYLE`` and ``scripts()``. At most ``limit`` dots a cloud."""
    view = view.thinned(limit)
    flow_scale = round_scale(np.linalg.norm(view.flow[:, [0, 2]], axis=1))
    colours, keys = {"flow": packed(flow_colours(view.flow, flow_scale))}, [_wheel(flow_scale)]
    if view.truth is not None:
        error_scale = round_scale(view.error)
        colours["error"] = packed(error_colours(view.error, error_scale))
        keys.append(_ramp(error_scale))
    content = {
        "figure": json.loads(_figure(view).to_json()),
        "source": packed(view.source),
        "flow": packed(view.flow),
        "target": None if view.target is None else packed(view.target),
        "error": None if view.truth is None else packed(view.error.astype(np.float32)),
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
        f"<output>0 %</output>{orbit.CAMERA_BUTTONS}"
        f'<span class="note">{html.escape(view.drawn())} drawn</span></div>'
        f"{orbit.json_inside(content)}</div>"
    )


def _figure(view: View) -> go.Figure:
    """Axes, camera and the clouds' marks; the points come later."""
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
    everything = to_viewer(np.concatenate(list(view.clouds().values())))
    orbit.lay_out(figure, everything, ("right (m)", "depth (m)", "up (m)"))
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
