"""Settings: flag > environment > project file > default; the store's place is nobody's but the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minipipe import settings
from minipipe.errors import BadSetting
from minipipe.settings import Settings, explain_settings, load_settings, store_home


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a folder without any project."""
    folder = tmp_path / "project" / "deep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def project(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold() -> None:
    assert load_settings() == Settings()
    assert {origin.origin for origin in explain_settings()} == {"default"}


def test_a_flag_beats_the_environment_which_beats_the_project(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project(here, "[tool.minipipe]\njobs = 2\n")
    assert load_settings().jobs == 2
    monkeypatch.setenv("MINIPIPE_JOBS", "3")
    assert load_settings().jobs == 3
    assert load_settings(jobs=4).jobs == 4
    assert load_settings(jobs=None).jobs == 3
    monkeypatch.delenv("MINIPIPE_JOBS")
    origins = {origin.name: origin.origin for origin in explain_settings(queue="gpu")}
    assert (origins["jobs"], origins["queue"], origins["cache"]) == (str(path), "flag", "default")


def test_the_nearest_project_file_upward_counts(here: Path) -> None:
    project(here.parent, "[tool.minipipe]\njobs = 2\nqueue = 'outer'\n")
    assert load_settings().queue == "outer"
    project(here, "[project]\nname = 'x'\n")
    assert load_settings() == Settings(), "a nearer file hides the outer one, as everywhere else"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("utc", "1", True),
        ("utc", "true", True),
        ("utc", "False", False),
        ("grace_s", "2.5", 2.5),
        ("jobs", "0", 0),
        ("cache", "refresh", "refresh"),
        ("queue", "any name", "any name"),
    ],
)
def test_text_from_the_environment_becomes_what_the_setting_is(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv("MINIPIPE_" + name.upper(), text)
    found = getattr(load_settings(), name)
    assert found == value
    assert type(found) is type(value)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIPIPE_JOBS", "")
    assert load_settings().jobs == 0


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("jobs", "many", "int"),
        ("jobs", "-1", "int"),
        ("grace_s", "soon", "float"),
        ("utc", "perhaps", "bool"),
        ("cache", "maybe", "on or off or refresh"),
        ("durability", "FULL", "full or fast"),
    ],
)
def test_a_value_nobody_can_use_is_refused_with_its_place(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: str
) -> None:
    with pytest.raises(BadSetting, match=name) as caught:
        load_settings(**{name: value})
    assert "flag" in caught.value.cause
    monkeypatch.setenv("MINIPIPE_" + name.upper(), value)
    with pytest.raises(BadSetting) as caught:
        load_settings()
    assert "MINIPIPE_" + name.upper() in caught.value.cause
    assert wanted in caught.value.hint
    assert caught.value.exit_code == 2
    monkeypatch.delenv("MINIPIPE_" + name.upper())
    path = project(here, f'[tool.minipipe]\n{name} = "{value}"\n')
    with pytest.raises(BadSetting) as caught:
        load_settings()
    assert str(path) in caught.value.cause


def test_seconds_may_be_endless_but_not_no_number() -> None:
    assert load_settings(drain_s="inf").drain_s == float("inf")
    with pytest.raises(BadSetting, match="drain_s"):
        load_settings(drain_s="nan")


def test_an_unknown_setting_is_warned_of_with_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project(here, "[tool.minipipe]\njob = 2\n")
    assert load_settings() == Settings()
    assert "unknown setting 'job'; did you mean jobs?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[tool.minipipe\n", "[tool.minipipe]\njobs = \n", "[tool.minipipe]\n# \udcff\n"])
def test_a_project_file_that_cannot_be_read_is_named(here: Path, text: str) -> None:
    path = here / "pyproject.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadSetting, match=r"pyproject\.toml cannot be read"):
        load_settings()


def test_a_broken_project_file_that_is_not_for_us_is_left_alone(here: Path) -> None:
    project(here, "[tool.other\n")
    assert load_settings() == Settings()


def test_slots_are_the_jobs_or_the_processors_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(jobs=7).slots == 7
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 3}, raising=False)
    assert Settings().slots == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert Settings().slots == 1


def test_every_choice_contains_its_default() -> None:
    for name, choices in settings.CHOICES.items():
        assert getattr(Settings(), name) in choices


# -- the store's place --------------------------------------------------------------------------------------------------


def test_the_store_is_here_if_there_is_none_upward(here: Path) -> None:
    assert store_home() == here / ".minipipe"


def test_the_nearest_store_upward_is_used(here: Path) -> None:
    (here.parent / ".minipipe").mkdir()
    assert store_home() == here / ".minipipe", "a folder without a database is no store"
    (here.parent / ".minipipe" / "minipipe.db").touch()
    assert store_home() == here.parent / ".minipipe"


def test_a_flag_beats_the_environment_for_the_store_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIPIPE_HOME", "elsewhere")
    assert store_home() == here / "elsewhere"
    assert store_home("~/x") == Path.home() / "x"
    assert store_home(here / "y") == here / "y"


def test_a_project_cannot_move_the_store(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project(here, "[tool.minipipe]\nhome = '/tmp/theirs'\n")
    load_settings()
    assert "unknown setting 'home'" in capsys.readouterr().err
    assert store_home() == here / ".minipipe"
