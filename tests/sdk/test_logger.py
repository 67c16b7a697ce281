"""What a task can report beside its scalars, and how it comes back (ClearML's `Logger`)."""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from minipipe import Logger, StorageManager, Task
from minipipe.sdk import reports
from minipipe.store import plots
from minipipe.store.home import Store
from tests.faults.sane import sane


@pytest.fixture
def task(home: Store) -> Task:
    """A task that runs."""
    made = Task.create("reports", "it")
    made.mark_started()
    return made


@pytest.fixture
def log(task: Task) -> Iterator[Logger]:
    """Its logger; what the class was told ends with the test."""
    yield task.get_logger()
    reports.Reports._instead.clear()


def only(task: Task, home: Store, **wanted: Any) -> plots.Plot:
    """The one plot of a task."""
    (plot,) = plots.of_task(home, task.row_id, **wanted)
    return plot


def trace_of(task: Task, home: Store) -> dict[str, Any]:
    (trace,) = plots.figure(home, only(task, home))["data"]
    return dict(trace)


FIGURES: dict[str, tuple[Callable[[Logger], None], dict[str, Any]]] = {
    "histogram": (
        lambda log: log.report_histogram("t", "s", [1, 2.5], 3, xlabels=["a", "b"], xaxis="X", yaxis="Y"),
        {"type": "bar", "name": "s", "x": ["a", "b"], "y": [1, 2.5]},
    ),
    "vector": (lambda log: log.report_vector("t", "s", numpy.array([1, 2])), {"type": "bar", "x": [0, 1], "y": [1, 2]}),
    "scatter2d": (
        lambda log: log.report_scatter2d("t", "s", [(1, 2), (3, 4)], 3, mode="markers", labels=["p", "q"]),
        {"type": "scatter", "mode": "markers", "x": [1, 3], "y": [2, 4], "text": ["p", "q"]},
    ),
    "scatter3d": (
        lambda log: log.report_scatter3d("t", "s", numpy.array([[1, 2, 3], [4, 5, 6]]), 3, fill=True),
        {"type": "scatter3d", "x": [1, 4], "y": [2, 5], "z": [3, 6], "surfaceaxis": 1},
    ),
    "confusion matrix": (
        lambda log: log.report_confusion_matrix("t", "s", numpy.eye(2), 3, xlabels=["c", "d"], ylabels=["e", "f"], comment="c"),
        {"type": "heatmap", "z": [[1.0, 0.0], [0.0, 1.0]], "x": ["c", "d"], "y": ["e", "f"]},
    ),
    "matrix": (lambda log: log.report_matrix("t", "s", [[1, 2]], 3), {"type": "heatmap", "z": [[1, 2]], "y": [0]}),
    "surface": (
        lambda log: log.report_surface("t", "s", [[1, 2], [3, 4]], 3, zaxis="Z", camera=(1, 2, 3)),
        {"type": "surface", "z": [[1, 2], [3, 4]]},
    ),
    "table": (
        lambda log: log.report_table("t", "s", 3, [["a", "b"], [1, "x"], [2]], extra_data={"columnwidth": [1, 2]}),
        {"header": {"values": ["a", "b"]}, "cells": {"values": [[1, 2], ["x", None]]}, "columnwidth": [1, 2]},
    ),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_every_report_is_kept_as_a_figure_that_can_be_drawn(task: Task, log: Logger, home: Store, kind: str) -> None:
    report, expected = FIGURES[kind]
    report(log)
    found = trace_of(task, home)
    assert {name: found.get(name) for name in expected} == expected
    plot = only(task, home)
    assert (plot.title, plot.series, plot.iteration) == ("t", "s", 0 if kind == "vector" else 3)
    assert plots.figure(home, plot)["layout"]["title"]["text"].startswith("t")
    (seen,) = task.get_reported_plots()
    assert (seen["metric"], seen["variant"], seen["task"]) == ("t", "s", task.id)
    assert json.loads(seen["plot_str"]) == plots.figure(home, plot)


def test_a_line_plot_has_several_lines_and_one_name(task: Task, log: Logger, home: Store) -> None:
    series = [log.SeriesInfo("a", [(1, 2), (3, 4)], labels=["p", "q"]), Logger.SeriesInfo("b", numpy.array([[5, 6]]))]
    log.report_line_plot("t", series, "X", "Y", iteration=2, reverse_xaxis=True, comment="below", extra_layout={"height": 3})
    plot = only(task, home)
    figure = plots.figure(home, plot)
    assert (plot.title, plot.series) == ("t", "t")
    assert [(trace["name"], trace["x"], trace["y"]) for trace in figure["data"]] == [("a", [1, 3], [2, 4]), ("b", [5], [6])]
    assert figure["layout"]["xaxis"] == {"title": {"text": "X"}, "autorange": "reversed"}
    assert figure["layout"]["height"] == 3 and "below" in figure["layout"]["title"]["text"]


def test_what_numpy_counts_is_bars_between_its_edges(task: Task, log: Logger, home: Store) -> None:
    log.report_histogram("t", "s", ([3, 1], [0.0, 1.0, 2.0]))

    (plot,) = plots.of_task(home, task.row_id)
    (bars,) = plots.figure(home, plot)["data"]
    assert (bars["x"], bars["y"]) == ([0.5, 1.5], [3, 1])


def test_several_rows_of_a_histogram_are_several_groups(task: Task, log: Logger, home: Store) -> None:
    log.report_histogram("t", "s", [[1, 2], [3, 4]], labels=["one"], mode="stack", data_args={"orientation": "h"})
    figure = plots.figure(home, only(task, home))
    assert [trace["name"] for trace in figure["data"]] == ["one", "s 1"]
    assert figure["layout"]["barmode"] == "stack" and figure["data"][0]["orientation"] == "h"


def test_nan_and_infinities_in_figures_are_gaps_and_the_json_is_strict(task: Task, log: Logger, home: Store) -> None:
    log.report_matrix("t", "s", numpy.array([[math.nan, math.inf, 1.5]]))
    text = bytes(plots.content(home, only(task, home))).decode()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert trace_of(task, home)["z"] == [[None, None, 1.5]]


# -- tables -------------------------------------------------------------------------------------------------------------


def table_of(task: Task, home: Store) -> tuple[list[Any], list[Any]]:
    trace = trace_of(task, home)
    assert only(task, home).kind == "table"
    return trace["header"]["values"], trace["cells"]["values"]


@pytest.mark.parametrize(
    ("frame", "names", "columns"),
    [
        (pandas.DataFrame({"a": [1, 2], "b": ["x", None]}), ["a", "b"], [[1, 2], ["x", None]]),
        (pandas.DataFrame({"a": [1.5, math.nan]}, index=["i", "j"]), ["", "a"], [["i", "j"], [1.5, None]]),
        (
            pandas.DataFrame([[1, 2]], columns=pandas.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
            ["a / b", "a / c"],
            [[1], [2]],
        ),
        (
            pandas.DataFrame({"t": pandas.to_datetime(["2020-01-01"])}, index=pandas.Index([7], name="n")),
            ["n", "t"],
            [[7], ["2020-01-01T00:00:00"]],
        ),
    ],
    ids=["plain", "index", "multi-index", "times"],
)
def test_a_frame_is_a_table_with_its_index_unless_that_only_counts(
    task: Task, log: Logger, home: Store, frame: pandas.DataFrame, names: list[str], columns: list[Any]
) -> None:
    log.report_table("t", "s", 1, frame)
    assert table_of(task, home) == (names, columns)


def test_a_table_comes_from_a_csv_file_or_url(
    task: Task, log: Logger, home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text('name,"a, b"\nx,1\ny,2.5\n')
    log.report_table("t", "s", 1, csv=str(path))
    assert table_of(task, home) == (["name", "a, b"], [["x", "y"], [1, 2.5]])
    monkeypatch.setenv("MINIPIPE_URL_MAP", json.dumps({"https://somewhere/": str(tmp_path)}))
    log.report_table("t", "s", 1, url="https://somewhere/table.csv")
    assert table_of(task, home) == (["name", "a, b"], [["x", "y"], [1, 2.5]])


# -- pictures and media -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "colour", "first"),
    [
        (numpy.full((2, 3), 200, numpy.uint8), 0, b"\xc8"),
        (numpy.full((2, 3, 3), 0.5), 2, b"\x7f\x7f\x7f"),
        (numpy.full((2, 3, 4), 300), 6, b"\xff\xff\xff\xff"),
        (numpy.zeros((2, 3, 1), numpy.float32), 0, b"\x00"),
    ],
    ids=["grey", "floats", "too bright", "one channel"],
)
def test_an_array_is_kept_as_a_png(task: Task, log: Logger, home: Store, image: Any, colour: int, first: bytes) -> None:
    log.report_image("t", "s", 4, image=image)
    plot = only(task, home)
    data = bytes(plots.content(home, plot))
    assert (plot.kind, plot.type, plot.iteration, plot.file) == ("sample", "image/png", 4, "s_4.png")
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[16:24] == b"\0\0\0\x03\0\0\0\x02" and data[25] == colour
    start = data.index(b"IDAT") + 4
    assert zlib.decompress(data[start:-16])[1 : 1 + len(first)] == first


def test_a_pillow_image_comes_back_from_its_debug_sample(task: Task, log: Logger) -> None:
    image = pytest.importorskip("PIL.Image")
    log.report_image_and_upload("t", "s", 1, matrix=image.new("RGB", (5, 4), (10, 20, 30)))
    (sample,) = task.get_debug_samples("t", "s")
    path = StorageManager.get_local_copy(sample["url"])
    assert path is not None
    again = image.open(path)
    assert (again.size, again.getpixel((0, 0))) == ((5, 4), (10, 20, 30))


def test_a_file_is_kept_as_it_is_and_removed_only_if_asked(task: Task, log: Logger, home: Store, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"RIFF" * 20_000)
    log.report_media("t", "s", 1, local_path=str(path))
    assert path.exists()
    log.report_media("t", "s", 2, local_path=str(path), delete_after_upload=True)
    assert not path.exists()
    first, second = plots.of_task(home, task.row_id)
    assert first.digest == second.digest and first.type.startswith("audio/") and first.file == "sound.wav"
    assert bytes(plots.content(home, first)) == b"RIFF" * 20_000
    task.mark_completed()
    assert sane(home.path) == []


def test_streams_and_urls_are_media_too(task: Task, log: Logger, home: Store) -> None:
    log.report_media("t", "text", 1, stream=io.StringIO("<b>hi</b>"), file_extension="html")
    log.report_media("t", "bytes", 1, stream=io.BytesIO(b"\0\1"), file_extension=".bin")
    log.report_image("t", "far", 1, url="https://host/there.jpg")
    text, data, far = plots.of_task(home, task.row_id)
    assert (text.type, bytes(plots.content(home, text))) == ("text/html", b"<b>hi</b>")
    assert (data.type, data.file) == ("application/octet-stream", "bytes_1.bin")
    assert (far.type, far.url, far.digest) == ("image/jpeg", "https://host/there.jpg", None)
    assert [sample["url"] for sample in task.get_debug_samples("t", "far")] == ["https://host/there.jpg"]


def test_of_debug_samples_the_newest_hundred_iterations_stay_unless_somebody_says_otherwise(
    task: Task, log: Logger, home: Store
) -> None:
    pixel = numpy.zeros((1, 1), numpy.uint8)
    assert log.get_default_debug_sample_history() == 100
    log.set_default_debug_sample_history(2)
    for iteration in range(4):
        log.report_image("t", "two", iteration, image=pixel)
        log.report_image("t", "all", iteration, image=pixel, max_image_history=-1)
    assert [plot.iteration for plot in plots.of_task(home, task.row_id, series="two")] == [2, 3]
    assert [plot.iteration for plot in plots.of_task(home, task.row_id, series="all")] == [0, 1, 2, 3]
    assert [sample["iter"] for sample in task.get_debug_samples("t", "all", n_last_iterations=2)] == [3, 2]
    with pytest.raises(TypeError, match="n_last_iterations"):
        task.get_debug_samples("t", "all", n_last_iterations="2")  # type: ignore[arg-type]


# -- what others drew ---------------------------------------------------------------------------------------------------


def test_a_plotly_figure_is_kept_as_it_is(task: Task, log: Logger, home: Store) -> None:
    class Figure:
        def to_plotly_json(self) -> dict[str, Any]:
            return {"data": [{"type": "violin", "y": numpy.array([1, 2])}], "layout": {"title": "mine"}}

    log.report_plotly("t", "s", Figure(), 1)  # type: ignore[arg-type]
    assert plots.figure(home, only(task, home)) == {"data": [{"type": "violin", "y": [1, 2]}], "layout": {"title": "mine"}}
    log.report_plotly("t", "s", {"data": []}, 1)
    assert plots.figure(home, only(task, home)) == {"data": [], "layout": {}}


def test_a_matplotlib_figure_is_a_plot_or_a_debug_sample(
    task: Task, log: Logger, home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = pyplot.figure()
    figure.gca().plot([1, 2])
    log.report_matplotlib_figure("t", "figure", figure, 1)
    Logger.matplotlib_force_report_non_interactive(True)  # a picture is what figures are here in any case
    log.report_matplotlib_figure("t", "module", pyplot, 1, report_image=True)
    Logger.matplotlib_force_report_non_interactive(False)
    plot, sample = plots.of_task(home, task.row_id)
    assert (plot.kind, sample.kind) == ("plot", "sample")
    assert plots.content(home, plot) == plots.content(home, sample) and bytes(plots.content(home, plot))[:4] == b"\x89PNG"
    (seen,) = task.get_reported_plots()
    (shown,) = json.loads(seen["plot_str"])["layout"]["images"]
    path = StorageManager.get_local_copy(shown["source"])
    assert path is not None and Path(path).read_bytes()[:4] == b"\x89PNG"
    pyplot.close(figure)


# -- numbers and settings -----------------------------------------------------------------------------------------------


def test_nan_stays_nan_until_another_value_is_asked_for(task: Task, log: Logger, capsys: pytest.CaptureFixture[str]) -> None:
    log.report_scalar("t", "s", math.nan, 0)
    log.report_scalar("t", "s", math.inf, 1)
    Logger.set_reporting_nan_value(-1.0, warn_period=2)
    Logger.set_reporting_inf_value(-2.0)
    for iteration in range(2, 5):
        log.report_scalar("t", "s", math.nan, iteration)
    log.report_scalar("t", "s", -math.inf, 5)
    values = task.get_reported_scalars()["t"]["s"]["y"]
    assert math.isnan(values[0]) and values[1:] == [math.inf, -1.0, -1.0, -1.0, -2.0]
    assert capsys.readouterr().err.count("nan was reported; stored as -1.0") == 2


def test_an_initial_iteration_is_added_to_what_comes(home: Store) -> None:
    task = Task.init("reports", "continued")
    assert task.get_initial_iteration() == 0
    task.get_logger().report_scalar("t", "s", 1, 1)
    assert task.set_initial_iteration(100) == 100 == task.get_initial_iteration()
    task.get_logger().report_scalar("t", "s", 2, 1)
    task.get_logger().report_matrix("t", "m", [[1]], 2)
    assert task.get_reported_scalars()["t"]["s"]["x"] == [1, 101]
    assert only(task, home).iteration == 102
    task.close()


def test_plots_of_the_last_iterations_are_read(task: Task, log: Logger) -> None:
    for iteration in range(3):
        log.report_matrix("t", "s", [[iteration]], iteration)
    assert [plot["iter"] for plot in task.get_reported_plots()] == [2]
    assert [plot["iter"] for plot in task.get_reported_plots(max_iterations=2)] == [1, 2]


def test_what_is_only_recorded_says_so_once_and_is_read_back(log: Logger, capsys: pytest.CaptureFixture[str]) -> None:
    assert log.get_flush_period() is None and log.get_default_upload_destination() is None
    for _ in range(2):
        log.set_flush_period(3.0)
        log.set_default_upload_destination("s3://bucket")
    assert (log.get_flush_period(), log.get_default_upload_destination()) == (3.0, "s3://bucket")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(set(said)) <= 2
    assert log.flush() is True


def test_with_capture_logging_prints_go_where_they_always_go(log: Logger, capsys: pytest.CaptureFixture[str]) -> None:
    with log.capture_logging():
        print("inside")
    assert "inside" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda log: log.report_scatter2d("t", "s", [(1, 2, 3)]), "rows of 2 numbers"),
        (lambda log: log.report_scatter3d("t", "s", "text"), "rows of 3 numbers"),
        (lambda log: log.report_matrix("t", "s", [[1], [1, 2]]), "rows of equal length"),
        (lambda log: log.report_matrix("t", "s", numpy.zeros((2, 2, 2))), "rows of equal length"),
        (lambda log: log.report_line_plot("t", [1], "x", "y"), "a line is a Logger.SeriesInfo, not int"),
        (lambda log: log.report_table("t", "s"), "exactly one of table_plot, csv, url"),
        (lambda log: log.report_table("t", "s", 0, [[1]], csv="x"), "given: table_plot, csv"),
        (lambda log: log.report_table("t", "s", 0, csv="/nowhere.csv"), "/nowhere.csv"),
        (lambda log: log.report_table("t", "s", 0, 7), "a table is a DataFrame"),
        (lambda log: log.report_image("t", "s"), "exactly one of"),
        (lambda log: log.report_image("t", "s", 0, local_path="/nowhere.png"), "/nowhere.png"),
        (lambda log: log.report_image("t", "s", 0, image=numpy.zeros((2, 2, 7))), "shape"),
        (lambda log: log.report_image("t", "s", 0, image=[[1]]), "NumPy array or a Pillow image"),
        (lambda log: log.report_media("t", "s", 0, stream=io.BytesIO(b"")), "file_extension"),
        (lambda log: log.report_plotly("t", "s", "text"), "Plotly figure"),
        (lambda log: log.report_matplotlib_figure("t", "s", "text"), "no Matplotlib figure"),
    ],
)
def test_a_report_that_makes_no_sense_is_refused_and_leaves_nothing(
    task: Task, log: Logger, home: Store, call: Callable[[Logger], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(log)
    assert plots.of_task(home, task.row_id) == []
    assert list((home.path / "tmp").iterdir()) == []
