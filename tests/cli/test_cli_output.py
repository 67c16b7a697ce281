"""The gate that text leaves through: escaping, times, sizes, tables."""

from __future__ import annotations

import io
import json
import math

import pytest

from minipipe.cli import output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain grün 数", "plain grün 数"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f", "\\x7f"),
        ("\u202etxt.exe\u2066", "\\u202etxt.exe\\u2066"),
        ("\u2028\ufeff\u200e", "\\u2028\\ufeff\\u200e"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        (None, "None"),
    ],
)
def test_control_characters_and_bidirectional_marks_become_visible(text: object, shown: str) -> None:
    assert output.escape(text) == shown


def test_text_of_several_lines_keeps_line_ends_and_tabs_and_nothing_else() -> None:
    assert output.escape_lines("a\tb\r\nc\x1b[0m\rd\x0b") == "a\tb\nc\\x1b[0m\\rd\\x0b"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""),
        (-3.0, "0.0s"),
        (0.2, "0.2s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (41.4, "41s"),
        (59.7, "1m"),
        (75, "1m 15s"),
        (360, "6m"),
        (3900, "1h 5m"),
        (3600, "1h"),
        (183600, "2d 3h"),
    ],
)
def test_durations_have_one_or_two_units(seconds: float | None, shown: str) -> None:
    assert output.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(41, "41s ago"), (400, "6m ago"), (7300, "2h ago"), (3e5, "3d ago"), (-5, "0s ago")]
)
def test_ages_have_one_unit(seconds: float, shown: str) -> None:
    assert output.ago(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (412, "412 B"),
        (6100, "6.1 kB"),
        (999_960, "1.0 MB"),
        (1_900_000_000, "1.9 GB"),
        (3 * 10**15, "3000.0 TB"),
        (None, ""),
    ],
)
def test_sizes_are_powers_of_a_thousand(number: int | None, shown: str) -> None:
    assert output.size(number) == shown


def test_times_in_json_are_utc_with_a_z() -> None:
    assert output.iso(0.5) == "1970-01-01T00:00:00.500000Z"
    assert output.iso(None) is None


def test_numbers_that_json_lacks_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"a": math.nan, "b": [math.inf, -math.inf], "c": "\x9b\u202e"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": "nan", "b": ["inf", "-inf"], "c": "\x9b\u202e"}
    assert text.isascii()


def test_an_id_that_reads_as_a_number_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([("1e500012", "00012345")], ("ID", "OTHER"))
    assert capsys.readouterr().out == "ID        OTHER\n1e500012  00012345\n"


def test_tsv_is_neither_padded_nor_broken_by_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([("a\tb", "x\ny"), ("  c", None)], ("A", "LONG HEADER"), "tsv")
    assert capsys.readouterr().out == "A\tLONG HEADER\na\\tb\tx\\ny\n  c\n"


def test_a_pipe_in_a_cell_does_not_split_a_github_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([("a|b",)], ("A",), "github")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| a\\|b |"


def test_jsonl_is_one_record_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([(1,), (2,)], ("A",), "jsonl", [{"a": 1}, {"a": 2}])
    assert capsys.readouterr().out == '{"a":1}\n{"a":2}\n'


def test_a_note_stands_under_its_row_at_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([("aaaa", "queued"), ("b", "queued")], ("ID", "STATUS"), notes={0: ("STATUS", "waiting: x\ny")})
    assert capsys.readouterr().out.splitlines() == ["ID    STATUS", "aaaa  queued", "      waiting: x\\ny", "b     queued"]


class _Terminal(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def test_glyphs_need_a_terminal_that_has_them() -> None:
    assert output.glyph("completed", _Terminal("utf-8")) == "✔"
    assert output.glyph("queued", _Terminal("utf-8")) == "○"
    assert output.glyph("completed", _Terminal("ascii")) == ""
    assert output.glyph("completed", io.StringIO()) == ""
    assert output.bar(2, 1, 4, _Terminal("utf-8")) == "▇▇▇░"
    assert output.bar(50, 0, 100, _Terminal("utf-8")) == "▇▇▇▇▇░░░░░"
    assert output.bar(2, 1, 4, _Terminal("latin-1")) == ""


def test_the_flag_beats_the_environment_and_no_color_beats_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, pipe = _Terminal("utf-8"), io.StringIO()
    assert output.wants_color("auto", terminal)
    assert not output.wants_color("auto", pipe)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert output.wants_color("auto", pipe)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.wants_color("auto", terminal)
    assert output.wants_color("always", pipe)
    assert not output.wants_color("never", terminal)
