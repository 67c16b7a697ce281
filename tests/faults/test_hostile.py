"""Text, pickles, archives and files from outside: shown, never obeyed."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minipipe import errors
from minipipe.cli import VERBS, root
from minipipe.store import attempts, blobs, codec, edits, records, tasks, workers
from minipipe.store.home import Store
from tests.faults import machine
from tests.faults.sane import sane
from tests.store import making

ESC = "\x1b[2J\x1b]52;c;cm0gLXJm\x07\x1b]8;;http://evil\x1b\\\x9b31m\r\x08\x7f\u202e<b>'\";--${x}%s"
VERBS_THAT_LOAD = {"run", "resume", "rerun", "step", "worker", "import"}


def look(*arguments: str, code: tuple[int, ...] = (0,)) -> str:
    """What a verb prints on both streams; it must end well."""
    result = CliRunner().invoke(root, list(arguments))
    assert result.exit_code in code, (arguments, result.output)
    assert "Traceback" not in result.stderr, (arguments, result.stderr)
    return str(result.output)


def every_look(run: str, step: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """Every reading verb, with its options and formats."""
    yield from ((one, "--all") for one in ("status", "ps"))
    yield ("status", "--format", "tsv")
    yield ("status", "--format", "github")
    for flag in ((), ("--params",), ("--config",), ("--code",), ("--env",), ("--attempts",)):
        yield ("show", run, *flag)
        yield ("show", step, *flag)
    yield ("logs", run)
    yield ("logs", step, "--tail", "3")
    for flag in ((), ("--mermaid",), ("--dot",), ("--svg",), ("--json",)):
        yield ("graph", run, *flag)
    for verb in ("timeline", "artifacts", "metrics"):
        yield (verb, run)
        yield (verb, run, "--json")
    yield ("metrics", run, "--csv")
    yield ("diff", run, run, "--all")
    yield ("cache", "why", step)
    yield ("queue",)
    yield ("doctor", "--deep")
    yield ("du", "--runs")
    yield ("gc", "--keep-runs", "0", "--dry-run")
    yield ("report", run, "-o", str(folder / "page.html"))


@pytest.fixture
def hostile(
    tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Store, str, str]]:
    """A store in which every text that somebody may choose is hostile: (store, id of the run, id of a step)."""
    store = copy_store(tmp_path / "store")
    monkeypatch.setenv("MINIPIPE_HOME", str(store.path))
    monkeypatch.chdir(tmp_path)
    worker = workers.register(store, workers.AGENT, slots=1, queues=("default", f"q{ESC}"), name=f"w{ESC}")
    with store.database.write() as connection:
        connection.execute("INSERT INTO queue VALUES (?, 'x', 0, 0)", (f"q{ESC}",))
    parameter = tasks.Parameter(f"S{ESC}", f"p{ESC}", f"v{ESC}", "", json.dumps(f"v{ESC}"), description=f"d{ESC}")
    new = tasks.NewTask(
        "controller", f"r{ESC}", f"p{ESC}/.pipelines/r{ESC}", {}, is_run=True, version=f"1{ESC}", parameters=(parameter,)
    )
    run = tasks.submit(store, new)
    attempts.start_here(store, run.id, worker.id)
    part = {"name": f"n{ESC}", "kind": "function", "digest": "x", "file": f"f{ESC}", "line": 1}
    code = (f"key{ESC}", f"f{ESC}", f"def f(): pass\n# {ESC}\n", json.dumps([part]))
    step = making.step(store, f"s{ESC}", parent_id=run.id, parameters=(parameter,), code=code)
    claim = making.claim(store, worker)
    records.report(store, claim.lease, step, f"t{ESC}", f"s{ESC}", 0.5, 1)
    records.upload(store, claim.lease, step, f"a{ESC}", {f"k{ESC}": f"v{ESC}"})
    error = {"type": f"T{ESC}", "message": f"m{ESC}", "where": f"w{ESC}", "traceback": f"Traceback\n{ESC}\n"}
    attempts.finish(store, claim.lease, attempts.Outcome(attempts.FAILED, f"why{ESC}", error))
    path = store.log_path(claim.lease.uid, 1)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(
        f"minipipe: s{ESC} {claim.lease.uid[:8]} attempt 1 token 01234567\n{ESC}\n".encode() + b"\xff\xfe\x00\x1b[0m\n"
    )
    path.chmod(0o600)
    edits.set_configuration(store, run.id, f"c{ESC}", f"text{ESC}", f"k{ESC}")
    edits.set_tags(store, run.id, [f"tag{ESC}"])
    edits.label(store, run.id, comment=f"comment{ESC}")
    edits.move(store, run.id, "failed", f"reason{ESC}")
    uid = making.task(store, step)["uid"]
    store.close()
    yield store, run.uid, uid
    worker.lock.release()


def test_no_text_from_outside_reaches_the_terminal_as_control(hostile: tuple[Store, str, str], tmp_path: Path) -> None:
    store, run, step = hostile
    seen = 0
    for arguments in every_look(run, step, tmp_path):
        text = look(*arguments, code=(0, 3))
        bad = {character for character in text if (character < " " and character not in "\n\t") or "\x7f" <= character <= "\x9f"}
        bad |= set("\u202e\u202d\u2066\ufeff") & set(text)
        assert not bad, (arguments, bad)
        seen += "\\x1b" in text or "\\u001b" in text
    assert seen > 10  # it was there, made visible
    page = (tmp_path / "page.html").read_text()
    assert "<b>'" not in page and "\x1b" not in page and "\u202e" not in page
    assert sane(store.path) == []


SCRIPT = (
    f"ESC = {ESC.replace('${x}', '')!r}\n"
    + """
