"""Figures in Plotly's words: what is drawn, what is left alone, and that no figure at all breaks a page."""

from __future__ import annotations

import base64
import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minipipe.drawing import axes, chart, figure
from minipipe.drawing.element import element, number

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    svg = re.sub(r"<rect x=([^>\"]+)>", r'<rect x="\1">', svg)  # as HTML allows it; there are many of these
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def draw(*traces: dict[str, Any], **layout: Any) -> figure.Drawn:
    found = figure.draw({"data": list(traces), "layout": layout}, "title")
    assert found is not None
    return found


def bars(drawn: figure.Drawn) -> list[str]:
    """What each bar says."""
    assert drawn.svg is not None
    return [title.text or "" for title in parsed(drawn.svg).iter(f"{SVG}title")][1:]


def test_bars_stand_in_groups_by_name() -> None:
    drawn = draw({"type": "bar", "name": "a", "x": ["u", "v"], "y": [1, 2]}, {"type": "bar", "name": "b", "x": ["v"], "y": [-3]})
    assert bars(drawn) == ["u: a 1", "v: a 2", "v: b -3"]
    assert [name for name, _ in drawn.legend] == ["a", "b"]


def test_bars_that_lie_are_read_the_other_way_round() -> None:
    assert bars(draw({"type": "bar", "orientation": "h", "y": ["u", "v"], "x": [1, 2]})) == ["u: 1", "v: 2"]


def test_a_histogram_is_counted() -> None:
    values = [0.0] * 5 + [1.0] * 3 + [10.0]
    counts = [float(text.rpartition(" ")[2]) for text in bars(draw({"type": "histogram", "x": values, "nbinsx": 10}))]
    assert counts == [5, 3, 0, 0, 0, 0, 0, 0, 0, 1]
    assert bars(draw({"type": "histogram", "x": ["b", "a", "b"]})) == ["b: 2", "a: 1"]


def test_points_are_dots_and_lines_are_lines() -> None:
    drawn = draw({"type": "scatter", "mode": "markers", "x": [1, 2, 3], "y": [1, None, 3]}, {"mode": "lines", "y": [1, 2, 3, 4]})
    assert drawn.svg is not None
    paths = {path.get("class"): path.get("d") for group in parsed(drawn.svg).iter(f"{SVG}g") for path in group.iter(f"{SVG}path")}
    assert (paths["dots"] or "").count("M") == 2, "null is a gap"
    line = next(d for kind, d in paths.items() if kind is None and d and "l" in d)
    assert line.count("M") == 1


def test_dates_and_names_stand_in_their_order() -> None:
    drawn = draw({"type": "scatter", "mode": "lines", "x": ["2024-01-01", "2024-01-02", "2024-01-03"], "y": [3, 1, 2]})
    assert drawn.svg is not None and "2024-01" in drawn.svg


def test_arrays_may_be_packed() -> None:
    packed = {"bdata": base64.b64encode(struct.pack("<4d", 1, 2, 3, math.nan)).decode(), "dtype": "f8", "shape": "2, 2"}
    drawn = draw({"type": "heatmap", "z": packed})
    assert drawn.svg is not None
    assert [title.text for title in parsed(drawn.svg).iter(f"{SVG}title")][1:] == ["1, 0: 3", "1, 1: nan", "0, 0: 1", "0, 1: 2"]
    assert figure.values({"bdata": base64.b64encode(struct.pack("<3h", 1, -2, 3)).decode(), "dtype": "i2"}) == [1, -2, 3]


def test_the_first_row_of_a_matrix_is_below_unless_the_axis_is_reversed() -> None:
    trace = {"type": "heatmap", "z": [[1], [2]], "y": ["first", "second"]}

    def rows(drawn: figure.Drawn) -> list[str]:
        assert drawn.svg is not None
        return [title.text or "" for title in parsed(drawn.svg).iter(f"{SVG}title")][1:]

    assert rows(draw(trace)) == ["second, 0: 2", "first, 0: 1"]
    assert rows(draw(trace, yaxis={"autorange": "reversed"})) == ["first, 0: 1", "second, 0: 2"]


def test_a_table_keeps_its_columns_and_knows_numbers() -> None:
    drawn = draw({"type": "table", "header": {"values": ["name", ["n", "x"]]}, "cells": {"values": [["a", None], [1.5, 2]]}})
    assert drawn.grid is not None
    assert drawn.grid.columns == ("name", "n, x") and drawn.grid.rows == (("a", "1.5"), ("", "2"))
    assert drawn.grid.numeric == (False, True)
    long = draw({"type": "table", "header": {"values": ["n"]}, "cells": {"values": [list(range(1000))]}}).grid
    assert long is not None and (len(long.rows), long.total) == (100, 1000)


