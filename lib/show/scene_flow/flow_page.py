"""The page of one scene flow: the interactive view, and its numbers."""

from __future__ import annotations

import numpy as np

from lib.show import orbit
from lib.show.page import note, page, section, tiles
from lib.show.scene_flow import view3d
from lib.show.scene_flow.view import View


def flow_page(view: View, title: str) -> bytes:
    """The page. title: plain text."""
    length = np.linalg.norm(view.flow, axis=1)
    numbers = [("median length of the flow", f"{np.median(length):.3f} m"), ("largest", f"{length.max():.3f} m")]
    if view.truth is not None:
        near = 100 * float((view.error < 0.1).mean())
        numbers += [
            ("mean error (EPE3D)", f"{view.error.mean():.4f} m"),
            ("median error", f"{np.median(view.error):.4f} m"),
            ("points with an error below 0.1 m", f"{near:.1f} %"),
        ]
    sections = [
        view3d.view3d(view, view.name),
        note(
            "Drag to orbit, wheel to zoom, hover for a point's flow. Hovering tells coordinates and flow in the "
            f"frame x left, y up, z forward, in metres. At most {orbit.MAX_POINTS:,} points of each cloud are drawn, "
            "chosen at random but always the same ones; the numbers below are of all points."
        ),
        section("Numbers", tiles(numbers)),
    ]
    return page(title, "Scene flow: where each point of the source goes", sections, orbit.STYLE, view3d.scripts())
