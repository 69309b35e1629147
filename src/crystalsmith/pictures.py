"""A small picture of a crystal as SVG: the cell and its atoms as shaded balls, drawn by nothing but arithmetic."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import SYMBOLS
from crystalsmith.structures import Arrays

_VIEW = (-12.0, 20.0)
"""Degrees about the horizontal and the vertical axis, as the 3D views of the report begin."""

_EDGES = [(i, j) for i in range(8) for j in range(i) if bin(i ^ j).count("1") == 1]
"""Corners of the cell, numbered by their coordinates in binary, that an edge joins."""

_ROWS = (2, 10, 18, 36, 54, 86, 100)
_PERIOD_RADIUS = (0.32, 0.72, 1.08, 1.28, 1.44, 1.58, 1.66)


def svg(crystal: Arrays, size: int = 120) -> str:
    """The crystal as an ``<svg>`` element of ``size`` by ``size`` pixels.

    Atoms on a face of the cell are drawn on the opposite one as well; those behind are drawn first. Colours are spread
    over the elements by their number, and each ball says its element when pointed at.
    """
    frac, cell, numbers = crystal
    places, kinds = _with_borders(frac % 1.0, numbers)
    turn = _rotation(*_VIEW)
    atoms = places @ cell @ turn
    corners = np.array(list(product((0, 1), repeat=3)), float) @ cell @ turn
    radii = np.array([radius(int(z)) for z in kinds])
    low = np.minimum((atoms[:, :2] - radii[:, None]).min(0), corners[:, :2].min(0))
    high = np.maximum((atoms[:, :2] + radii[:, None]).max(0), corners[:, :2].max(0))
    scale = (size - 4) / float((high - low).max())
    middle = (low + high) / 2

    def at(point: NDArray[np.float64]) -> tuple[str, str]:
        x, y = (point[:2] - middle) * scale
        return f"{size / 2 + x:.1f}", f"{size / 2 - y:.1f}"

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="0 0 {size} {size}">']
    for start, end in _EDGES:
        (x1, y1), (x2, y2) = at(corners[start]), at(corners[end])
        parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#999" stroke-width="0.8"/>')
    for k in np.argsort(atoms[:, 2], kind="stable"):
        x, y = at(atoms[k])
        z = int(kinds[k])
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="{radii[k] * scale:.1f}" fill="{colour(z)}" stroke="#333" stroke-width="0.6">'
            f"<title>{SYMBOLS[z - 1]}</title></circle>"
        )
    return "".join([*parts, "</svg>"])


def rotatable(crystal: Arrays, size: int = 360) -> str:
    """The crystal to turn and zoom, as an ``<iframe>`` that needs no network (3Dmol.js, half a megabyte, is in it)."""
    frac, cell, numbers = crystal
    places, kinds = _with_borders(frac % 1.0, numbers)
    atoms = [
        f"{SYMBOLS[int(z) - 1]} {x:.4f} {y:.4f} {w:.4f}" for z, (x, y, w) in zip(kinds, places @ cell, strict=True)
    ]
    corners = (np.array(list(product((0, 1), repeat=3)), float) @ cell).round(4)
    edges = [
        [corners[i].tolist(), corners[j].tolist()] for i in range(8) for j in range(i) if bin(i ^ j).count("1") == 1
    ]
    script = (files("crystalsmith.evaluation.report") / "assets" / "3Dmol-min.js").read_text(encoding="utf-8")
    symbols = [SYMBOLS[z - 1] for z in dict.fromkeys(int(z) for z in numbers)]
    data = {"xyz": "\n".join([str(len(atoms)), "", *atoms]), "edges": edges, "kinds": symbols}
    text = json.dumps(data).replace("<", "\\u003c")
    page = (
        f"<html><body style='margin:0'><div id='v' style='width:{size}px;height:{size}px;position:relative'></div>"
        "<div id='k' style='position:absolute;left:6px;bottom:6px;font:12px sans-serif'></div>"
        f"<script>{script}</script><script>const d={text};"
        "const v=$3Dmol.createViewer('v',{backgroundColor:'white'});v.addModel(d.xyz,'xyz');"
        "v.setStyle({},{sphere:{scale:0.28,colorscheme:'Jmol'},stick:{radius:0.1,colorscheme:'Jmol'}});"
        "const p=([x,y,z])=>({x,y,z});for(const [a,b] of d.edges)v.addLine({start:p(a),end:p(b),color:'gray'});"
        "v.zoomTo();v.rotate(20,'y');v.rotate(12,'x');v.render();"
        "const k=document.getElementById('k');for(const s of d.kinds){const b=document.createElement('i');"
        "b.style.cssText='display:inline-block;width:11px;height:11px;border-radius:50%;border:1px solid #333;"
        "margin:0 4px 0 8px;background:#'+($3Dmol.elementColors.Jmol[s]??0xff1493).toString(16).padStart(6,'0');"
        "k.append(b,s)}</script></body></html>"
    )
    return f'<iframe srcdoc="{html.escape(page)}" width="{size + 4}" height="{size + 4}" style="border:0"></iframe>'


def radius(number: int) -> float:
    """Radius in angstrom that a ball of this element is drawn with: by its row of the periodic table."""
    return 0.45 * next(r for last, r in zip(_ROWS, _PERIOD_RADIUS, strict=True) if number <= last)


def colour(number: int) -> str:
    """A colour of an element: neighbours in the periodic table lie far apart on the circle of hues."""
    known = {1: "#f4f4f4", 6: "#555", 7: "#3b5bdb", 8: "#e03131", 9: "#69db7c", 16: "#ffd43b", 17: "#37b24d"}
    return known.get(number, f"hsl({round(137.508 * number) % 360},52%,{46 + 9 * (number % 3)}%)")


def _with_borders(
    frac: NDArray[np.float64], numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    found, kinds = [], []
    for place, z in zip(frac, numbers, strict=True):
        options = [(x, x + 1) if x < 0.01 else (x, x - 1) if x > 0.99 else (x,) for x in place]
        for image in product(*options):
            found.append(image)
            kinds.append(z)
    return np.array(found), np.array(kinds)


def _rotation(about_x: float, about_y: float) -> NDArray[np.float64]:
    """Rows times this matrix are turned; the last column points to the viewer."""
    a, b = np.radians(about_x), np.radians(about_y)
    x = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    return np.asarray(y @ x)
