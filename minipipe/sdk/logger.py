"""What a running task reports: numbers, text, figures, pictures, media (ClearML's `Logger`)."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import Any, ClassVar

from minipipe.sdk import notice, pictures, reports, session
from minipipe.sdk.figures import SeriesInfo as _SeriesInfo
from minipipe.store import blobs, plots, records
from minipipe.store.home import Store

SAMPLES_KEPT = 100  # of a title and series, unless somebody says otherwise (ClearML's default)

_firsts: dict[tuple[str, str], int] = {}


class Logger(reports.Reports):
    """Reports for one task. Get it from `Task.get_logger` or `Logger.current_logger`."""

    SeriesInfo = _SeriesInfo

    # How TensorBoard's scalars are named, see `tensorboard_auto_group_scalars`; read by what listens to TensorBoard.
    _tensorboard_grouped: ClassVar[bool] = False
    _tensorboard_single: ClassVar[bool] = False

    def __init__(self, task: session.Current) -> None:
        self._task = task

    @classmethod
    def current_logger(cls) -> Logger:
        """The logger of the task that runs here, None if there is none."""
        current = session.current()
        return None if current is None else cls(current)  # type: ignore[return-value]  # ClearML's signature promises one

    # -- text ---------------------------------------------------------------------------------------------------------

    def report_text(self, msg: str, level: int = logging.INFO, print_console: bool = True, *args: Any, **_: Any) -> None:
        """Write a line to the task's log.

        Args:
            msg: the text; ``%`` placeholders are filled from `args`.
            level: a level of `logging`, shown unless it is INFO.
            print_console: False keeps it off the console (and so, here, out of the log).
            args: for the placeholders.
        """
        if print_console:
            text = msg % args if args else msg
            print(text if level == logging.INFO else f"{logging.getLevelName(level)} {text}", flush=True)

    def capture_logging(self) -> contextlib.AbstractContextManager[None]:
        """For ``with``: what the block prints and logs is in the task's log, as everything else that its process prints."""
        if session.within() is None:
            notice.say("Logger.capture_logging", "what a process prints goes to the log of the task that it runs; none runs here")
        return contextlib.nullcontext()

    # -- pictures and media -------------------------------------------------------------------------------------------

    def report_image(
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        local_path: str | None = None,
        image: Any = None,
        matrix: Any = None,
        max_image_history: int | None = None,
        delete_after_upload: bool = False,
        url: str | None = None,
    ) -> None:
        """A picture as a debug sample; give exactly one of `local_path`, `image`, `matrix` and `url`.

        Args:
            title, series: where it belongs.
            iteration: default 0.
            local_path: a picture file, stored as it is.
            image: a NumPy array (height x width, or with 1 to 4 channels) or a Pillow image; stored as PNG.
            matrix: as `image` (ClearML's old name).
            max_image_history: of the title and series only the newest so many iterations stay; negative: all. Default see
                `set_default_debug_sample_history`.
            delete_after_upload: remove `local_path` then.
            url: only recorded, not read.

        Raises:
            ValueError: none or several were given, no such file, or no picture.
        """
        reports.one_of(local_path=local_path or None, url=url or None, image=image, matrix=matrix)
        found = image if image is not None else matrix
        if found is None:
            self._media(title, series, iteration, local_path, url, max_image_history, delete_after_upload)
        else:
            self._sample(title, series, iteration, pictures.png_of(found), ".png", max_image_history)

    def report_image_and_upload(
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        path: str | None = None,
        matrix: Any = None,
        max_image_history: int | None = None,
        delete_after_upload: bool = False,
    ) -> None:
        """As `report_image` (ClearML's old name)."""
        self.report_image(title, series, iteration, path, matrix, None, max_image_history, delete_after_upload)

    def report_media(
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        local_path: str | None = None,
        stream: Any = None,
        file_extension: str | None = None,
        max_history: int | None = None,
        delete_after_upload: bool = False,
        url: str | None = None,
    ) -> None:
        """Sound, video, text, HTML … as a debug sample; give exactly one of `local_path`, `stream` and `url`.

        Args:
            title, series: where it belongs.
            iteration: default 0.
            local_path: a file, stored as it is.
            stream: `io.BytesIO` or `io.StringIO`, read from its beginning; needs `file_extension`.
            file_extension: ".html", ".wav" …; says what the stream holds.
            max_history: as `max_image_history` of `report_image`.
            delete_after_upload: remove `local_path` then.
            url: only recorded, not read.

        Raises:
            ValueError: none or several were given, no such file, or a stream without `file_extension`.
        """
        reports.one_of(local_path=local_path or None, url=url or None, stream=stream)
        if stream is None:
            self._media(title, series, iteration, local_path, url, max_history, delete_after_upload)
            return
        if not file_extension:
            raise ValueError("file_extension says what the stream holds: it is needed")
        data = stream.getvalue()
        extension = file_extension if file_extension.startswith(".") else f".{file_extension}"
        self._sample(title, series, iteration, data.encode() if isinstance(data, str) else data, extension, max_history)

    def _media(
        self, title: str, series: str, iteration: int | None, path: Any, url: str | None, history: int | None, delete: bool
    ) -> None:
        place = (plots.SAMPLE, str(title), str(series), int(iteration or 0))
        if url:
            self._keep(plots.NewPlot(*place, pictures.media_type(url), url=str(url), keep=self._history(history)))
            return
        found = pictures.existing(path)
        writer = blobs.Writer(self._home())
        try:
            with open(found, "rb") as file:
                while part := file.read(8 << 20):
                    writer.write(part)
        except BaseException:
            writer.discard()
            raise
        self._keep(plots.NewPlot(*place, pictures.media_type(found.name), found.name, writer, keep=self._history(history)))
        if delete:
            found.unlink(missing_ok=True)

    def _sample(self, title: str, series: str, iteration: int | None, data: bytes, extension: str, history: int | None) -> None:
        name = f"{_file_stem(series)}_{int(iteration or 0)}{extension}"
        keep = self._history(history)
        self._keep_bytes(plots.SAMPLE, title, series, iteration, pictures.media_type(name), data, name, keep)

    def _history(self, given: int | None) -> int:
        return max(0, self.get_default_debug_sample_history() if given is None else int(given))

    # -- what others drew ---------------------------------------------------------------------------------------------

    def report_plotly(self, title: str, series: str, figure: Any, iteration: int | None = None) -> None:
        """A Plotly figure, or the dict that one is.

        Raises:
            ValueError: neither.
        """
        found = figure.to_plotly_json() if hasattr(figure, "to_plotly_json") else figure
        if not isinstance(found, dict) or "data" not in found:
            raise ValueError(f"a Plotly figure is a dict with 'data' and 'layout', not {type(figure).__name__}")
        self._draw(title, series, iteration, {"layout": {}, **found})

    def report_matplotlib_figure(
        self,
        title: str,
        series: str,
        figure: Any,
        iteration: int | None = None,
        report_image: bool = False,
        report_interactive: bool = True,
    ) -> None:
        """A Matplotlib figure, or ``matplotlib.pyplot`` for its current one, as a PNG.

        Args:
            title, series: where it belongs.
            figure: the figure.
            iteration: default 0.
            report_image: keep it as a debug sample instead of a plot.
            report_interactive: True, too, gives a picture as Matplotlib draws it, which nobody can zoom.
        """
        data, name = pictures.figure_png(figure), f"{_file_stem(series)}_{int(iteration or 0)}.png"
        if report_image:
            self._sample(title, series, iteration, data, ".png", None)
        else:
            self._keep_bytes(plots.PLOT, title, series, iteration, "image/png", data, name)

    # -- settings -----------------------------------------------------------------------------------------------------

    @classmethod
    def set_reporting_nan_value(cls, value: float, warn_period: int = 1000) -> None:
        """Store nan as another number from now on in this process, with a warning at every `warn_period`-th.

        Without this call nan is stored and shown as nan.
        """
        cls._instead["nan"] = (float(value), max(1, int(warn_period)), 0)

    @classmethod
    def set_reporting_inf_value(cls, value: float, warn_period: int = 1000) -> None:
        """As `set_reporting_nan_value`, for infinities."""
        cls._instead["inf"] = (float(value), max(1, int(warn_period)), 0)

    def set_default_debug_sample_history(self, max_history: int) -> None:
        """How many iterations of a picture or media series stay if the report does not say; negative: all."""
        _histories[self._task.uid] = int(max_history)

    def get_default_debug_sample_history(self) -> int:
        """See `set_default_debug_sample_history`; 100 if nothing was said."""
        return _histories.get(self._task.uid, SAMPLES_KEPT)

    @classmethod
    def matplotlib_force_report_non_interactive(cls, force: bool) -> None:
        """Report Matplotlib figures as pictures: they always are here."""

    @classmethod
    def tensorboard_auto_group_scalars(cls, group_scalars: bool = False) -> None:
        """Put TensorBoard's scalars that have no title (no ``title/`` before their name) into one chart, ``Scalars``; else each is a
        chart of its own."""
        Logger._tensorboard_grouped = bool(group_scalars)

    @classmethod
    def tensorboard_single_series_per_graph(cls, single_series: bool = False) -> None:
        """Put each of TensorBoard's scalars into a chart of its own, also those with a title in common."""
        Logger._tensorboard_single = bool(single_series)

    def set_default_upload_destination(self, uri: str) -> None:
        """Recorded: one store holds everything."""
        notice.recorded("Logger.set_default_upload_destination", "one store holds everything")
        _destinations[self._task.uid] = str(uri)

    def get_default_upload_destination(self) -> str:
        """What `set_default_upload_destination` recorded in this process, None if nothing."""
        return _destinations.get(self._task.uid)  # type: ignore[return-value]  # ClearML's signature promises a text

    def set_flush_period(self, period: float) -> None:
        """Recorded: nothing is buffered."""
        notice.recorded("Logger.set_flush_period", "nothing is buffered")
        _periods[self._task.uid] = float(period)

    def get_flush_period(self) -> float | None:
        """What `set_flush_period` recorded in this process, None if nothing."""
        return _periods.get(self._task.uid)

    def flush(self, wait: bool = False) -> bool:
        """Nothing is buffered: returns True at once."""
        return True

    # -- where it goes ------------------------------------------------------------------------------------------------

    def _home(self) -> Store:
        return self._task.store

    def _point(self, title: str, series: str, value: float | None, iteration: int | None) -> None:
        if iteration is not None:
            iteration += self._first_iteration()
        records.report(self._task.store, self._task.lease, self._task.row_id, title, series, value, iteration)

    def _keep(self, new: plots.NewPlot) -> None:
        first = self._first_iteration()
        moved = new if not first or new.iteration is None else replace(new, iteration=new.iteration + first)
        plots.report(self._task.store, self._task.lease, moved, task_id=self._task.row_id)

    def _first_iteration(self) -> int:
        """What a continued task adds to iterations; asked once per attempt."""
        lease = self._task.lease
        key = (self._task.uid, lease.token if lease is not None else "")
        if lease is None:
            return 0  # somebody else's report
        if key not in _firsts:
            _firsts.clear()
            _firsts[key] = int(records.settings_of(self._task.store, self._task.row_id).get("first_iteration", 0))
        return _firsts[key]


def forget_first_iteration() -> None:
    """Ask again what is added to iterations: it was changed."""
    _firsts.clear()


def _file_stem(series: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in str(series))[:80] or "sample"


_histories: dict[str, int] = {}
_destinations: dict[str, str] = {}
_periods: dict[str, float] = {}