def test_many_series_and_points_are_thinned_and_it_is_said() -> None:
    many = draw(*({"type": "scatter", "mode": "lines", "y": [1, 2]} for _ in range(30)))
    assert many.note == "6 more series are not drawn"
    cloud = draw({"type": "scatter", "mode": "markers", "x": list(range(5000)), "y": list(range(5000))})
    assert "th point of 5000 is drawn" in cloud.note and cloud.svg is not None and len(cloud.svg) < 20_000


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"data": None},
        {"data": "text"},
        {"data": [None, 3]},
        {"data": [{"type": "surface", "z": [[1]]}]},
        {"data": [{"type": "bar"}, {"type": "scatter", "y": [1]}]},
        {"data": [{"type": "heatmap", "z": 5}]},
        {"data": [{"type": "heatmap", "z": [[1] * 100] * 100}]},
        {"data": [{"type": "histogram", "x": []}]},
        {"data": [{"type": "scatter", "y": {"bdata": "!!", "dtype": "f8"}}]},
        {"data": [{"type": "scatter", "y": {"bdata": "AAAA", "dtype": "c16"}}]},
        {"data": [{"type": "bar", "x": [{}], "y": ["x"]}], "layout": 3},
    ],
    ids=str,
)
def test_what_is_not_drawn_is_no_error(found: dict[str, Any]) -> None:
    drawn = figure.draw(found, "title")
    assert drawn is None or drawn.svg is not None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["values", "bdata", "dtype", "title", "text"]), inner)
    ),
    max_leaves=8,
)
_KINDS = st.sampled_from(["scatter", "bar", "histogram", "heatmap", "table", "pie"])
_TRACE = st.fixed_dictionaries(
    {"type": _KINDS}, optional=dict.fromkeys(("x", "y", "z", "name", "mode", "nbinsx", "header", "cells", "orientation"), _JSON)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_TRACE, max_size=3), _JSON)
def test_no_figure_breaks_a_page(traces: list[dict[str, Any]], layout: Any) -> None:
    drawn = figure.draw({"data": traces, "layout": layout}, "title")
    if drawn is not None and drawn.svg is not None:
        root = parsed(drawn.svg)
        assert all(
            "nan" not in value and "inf" not in value for each in root.iter() for key, value in each.attrib.items() if key != "d"
        )
        assert all("nan" not in (path.get("d") or "") and "inf" not in (path.get("d") or "") for path in root.iter(f"{SVG}path"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=40))
def test_any_numbers_make_a_chart(values: list[float]) -> None:
    root = parsed(chart.lines("title", [chart.Line("s", tuple((float(x), y) for x, y in enumerate(values)))]))
    for path in root.iter(f"{SVG}path"):
        assert "nan" not in (path.get("d") or "") and "inf" not in (path.get("d") or "")


def test_thinning_keeps_ends_and_peaks() -> None:
    points = [(float(x), 0.0) for x in range(10_000)]
    points[4321] = (4321.0, 9.0)
    kept = chart.thinned(points)
    assert len(kept) == chart.MOST_POINTS and kept[0] == points[0] and kept[-1] == points[-1] and (4321.0, 9.0) in kept


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0.001, 0.0012), (1e9, 2e9), (-1e-12, 1e-12), (5, 5.0000001)])
def test_ticks_are_round_and_few_and_inside(low: float, high: float) -> None:
    found = axes.ticks(low, high)
    room = (high - low) * 1e-6
    assert 2 <= len(found) <= 7 and all(low - room <= tick <= high + room for tick in found)


def test_the_element_builder_escapes_everything_but_its_own() -> None:
    inner = element("b", "<i>&'\"\x1b\u202e")
    text = element("p", inner, title='"><script>', data_x=None, hidden=True, width=1.25)
    assert text == ('<p title="&quot;&gt;&lt;script&gt;" hidden width="1.2"><b>&lt;i&gt;&amp;&#x27;&quot;\\x1b\\u202e</b></p>')
    assert [number(value) for value in (0.0, -0.04, 0.04, 1.0, 1.25, -3.06, 100.0)] == ["0", "0", "0", "1", "1.2", "-3.1", "100"]
