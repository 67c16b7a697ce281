"""``artifacts`` and ``get``: listed without loading, saved only where the user says."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from minipipe.store import blobs, plots
from minipipe.store.blobs import Writer
from tests.cli.conftest import Filled

Invoke = Callable[..., Result]


class Bomb:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def made(filled: Filled, **outputs: object) -> None:
    run = filled.run()
    filled.step(run, "train")
    filled.finish(filled.claim(), **outputs)
    filled.end(run)


def test_artifacts_and_scalar_results_are_listed_with_size_digest_and_preview(filled: Filled, cli: Invoke) -> None:
    made(filled, accuracy=0.93, points={"a": 1})
    lines = cli("artifacts", "@last").stdout.splitlines()
    assert lines[0].split() == ["STEP", "NAME", "ROLE", "TYPE", "SIZE", "DIGEST", "PREVIEW"]
    assert lines[1].split() == ["train", "accuracy", "output", "float", "0.93"]
    assert lines[2].split()[:6] == ["train", "points", "output", "dict", "7", "B"]
    document = json.loads(cli("artifacts", "@last/train", "--json").stdout)[1]
    assert (document["size"], len(document["digest"]), document["codec"]) == (7, 64, "json")


def test_a_hostile_pickle_is_listed_and_saved_but_not_loaded(filled: Filled, cli: Invoke, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    made(filled, model=Bomb(str(bomb)))
    assert cli("artifacts", "@last").exit_code == 0
    assert cli("show", "@last/train").exit_code == 0
    assert cli("get", "@last/train/model").stdout == "model.pkl\n"
    assert not bomb.exists()
    assert cli("get", "@last/train/model", "--load").exit_code == 0
    assert bomb.exists()


def test_get_writes_the_bytes_and_overwrites_only_with_force(filled: Filled, cli: Invoke) -> None:
    made(filled, points=[1, 2])
    assert cli("get", "@last/train/points").stdout == "points.json\n"
    assert Path("points.json").read_bytes() == b"[1,2]"
    Path("points.json").write_text("mine")
    result = cli("get", "@last/train/points")
    assert result.exit_code == 2
    assert "points.json exists" in result.stderr
    assert Path("points.json").read_text() == "mine"
    assert cli("get", "@last/train/points", "--force").exit_code == 0
    assert Path("points.json").read_bytes() == b"[1,2]"
    assert cli("get", "@last/train/points", "-o", "-").stdout == "[1,2]"
    assert sorted(path.name for path in Path().iterdir()) == [".minipipe", "points.json"]


def test_get_takes_a_file_or_a_folder_and_says_when_there_is_none(filled: Filled, cli: Invoke) -> None:
    made(filled, points=[1, 2], n=3)
    Path("sub").mkdir()
    assert cli("get", "@last/train/points", "-o", "sub").stdout == "sub/points.json\n"
    assert cli("get", "@last/train/n", "-o", "x.txt").exit_code == 0
    assert Path("x.txt").read_text() == "3\n"
    result = cli("get", "@last/train/points", "-o", "no/such/x")
    assert (result.exit_code, "cannot write no/such/x" in result.stderr) == (3, True)
    result = cli("get", "@last/train")
    assert (result.exit_code, "it is a step; an artifact is RUN/STEP/NAME" in result.stderr) == (3, True)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "..", ".hidden", "a\x00b", "-rf", "x" * 300, "\u202egnp.exe"])
def test_no_artifact_name_leads_out_of_the_current_folder(filled: Filled, cli: Invoke, name: str, tmp_path: Path) -> None:
    made(filled, **{name: [1]})
    result = cli("get", f"@last/train/{name}")
    assert result.exit_code == 0, result.output
    files = [path for path in tmp_path.iterdir() if path.name != ".minipipe"]
    assert len(files) == 1
    assert files[0].read_bytes() == b"[1]"
    assert not files[0].name.startswith(".")


def test_force_replaces_a_link_and_not_what_it_leads_to(filled: Filled, cli: Invoke, tmp_path: Path) -> None:
    made(filled, points=[1])
    (tmp_path / "precious").write_text("keep")
    os.symlink(tmp_path / "precious", tmp_path / "points.json")
    assert cli("get", "@last/train/points").exit_code == 2
    assert cli("get", "@last/train/points", "--force").exit_code == 0
    assert (tmp_path / "precious").read_text() == "keep"


def test_load_prints_the_repr_made_harmless(filled: Filled, cli: Invoke) -> None:
    made(filled, points={"a": (1, "\x1b")}, n=3)
    assert cli("get", "@last/train/points", "--load").stdout == "{'a': (1, '\\x1b')}\n"
    assert cli("get", "@last/train/n", "--load").stdout == "3\n"


def test_an_unknown_artifact_is_exit_3_and_names_those_there_are(filled: Filled, cli: Invoke) -> None:
    made(filled, points=[1], n=3)
    result = cli("get", "@last/train/model")
    assert result.exit_code == 3
    assert "has no artifact 'model'" in result.stderr
    assert "it has n, points" in result.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "its bytes have digest"),
        (lambda path: os.truncate(path, 100), "has 100 bytes"),
        (lambda path: os.truncate(path, 0), "has 0 bytes"),
        (lambda path: path.unlink(), "is missing"),
    ],
    ids=["flipped", "cut", "empty", "missing"],
)
def test_damaged_bytes_are_never_handed_out(filled: Filled, cli: Invoke, damage: Callable[[Path], object], words: str) -> None:
    made(filled, points=list(range(20_000)))
    path = stored(filled, "points")
    path.chmod(0o600)
    damage(path)
    for args in ((), ("-o", "-"), ("--load",)):
        result = cli("get", "@last/train/points", *args)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "artifact 'points' are damaged" in result.stderr
    assert not Path("points.json").exists()
    result = cli("doctor", "--deep")
    assert result.exit_code == 4
    assert path.name[:8] in result.stdout and words in result.stdout
    assert "/train/points" in result.stdout


@pytest.mark.parametrize("mode", [0o666, 0o600, 0o400, 0o000])
def test_bytes_of_another_mode_are_handed_out_if_they_can_be_read_and_doctor_names_it(
    filled: Filled, cli: Invoke, mode: int
) -> None:
    made(filled, points=list(range(20_000)))
    path = stored(filled, "points")
    path.chmod(mode)
    result = cli("get", "@last/train/points", "-o", "-")
    if not mode & 0o400 and os.geteuid() != 0:
        assert result.exit_code == 1 and f"{path} cannot be read" in result.stderr
    else:
        assert (result.exit_code, json.loads(result.stdout)) == (0, list(range(20_000)))
    checked = cli("doctor")
    assert checked.exit_code == (0 if mode in (0o600, 0o400) else 4), checked.output
    if mode != 0o400:
        assert f"mode {mode:04o}" in checked.stdout and path.name[:8] in checked.stdout, checked.stdout
        assert cli("doctor", "--repair").exit_code == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def stored(filled: Filled, name: str) -> Path:
    """The file of an artifact."""
    row = filled.store.database.row("SELECT digest FROM artifact WHERE name = ?", (name,))
    assert row is not None
    return blobs.path_of(filled.store, row["digest"])


def test_get_saves_what_a_step_reported_to_be_looked_at(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    filled.finish(filled.claim(), model=[1])
    filled.end(run)
    for task in (step, run):
        for kind, file, data in (("image/png", "x.png", b"\x89PNG"), (plots.FIGURE, "", b'{"data": []}')):
            writer = Writer(filled.store)
            writer.write(data)
            plots.report(filled.store, None, plots.NewPlot(plots.PLOT, kind, "my series", 1, kind, file, writer), task.id)
    for label in ("@last/train", "@last"):
        assert cli("get", f"{label}/image/png/my series", "-o", "-").stdout_bytes == b"\x89PNG"
        assert cli("get", f"{label}/{plots.FIGURE}/my series", "-o", "-").stdout == '{"data": []}'
    assert cli("get", "@last/train/image/png/my series").stdout == "image_png-my_series.png\n"
    assert cli("get", "@last/train/image/png/other").exit_code == 3