import sys
from minipipe import PipelineController, Task

def make(word, fails):
    if fails:
        raise ValueError(f"no {word}")
    return word

if sys.argv[1:2] == ["task"]:
    task = Task.init(project_name="p" + ESC, task_name="t" + ESC)
    task.set_parameter("by" + ESC, b"x")
    task.connect({"by" + ESC: b"x", "w" + ESC: ESC})
    task.close()
    Task.enqueue(Task.clone(task, name="c" + ESC), queue_name="q" + ESC)
    Task.get_task(project_name="none" + ESC, task_name="none")
    Task.clone(task, name="c\\0" + ESC)
pipe = PipelineController("r" + ESC, "p" + ESC, "1.0")
pipe.add_parameter("word" + ESC, "v" + ESC)
pipe.add_parameter("fails", False)
pipe.add_function_step(
    "s" + ESC, make, function_kwargs={"word": "${pipeline.word" + ESC + "}", "fails": "${pipeline.fails}"}, function_return=["a"],
    execution_queue="q" + ESC,
)
pipe.start_locally()
""".replace("\\\\0", "\\0")
)


@pytest.mark.faults
def test_no_command_that_runs_things_lets_a_name_or_a_value_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, because what Python itself prints (warnings, an error that ends a script) counts too."""
    monkeypatch.setenv("MINIPIPE_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    (tmp_path / "flow.py").write_text(SCRIPT)
    plain = ESC.replace("${x}", "")  # a reference, in a pipeline
    command = (sys.executable, "-m", "minipipe")
    for words, code in (
        ((sys.executable, "flow.py", "task"), 1),
        ((*command, "run", "flow.py", "--progress", "plain"), 0),
        ((*command, "rerun", "@last", "--set", f"word{plain}=n{ESC}", "--set", "fails=true", "--progress", "plain"), 1),
        ((*command, "resume", "@last", "--progress", "plain"), 1),
        ((*command, "watch", "@last", "--progress", "plain"), 1),
        ((*command, "rerun", "@last", "--set", f"none{ESC}=1"), 2),
    ):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        said = done.stdout + done.stderr
        assert done.returncode == code, (words, said)
        bad = {one for one in said if (one < " " and one not in "\n\t") or "\x7f" <= one <= "\x9f" or one == "\u202e"}
        assert not bad, (words, bad, said)
        assert "\\x1b" in said, (words, said)  # it was there, made visible


def test_names_like_paths_and_worse_stay_names_and_nothing_outside_the_store_changes(
    tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_store(tmp_path / "a" / "store")
    monkeypatch.setenv("MINIPIPE_HOME", str(store.path))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    worker = making.agent(store)
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    names = ["../../x", "/etc/passwd", "a\nb", "\N{GRINNING FACE}", "n" * 10_000, "-rf", "\u202egnp.exe", "CON", "..", "."]
    for number, name in enumerate(names):
        step = making.step(store, name, parent_id=run.id)
        claim = making.claim(store, worker)
        records.upload(store, claim.lease, step, name, b"x" * 20_000 + bytes([number]))
        making.finish(store, claim)
    edits.move(store, run.id, "completed")
    outside = sorted(str(path) for path in tmp_path.rglob("*") if store.path not in path.parents)
    for name in names:
        for row in store.database.rows("SELECT uid FROM task WHERE name = ?", (name,)):
            look("show", row["uid"])
            look("logs", row["uid"])
            result = CliRunner().invoke(root, ["get", f"{row['uid']}/{name}", "--force"])
            assert result.exit_code in (0, 2, 3), (name, result.output)
            for path in list(here.iterdir()):
                assert path.is_file() and path.parent == here
                path.unlink()
    assert sorted(str(path) for path in tmp_path.rglob("*") if store.path not in path.parents) == outside
    assert sane(store.path) == []


def test_filters_are_taken_literally(
    tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_store(tmp_path / "store")
    monkeypatch.setenv("MINIPIPE_HOME", str(store.path))
    run = making.run(store, tags=("plain",), parameters=(tasks.Parameter("Args", "lr", "0.1", "float", "0.1"),))
    store.close()
    attacks = ["x' OR 1=1 --", "%", "_", "'; DROP TABLE task; --", '"', "\\", "*", "plai_", "PLAIN"]
    for attack in attacks:
        for option in ("--tag", "--pipeline", "--project"):
            assert look("status", "-q", option, attack) == "", (option, attack)
        assert look("status", "-q", "--param", f"lr={attack}") == "" == look("status", "-q", "--param", f"{attack}=0.1")
        assert CliRunner().invoke(root, ["show", attack]).exit_code == 3
    assert look("status", "-q", "--tag", "plain", "--param", "lr=0.1").split() == [run.uid]


# -- pickles ------------------------------------------------------------------------------------------------------------


class Canary:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["CANARY"],)


def test_looking_never_unpickles_and_loading_stops_at_the_digest(
    tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary in every place a pickle can lie: result, upload, input, structure, code; large and inline; and in text columns."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    monkeypatch.chdir(tmp_path)
    store = copy_store(tmp_path / "store")
    monkeypatch.setenv("MINIPIPE_HOME", str(store.path))
    worker = making.agent(store)
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    large = (Canary(), b"x" * 20_000)
    links = [
        tasks.Link("input", "value", codec.encode(store, Canary())),
        tasks.Link("input", "structure", codec.as_structure(codec.encode(store, [Canary()]))),
        tasks.Link("code", "function", codec.encode(store, large)),
    ]
    entry = {"kind": "pickled", "cwd": "/", "roots": [], "returns": ["x"]}
    step = tasks.submit(store, tasks.NewTask("custom", "s", "p", entry, queue="default", parent_id=run.id, links=tuple(links))).id
    claim = making.claim(store, worker)
    records.upload(store, claim.lease, step, "large", large)
    records.upload(store, claim.lease, step, "small", Canary())
    making.finish(store, claim, value=Canary())
    text = pickle.dumps(Canary(), 0).decode()
    with store.database.write() as connection:
        connection.execute("UPDATE artifact SET preview = ?, type = ?, metadata = ?", (text, text, json.dumps({"x": text})))
        connection.execute("UPDATE task SET reason = ?, comment = ?, settings = ?", (text, text, json.dumps({"x": text})))
    edits.move(store, run.id, "completed")
    uid = making.task(store, step)["uid"]
    for arguments in every_look(run.uid, uid, tmp_path):
        look(*arguments, code=(0, 3))
    for name in ("large", "small", "out"):
        look("get", f"{uid}/{name}", "-o", str(tmp_path / f"{name}.pkl"), "--force")
    look("export", run.uid, "-o", str(tmp_path / "run.zip"))
    look("doctor", "--backup", str(tmp_path / "backup"))
    look("cache", "clear", "--all")
    assert not canary.exists()
    assert set(VERBS) >= VERBS_THAT_LOAD
    # Whoever planted other bytes under a digest gets no further.
    with store.database.write() as connection:
        connection.execute("UPDATE blob SET bytes = CAST(bytes || 'x' AS BLOB) WHERE bytes IS NOT NULL")
    for path in (store.path / "blobs").glob("*/*"):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"y")
    for name in ("large", "small", "out"):
        result = CliRunner().invoke(root, ["get", f"{uid}/{name}", "--load"])
        assert (result.exit_code, "damaged" in result.stderr) == (1, True), result.output
    result = CliRunner().invoke(root, ["step", uid])
    assert result.exit_code == 1 and "damaged" in result.stderr
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "owner", "mode"),
    [("", 65534, 0o700), ("minipipe.db", 65534, 0o600), ("", -1, 0o720), ("minipipe.db", -1, 0o602)],
    ids=["another's folder", "another's database", "a folder for a group", "a database for anybody"],
)
def test_a_store_that_others_own_or_may_write_is_refused_before_anything_is_loaded(
    tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch, name: str, owner: int, mode: int
) -> None:
    if owner >= 0:
        machine.need_root()
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    store = copy_store(tmp_path / "store")
    monkeypatch.setenv("MINIPIPE_HOME", str(store.path))
    worker = making.agent(store)
    step = making.step(store, "s")
    making.work(store, worker, value=Canary())
    uid = making.task(store, step)["uid"]
    workers.leave(store, worker)
    store.close()
    (store.path / name).chmod(mode)
    os.chown(store.path / name, owner, -1)
    words = f"belongs to another user (uid {owner})" if owner >= 0 else f"chmod go-w {store.path / name}"
    loading = ("get", f"{uid}/out", "--load")
    for verb in (loading, ("step", uid), ("worker", "--until-idle"), ("status",)):
        assert words in look(*verb, code=(4,)), verb
    assert not (tmp_path / "canary").exists()
    monkeypatch.setenv("MINIPIPE_TRUST_STORE", "1")
    look(*loading)
    assert (tmp_path / "canary").exists()  # it was there to be loaded


