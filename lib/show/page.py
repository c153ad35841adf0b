"""Pages that are one file: style, pictures and programs are inside, and nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light; --ink: #222; --soft: #666; --line: #ddd; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 1.5rem; color: var(--ink); background: #fff;
       font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .2rem; }
h2 { font-size: 1.12rem; font-weight: 600; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); }
p { margin: .3rem 0; } .note { color: var(--soft); font-size: .88rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; font-size: .92rem; }
td, th { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #eee; vertical-align: top;
         overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
summary { cursor: pointer; color: var(--accent); }
svg, img { max-width: 100%; height: auto; vertical-align: top; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: .8rem 0; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; min-width: 7.5rem; }
.tile b { display: block; font-size: 1.3rem; font-weight: 600; } .tile span { color: var(--soft); font-size: .82rem; }
"""
# The browser enforces it: the page can send no request.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, subtitle: str, sections: Iterable[str], style: str = "", scripts: Sequence[str] = ()) -> bytes:
    """A page. title, subtitle: plain text. sections: HTML. style, scripts: put inside as they are, scripts last."""
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<link rel="icon" href="data:,"><style>{STYLE}{style}</style></head><body>',
        f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(subtitle)}</p>',
        *sections,
        *(f"<script>{script}</script>" for script in scripts),
        "</body></html>\n",
    ]
    return "\n".join(parts).encode()


def section(title: str, *content: str) -> str:
    """A headed part of a page. title: plain text; content: HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(content)}</section>"


def note(text: str) -> str:
    """A remark in small type, of plain text."""
    return f'<p class="note">{html.escape(text)}</p>'


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """The main numbers in large type: (name, value with its unit)."""
    cells = (
        f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
        for name, value in numbers
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """A table of plain values."""
    top = "<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>" if head else ""
    body = ("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table>{top}{''.join(body)}</table>"


def folded(title: str, content: str) -> str:
    """HTML that opens on a click on its title."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def picture(png: bytes, what: str) -> str:
    """A PNG inside the page. what: its description for those who cannot see it."""
    return f'<img src="{data_uri(png)}" alt="{html.escape(what)}">'


def data_uri(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def origin(provenance: Mapping[str, Any]) -> str:
    """A table of where a result comes from. provenance: what lib/provenance.py notes."""
    rows = [("command", provenance["command"]), ("time", provenance["time"]), ("git commit", provenance["git"])]
    for kind, sign in (("versions", " "), ("machine", ": ")):
        known = {name: value for name, value in provenance[kind].items() if value}
        rows.append((kind, ", ".join(f"{name}{sign}{value}" for name, value in known.items())))
    return table(rows)
