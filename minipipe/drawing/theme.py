"""Colours and shapes of all drawings, in light and dark; contrast of every text on its ground is at least 4.5 to 1."""

from __future__ import annotations

from minipipe.drawing.element import Markup

LIGHT = (
    "--bg:#f7f7f5;--card:#fff;--ink:#1b2024;--soft:#59636c;--line:#e1e3e6;--faint:#f1f2f3;--edge:#9aa3ab;--accent:#2257a8;"
    "--good:#18744a;--bad:#b3261e;--warn:#8a5300;--busy:#1d5fb0;--idle:#5f5a78;--cache:#0c6b78;"
    "--heat:#2a62b8;--s1:#2a62b8;--s2:#c2571a;--s3:#18744a;--s4:#8a3fa0;--s5:#b3261e;--s6:#0c6b78;--s7:#8a6d00;--s8:#5f5a78"
)
DARK = (
    "--bg:#131619;--card:#1b1f23;--ink:#e7e9eb;--soft:#a3adb6;--line:#2e353b;--faint:#23282d;--edge:#6d7780;--accent:#7db4ff;"
    "--good:#56c596;--bad:#ff8a80;--warn:#e8b052;--busy:#78b6ff;--idle:#b3acd8;--cache:#58c6d2;"
    "--heat:#4a80d0;--s1:#7db4ff;--s2:#f2a263;--s3:#56c596;--s4:#d39be6;--s5:#ff8a80;--s6:#58c6d2;--s7:#d8c04a;--s8:#b3acd8"
)

STATUSES = (
    ".completed,.published{--c:var(--good)}.failed{--c:var(--bad)}.stopped{--c:var(--warn)}.in_progress{--c:var(--busy)}"
    ".queued,.pending,.created{--c:var(--idle)}.skipped{--c:var(--soft)}.cached{--c:var(--cache)}"
)

DRAWINGS = (
    "svg{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',sans-serif;overflow:visible}"
    ".mp-card{fill:var(--card);stroke:var(--line)}.mp-behind{fill:var(--card);stroke:var(--line)}"
    ".mp-strip{fill:var(--c)}.mp-name{font-size:13px;font-weight:600;fill:var(--ink)}.mp-note{font-size:11.5px;fill:var(--c)}"
    ".mp-node.skipped .mp-card{stroke-dasharray:4 3;stroke:var(--edge)}.mp-node.skipped .mp-name{fill:var(--soft)}"
    ".mp-node.cached .mp-card{fill:var(--faint)}.mp-node.failed .mp-card{stroke:var(--c)}"
    "a.mp-node{text-decoration:none}a.mp-node:hover .mp-card{stroke:var(--c)}"
    "a.mp-node:focus{outline:none}a.mp-node:focus-visible .mp-card{stroke:var(--accent);stroke-width:3}"
    ".mp-edge{fill:none;stroke:var(--edge);stroke-width:1.4}.mp-edge.control{stroke-dasharray:3 4}"
    ".mp-carried{font-size:11px;fill:var(--soft);paint-order:stroke;stroke:var(--ground,var(--card));stroke-width:5px;"
    "stroke-linejoin:round}"
    ".mp-axis{stroke:var(--line);stroke-width:1;fill:none;shape-rendering:crispEdges}"
    ".mp-tick,.mp-tick text{font-size:11px;fill:var(--soft)}"
    ".mp-tick.y{text-anchor:end}.mp-tick.x{text-anchor:middle}"
    ".mp-lane{font-size:12px;fill:var(--ink)}.mp-bar rect{fill:var(--c);stroke:var(--card)}.mp-bar.again rect{fill-opacity:.55}"
    ".mp-line path{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}.mp-line.dash path{stroke-dasharray:5 3}"
    ".mp-line path.dots{stroke-width:5;stroke-linecap:round;stroke-dasharray:none}.mp-bars rect{fill:var(--c)}"
    ".mp-heat rect{fill:var(--heat);shape-rendering:crispEdges}.mp-cell{font-size:11px;fill:var(--ink)}"
    ".mp-hover rect{y:10px;height:var(--tall);width:var(--wide);fill:var(--ink);opacity:0}.mp-hover rect:hover{opacity:.14}"
    ".s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}"
    ".s7{--c:var(--s7)}.s8{--c:var(--s8)}.mp-inside{font-size:11px;fill:var(--card)}"
    ".mp-wait{stroke:var(--idle);stroke-width:1;fill:url(#mp-hatch)}#mp-hatch path{stroke:var(--idle);stroke-width:1.1;fill:none}"
)


def standalone() -> Markup:
    """CSS for an SVG file of its own: light, and dark where the reader prefers it."""
    return Markup(
        f"svg{{{LIGHT};--ground:var(--bg);background:var(--bg)}}"
        f"@media(prefers-color-scheme:dark){{svg{{{DARK}}}}}{STATUSES}{DRAWINGS}"
    )