# -- files --------------------------------------------------------------------------------------------------------------


def _tar(*members: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"evil"))
    return out.getvalue()


ARCHIVES = {
    "climbing": _tar(("../../outside", tarfile.REGTYPE, "")),
    "absolute": _tar(("/tmp/minipipe-outside", tarfile.REGTYPE, "")),
    "link out": _tar(("link", tarfile.SYMTYPE, "/etc"), ("link/minipipe-outside", tarfile.REGTYPE, "")),
    "link up": _tar(("link", tarfile.SYMTYPE, "../.."), ("link/outside", tarfile.REGTYPE, "")),
    "hard link": _tar(("hard", tarfile.LNKTYPE, "/etc/passwd")),
    "device": _tar(("null", tarfile.CHRTYPE, "")),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_cannot_leave_its_folder(tmp_path: Path, what: str) -> None:
    scratch = tmp_path / "a" / "b" / "scratch"
    if what == "absolute":  # the "data" filter makes such a name relative (PEP 706)
        made = codec.decode(memoryview(ARCHIVES[what]), "folder", {"name": "../../x"}, scratch, "artifact 'a'")
        assert made.is_relative_to(scratch) and (made / "tmp" / "minipipe-outside").is_file()
    else:
        with pytest.raises(errors.ArtifactError):
            codec.decode(memoryview(ARCHIVES[what]), "folder", {"name": "../../x"}, scratch, "artifact 'a'")
    found = [path for path in tmp_path.rglob("*") if scratch not in path.parents and path.is_file()]
    assert found == [] and not Path("/tmp/minipipe-outside").exists() and not Path("/etc/minipipe-outside").exists()


def _npy_of_objects() -> bytes:
    numpy = pytest.importorskip("numpy")
    out = io.BytesIO()
    numpy.save(out, numpy.array([Canary()], dtype=object), allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("npy", b"objects"),
        ("npy", b"\x93NUMPY\x01\x00\xff\xff"),
        ("json", b"[" * 200_000),
        ("json", b'{"a": ' + b"9" * 50_000 + b"}"),
        ("json", b"\xff\xfe"),
        ("parquet", b"PAR1 broken PAR1"),
        ("npz", b"PK broken"),
        ("csv", b"\x1f\x8b broken"),
        ("yaml", b"a: !!python/object/apply:os.mkdir [x]"),
        ("png", b"\x89PNG broken"),
        ("from-the-future", b"x"),
    ],
)
def test_broken_and_hostile_files_are_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes
) -> None:
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    if data == b"objects":
        data = _npy_of_objects()
    with pytest.raises(errors.ArtifactError, match="artifact 'a' cannot be read back|there is no module"):
        codec.decode(memoryview(data), name, {}, tmp_path / "scratch", "artifact 'a'")
    assert not (tmp_path / "canary").exists()


def test_digests_never_become_paths_outside(store: Store) -> None:
    assert blobs.path_of(store, "ab" * 32).is_relative_to(store.path)
    with pytest.raises(errors.ArtifactError):
        blobs.load(store, "../../../../etc/passwd")
