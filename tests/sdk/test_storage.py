"""Files by URL: local paths, artifacts, downloads from a server in this process, archives of unknown origin."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minipipe import NotSupported, StorageManager, errors, meter
from minipipe.sdk import archive, download, session
from minipipe.sdk.artifact import Artifact, Artifacts
from minipipe.store import records
from minipipe.store.home import Store
from tests.store import making

BIG = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def home(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store that this process uses, in the test's folder."""
    monkeypatch.setenv("MINIPIPE_HOME", str(store.path))
    opened = session.open_store()
    yield opened
    opened.close()


def put(store: Store, name: str, value: Any) -> Artifact:
    """Store a value as an artifact of a new run."""
    task = making.run(store).id
    records.upload(store, None, task, name, value)
    return Artifacts(store, task)[name]


def error_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said on stderr."""
    return capsys.readouterr().err.splitlines()


def is_read_only(path: str | Path) -> bool:
    """True if nobody may write it, whoever we are."""
    return not os.stat(path).st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


# -- paths --------------------------------------------------------------------------------------------------------------


def test_a_local_path_is_returned_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "some file.csv"
    file.touch()

    assert StorageManager.get_local_copy(str(file)) == str(file)
    assert StorageManager.get_local_copy(f"file://{file}") == str(file)
    assert StorageManager.get_local_copy(file.as_uri()) == str(file)
    assert "%20" in file.as_uri()
    assert StorageManager.get_local_copy(str(tmp_path)) == str(tmp_path)


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("1")
    monkeypatch.chdir(tmp_path)

    assert StorageManager.get_local_copy("a") == str(tmp_path / "a")


@pytest.mark.parametrize("url", ["{}/none", "file://{}/none", "", "{}/" + "x" * 5000, "{}/a\x00b", "~nobody-of-this-name/x"])
def test_what_is_not_there_is_none_and_one_line(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = url.format(tmp_path)

    assert StorageManager.get_local_copy(url) is None

    (line,) = error_lines(capsys)
    assert line.startswith(f"error: cannot read {url[:40].partition(chr(0))[0]}")


def test_the_error_line_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert StorageManager.get_local_copy("/none/\x1b[2J\n\u202e") is None

    (line,) = error_lines(capsys)
    assert line.isprintable()
    assert "\\x1b[2J\\n\\u202e" in line


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure", "S3", "ftp"])
@pytest.mark.parametrize(
    "method", ["get_local_copy", "download_file", "download_folder", "exists_file", "get_file_size_bytes", "list"]
)
def test_other_schemes_are_refused_with_what_to_do_instead(scheme: str, method: str) -> None:
    with pytest.raises(NotSupported, match=f"{scheme.lower()}:// URLs are not read here") as refused:
        getattr(StorageManager, method)(f"{scheme}://bucket/file")

    assert "MINIPIPE_URL_MAP" in refused.value.hint


# -- the map ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with a few files that stands for the network."""
    for name in ("one/a b.txt", "two/a.txt", "two/deep/b.txt", "secret.txt"):
        path = tmp_path / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "mirror"


def set_map(monkeypatch: pytest.MonkeyPatch, **targets: object) -> None:
    """Set the map; ``__`` in a name stands for ``://``."""
    table = {name.replace("__", "://"): str(target) for name, target in targets.items()}
    monkeypatch.setenv("MINIPIPE_URL_MAP", json.dumps(table))


def test_the_longest_prefix_wins_and_the_rest_is_appended(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "http://h": mirror,
        "http://h/x": mirror / "one",
        "http://h/x/two/": mirror / "two",
        "s3://b/k.txt": mirror / "two/a.txt",
    }
    monkeypatch.setenv("MINIPIPE_URL_MAP", json.dumps({key: str(value) for key, value in table.items()}))

    assert StorageManager.get_local_copy("http://h/x/two/deep/b.txt") == str(mirror / "two/deep/b.txt")
    assert StorageManager.get_local_copy("http://h/x/a%20b.txt?version=1#top") == str(mirror / "one/a b.txt")
    assert StorageManager.get_local_copy("http://h/two/a.txt") == str(mirror / "two/a.txt")
    assert StorageManager.get_local_copy("s3://b/k.txt") == str(mirror / "two/a.txt")
    assert StorageManager.get_local_copy("http://h/x") == str(mirror / "one")
    assert StorageManager.list("http://h/x/two") == ["a.txt", "deep/b.txt"]
    assert StorageManager.exists_file("s3://b/k.txt")
    assert not StorageManager.exists_file("http://h/x")
    assert StorageManager.get_file_size_bytes("http://h/two/a.txt") == 9


def test_a_prefix_ends_where_a_part_of_the_url_ends(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_map(monkeypatch, s3__bucket=mirror, s3__file=mirror / "secret.txt")

    with pytest.raises(NotSupported):
        StorageManager.get_local_copy("s3://bucketsecret.txt")
    with pytest.raises(NotSupported):
        StorageManager.get_local_copy("s3://file/more")


@pytest.mark.parametrize(
    "rest", ["../secret.txt", "%2e%2e/secret.txt", "deep/../../secret.txt", "..%2fsecret.txt", "/../secret.txt"]
)
def test_the_rest_of_a_mapped_url_cannot_leave_its_folder(rest: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_map(monkeypatch, http__h=mirror / "two")

    assert StorageManager.get_local_copy(f"http://h/{rest}") is None


def test_the_map_may_be_a_file_whose_folders_are_relative_to_it(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mirror / "map.json").write_text('{"http://h/": "two"}')
    monkeypatch.setenv("MINIPIPE_URL_MAP", str(mirror / "map.json"))

    assert StorageManager.get_local_copy("http://h/a.txt") == str(mirror / "two/a.txt")


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '{"a": []}', "/no/such/file.json"])
def test_a_map_that_cannot_be_read_is_an_error_that_names_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIPIPE_URL_MAP", text)

    with pytest.raises(errors.BadSetting, match="MINIPIPE_URL_MAP"):
        StorageManager.get_local_copy("http://h/a")


def test_the_map_may_stand_in_the_project_and_its_folders_are_relative_to_that(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.minipipe.url_map]\n"http://h/" = "mirror/two"\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.delenv("MINIPIPE_URL_MAP", raising=False)

    assert StorageManager.get_local_copy("http://h/a.txt") == str(mirror / "two/a.txt")


def test_a_mapped_url_that_is_not_there_is_none_and_asks_no_server(
    mirror: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a"] = b"from the server"
    monkeypatch.setenv("MINIPIPE_URL_MAP", json.dumps({server.url: str(mirror)}))

    assert StorageManager.get_local_copy(f"{server.url}/a") is None
    assert len(error_lines(capsys)) == 1
    assert server.seen == []


def test_a_mapped_archive_comes_extracted_like_a_download(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(mirror / "data.zip", "w") as zipped:
        zipped.writestr("in/a.txt", "1")
    set_map(monkeypatch, http__h=mirror)

    first = StorageManager.get_local_copy("http://h/data.zip")

    assert first is not None
    assert (Path(first) / "in/a.txt").read_text() == "1"
    assert Path(first).name == "data"
    assert StorageManager.get_local_copy("http://h/data.zip") == first
    assert StorageManager.get_local_copy("http://h/data.zip", extract_archive=False) == str(mirror / "data.zip")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_archive_comes_extracted_into_the_store(home: Store, tmp_path: Path, prefix: str) -> None:
    def pack(text: str) -> None:
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as zipped:
            zipped.writestr("in/a.txt", text)

    pack("1")
    first = Path(str(StorageManager.get_local_copy(f"{prefix}{tmp_path}/data.zip")))
    pack("another")
    second = Path(str(StorageManager.get_local_copy(f"{prefix}{tmp_path}/data.zip")))

    assert [(path.name, (path / "in/a.txt").read_text()) for path in (first, second)] == [("data", "1"), ("data", "another")]
    assert home.path in first.parents
    assert StorageManager.get_local_copy(f"{prefix}{tmp_path}/data.zip", extract_archive=False) == f"{tmp_path}/data.zip"


@pytest.mark.parametrize("target", [None, "", " ", 3])
def test_nothing_is_written_to_where_no_path_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    """An empty one would be the root of the file system, for a folder; None a file of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").touch()

    for call in (StorageManager.upload_file, StorageManager.upload_folder):
        with pytest.raises(errors.UsageError, match="remote_url says where to"):
            call("in/a.txt" if call == StorageManager.upload_file else "in", target)
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["a.txt"]


# -- artifacts ----------------------------------------------------------------------------------------------------------


def test_an_artifact_url_gives_a_read_only_copy_with_the_original_name(home: Store, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(BIG)
    artifact = put(home, "numbers", tmp_path / "table.csv")

    copy = StorageManager.get_local_copy(artifact.url)

    assert copy is not None
    assert (Path(copy).name, Path(copy).read_bytes()) == ("table.csv", BIG)
    assert is_read_only(copy)
    assert not Path(copy).is_relative_to(home.path / "blobs")
    assert StorageManager.get_local_copy(artifact.url) == copy == artifact.get_local_copy()
    again = StorageManager.get_local_copy(artifact.url, force_download=True)
    assert again != copy
    assert again is not None
    assert Path(again).read_bytes() == BIG
    named = StorageManager.get_local_copy(artifact.url, name="other.csv")
    assert named is not None
    assert Path(named).name == "other.csv"
    assert StorageManager.exists_file(artifact.url)
    assert StorageManager.get_file_size_bytes(artifact.url) == len(BIG)


@pytest.mark.parametrize(
    ("value", "name", "content"),
    [
        ("grüße\n", "x.txt", "grüße\n".encode()),
        ({"b": 1, "a": [2]}, "x.json", b'{"b":1,"a":[2]}'),
        (b"raw", "x.bin", b"raw"),
        (None, "x.json", b"null"),
    ],
)
def test_a_value_becomes_a_file_of_its_format(home: Store, value: Any, name: str, content: bytes) -> None:
    artifact = put(home, "x", value)

    copy = Path(str(artifact.get_local_copy()))

    assert (copy.name, copy.read_bytes()) == (name, content)
    assert StorageManager.get_file_size_bytes(artifact.url) == len(content)
    artifact.verify_pickle_file_integrity(str(copy))


def test_an_array_and_a_pickle_can_be_read_from_their_copies(home: Store) -> None:
    array, pickled = put(home, "array", numpy.arange(5)), put(home, "set.pkl", {1, 2})

    assert numpy.load(str(array.get_local_copy())).tolist() == [0, 1, 2, 3, 4]
    assert Path(str(pickled.get_local_copy())).name == "set.pkl"


def test_a_folder_comes_as_a_folder_or_as_a_tar_file(home: Store, tmp_path: Path) -> None:
    (tmp_path / "data/in").mkdir(parents=True)
    (tmp_path / "data/in/a.txt").write_text("1")
    artifact = put(home, "x", tmp_path / "data")

    folder, file = Path(str(artifact.get_local_copy())), Path(str(artifact.get_local_copy(extract_archive=False)))

    assert (folder.name, (folder / "in/a.txt").read_text()) == ("data", "1")
    assert is_read_only(folder / "in/a.txt")
    assert StorageManager.list(artifact.url) == ["in/a.txt"]
    with tarfile.open(file) as packed:
        assert packed.getnames() == ["in", "in/a.txt"]


def test_a_zip_file_is_extracted_by_url_but_not_by_its_artifact(home: Store, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as zipped:
        zipped.writestr("a.txt", "1")
    artifact = put(home, "x", tmp_path / "data.zip")

    assert Path(str(artifact.get_local_copy())).name == "data.zip"
    assert (Path(str(StorageManager.get_local_copy(artifact.url))) / "a.txt").read_text() == "1"
    assert Path(str(StorageManager.get_local_copy(artifact.url, extract_archive=False))).name == "data.zip"


@pytest.mark.parametrize("name", ["../../../out", "/etc/out", "a/b", "..", "\x1b[2Jx\n", "x" * 300])
def test_an_artifacts_name_cannot_place_its_copy_elsewhere(home: Store, name: str) -> None:
    copy = Path(str(put(home, name, "text").get_local_copy()))

    assert copy.read_text() == "text"
    assert copy.resolve().is_relative_to(session.scratch().resolve())
    assert copy.name.isprintable()
    assert len(copy.name) <= 255


def test_what_cannot_be_decoded_can_still_be_copied(home: Store) -> None:
    artifact = put(home, "x", {1, 2})
    with home.database.write() as connection:
        connection.execute("UPDATE artifact SET codec = 'pickle', metadata = '{}'")
        connection.execute("UPDATE artifact SET type = 'pickle'")

    assert Path(str(artifact.get_local_copy())).read_bytes()


def test_damaged_bytes_are_never_copied(home: Store) -> None:
    artifact = put(home, "x", BIG)
    with home.database.write() as connection:
        connection.execute("INSERT INTO cache SELECT 'key', task_id FROM artifact")
    (blob,) = (path for path in (home.path / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o600)
    blob.write_bytes(BIG[:-1] + b"?")

    with pytest.raises(errors.ArtifactError, match="'x' are damaged"):
        artifact.get_local_copy()
    with pytest.raises(errors.ArtifactError, match="'x' are damaged"):
        StorageManager.get_local_copy(artifact.url)
    assert home.database.rows("SELECT * FROM cache") == [], "it would serve the damage"


def test_an_unknown_digest_is_none_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert StorageManager.get_local_copy("minipipe://" + "0" * 64) is None
    assert StorageManager.get_local_copy("minipipe://' OR 1=1 --") is None
    assert not StorageManager.exists_file("minipipe://" + "0" * 64)

    first, _ = error_lines(capsys)
    assert "minipipe://000" in first


def test_an_artifact_without_content_is_none_or_a_value_error(home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = Artifact(home, {"name": "x", "digest": None, "type": "pickle"})

    assert artifact.get_local_copy() is None
    assert len(error_lines(capsys)) == 1
    with pytest.raises(ValueError, match="'x'"):
        artifact.get_local_copy(raise_on_error=True)


def test_a_changed_file_is_not_the_artifact(home: Store, tmp_path: Path) -> None:
    artifact = put(home, "x", {1, 2})
    (tmp_path / "x.pkl").write_bytes(Path(str(artifact.get_local_copy())).read_bytes() + b"?")

    with pytest.raises(ValueError, match="is not artifact 'x'"):
        artifact.verify_pickle_file_integrity(str(tmp_path / "x.pkl"))


def test_any_process_resolves_an_artifact_url_and_its_copy_goes_with_it(home: Store) -> None:
    url = put(home, "x", "hello").url
    code = "import sys, minipipe; path = minipipe.StorageManager.get_local_copy(sys.argv[1]); print(path, open(path).read())"

    done = subprocess.run((sys.executable, "-c", code, url), capture_output=True, text=True, timeout=60, check=True)

    path, text = done.stdout.split()
    assert (Path(path).name, text) == ("x.txt", "hello")
    assert not Path(path).exists()


# -- downloads ----------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A web server in this process: files by path, and ways to misbehave."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str], int]] = field(default_factory=list)  # method, path, headers, status
    etag: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    head: bool = True
    length: bool = True
    break_after: int | None = None  # bytes, of each answer
    status: int = 200
    part_from: int | None = None  # what it claims to send of a file
    moved_to: str = ""  # by ``/moved``

    def statuses(self) -> list[int]:
        """The status of each answer."""
        return [status for _, _, _, status in self.seen]


def answer(server: Server, handler: BaseHTTPRequestHandler) -> None:
    """Serve one request."""
    path, asked = handler.path.partition("?")[0], {key.lower(): value for key, value in handler.headers.items()}
    data = server.files.get(path)
    start, status = 0, server.status if data is not None or server.status != 200 else 404
    if status == 200 and handler.command == "HEAD" and not server.head:
        status = 405
    if status == 200 and asked.get("if-none-match", "") == (server.etag or "no"):
        status = 304
    if status == 200 and asked.get("if-modified-since", "") == (server.modified or "no"):
        status = 304
    if status == 200 and server.ranges and "range" in asked and asked.get("if-range") in (server.etag, server.modified):
        start = int(re.fullmatch(r"bytes=(\d+)-", asked["range"])[1])  # type: ignore[index]
        status = 206 if start < len(data or b"") else 416
    if path == "/moved":
        status = 302
    server.seen.append((handler.command, path, asked, status))
    handler.send_response(status)
    for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)):
        if value is not None:
            handler.send_header(name, value)
    if status == 302:
        handler.send_header("Location", server.moved_to)
    body = data[start:] if data is not None and status in (200, 206) else b""
    if status == 206:
        claimed = start if server.part_from is None else server.part_from
        handler.send_header("Content-Range", f"bytes {claimed}-{len(data or b'') - 1}/{len(data or b'')}")
    if server.length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body if server.break_after is None else body[: server.break_after])


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server at 127.0.0.1, gone with the test."""
    facts = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(facts, self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        facts.url = f"http://127.0.0.1:{serving.server_port}"
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield facts
        serving.shutdown()
        thread.join()


def get(url: str, **facts: Any) -> Path:
    """A local copy that there must be."""
    found = StorageManager.get_local_copy(url, **facts)
    assert found is not None
    return Path(found)


def test_a_download_is_kept_and_not_transferred_again_while_it_is_the_same(server: Server, home: Store) -> None:
    server.files["/data/a%20b.csv"] = BIG

    first = get(f"{server.url}/data/a%20b.csv")
    second = get(f"{server.url}/data/a%20b.csv")

    assert (first.name, first.read_bytes(), first) == ("a b.csv", BIG, second)
    assert is_read_only(first)
    assert first.is_relative_to(home.path / "downloads")
    assert server.statuses() == [200, 304]


def test_the_same_by_its_date_or_by_its_length_is_not_transferred_again(server: Server) -> None:
    server.files.update({"/date": BIG, "/length": BIG})
    server.etag, server.modified = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    assert get(f"{server.url}/date") == get(f"{server.url}/date")
    assert server.statuses() == [200, 304]

    server.modified = None
    assert get(f"{server.url}/length") == get(f"{server.url}/length")


def test_a_changed_file_is_fetched_and_the_old_path_keeps_its_content(server: Server) -> None:
    server.files["/a"] = b"old"
    old = get(f"{server.url}/a")
    server.files["/a"], server.etag = b"new", '"2"'

    new = get(f"{server.url}/a")

    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")


def test_force_download_transfers_again(server: Server) -> None:
    server.files["/a"] = b"same"
    get(f"{server.url}/a")

    assert get(f"{server.url}/a", force_download=True).read_bytes() == b"same"
    assert server.statuses() == [200, 200]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server: Server) -> None:
    server.files["/a"], server.break_after = BIG, 300_000

    assert get(f"{server.url}/a").read_bytes() == BIG

    assert server.statuses() == [200, 206, 206, 206]
    assert [asked.get("range") for _, _, asked, _ in server.seen] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


@pytest.fixture
def broken_off(server: Server, capsys: pytest.CaptureFixture[str]) -> Server:
    """A server whose ``/a`` was fetched in part, as by a process that was killed."""
    server.files["/a"], server.break_after = BIG, 100_000
    assert StorageManager.get_local_copy(f"{server.url}/a") is None
    assert len(error_lines(capsys)) == 1
    server.break_after = None
    server.seen.clear()
    return server


def test_a_later_process_goes_on_with_a_part(broken_off: Server) -> None:
    assert get(f"{broken_off.url}/a").read_bytes() == BIG

    ((_, _, asked, status),) = broken_off.seen
    assert (status, asked["if-range"]) == (206, '"1"')
    assert int(asked["range"].strip("bytes=-")) >= 100_000


def test_a_part_of_another_version_is_dropped(broken_off: Server) -> None:
    broken_off.files["/a"], broken_off.etag = BIG[::-1], '"2"'

    assert get(f"{broken_off.url}/a").read_bytes() == BIG[::-1]


def test_a_part_longer_than_the_file_is_dropped(broken_off: Server) -> None:
    broken_off.files["/a"] = b"short"

    assert get(f"{broken_off.url}/a").read_bytes() == b"short"
    assert broken_off.statuses() == [416, 200]


def test_a_part_whose_version_nobody_can_tell_is_never_continued(broken_off: Server, home: Store) -> None:
    (facts,) = (home.path / "downloads").rglob("part.json")
    facts.unlink()

    assert get(f"{broken_off.url}/a").read_bytes() == BIG
    assert broken_off.statuses() == [200]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_cannot_continue_is_asked_for_all_of_it(broken_off: Server, ranges: bool) -> None:
    broken_off.ranges = ranges
    broken_off.etag = broken_off.etag if not ranges else None

    assert get(f"{broken_off.url}/a").read_bytes() == BIG


def test_another_part_than_the_one_asked_for_is_never_appended(broken_off: Server) -> None:
    broken_off.part_from = 7

    assert StorageManager.get_local_copy(f"{broken_off.url}/a") is None

    assert get(f"{broken_off.url}/a").read_bytes() == BIG
    assert broken_off.statuses() == [206, 200]


def test_less_than_was_announced_is_no_file(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/a"], server.break_after, server.etag = BIG, 10, None

    assert StorageManager.get_local_copy(f"{server.url}/a") is None

    (line,) = error_lines(capsys)
    assert f"{server.url}/a" in line
    assert "10 of 1,048,576 bytes" in line
    assert StorageManager.get_local_copy(f"{server.url}/a") is None
    assert all("range" not in asked for _, _, asked, _ in server.seen), "nothing proves that the rest belongs to the part"


def test_a_file_of_unknown_length_is_fetched(server: Server) -> None:
    server.files["/a"], server.length = BIG, False

    assert get(f"{server.url}/a").read_bytes() == BIG
    assert StorageManager.get_file_size_bytes(f"{server.url}/a") is None


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_refusal_is_none_and_one_line_with_the_url(server: Server, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    server.status = status

    assert StorageManager.get_local_copy(f"{server.url}/a") is None

    (line,) = error_lines(capsys)
    assert line.startswith(f"error: cannot read {server.url}/a")


def test_without_network_the_kept_copy_serves_but_not_against_the_servers_word(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a"] = b"kept"
    kept = get(f"{server.url}/a")

    server.status = 503
    assert get(f"{server.url}/a") == kept
    (note,) = error_lines(capsys)
    assert note.startswith(f"note: {server.url}/a cannot be reached")

    server.status = 404
    assert StorageManager.get_local_copy(f"{server.url}/a") is None


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://127.0.0.1:1/x", "http://127.0.0.1:port/", "http:///x", "https://127.0.0.1:1/"]
)
def test_an_address_that_leads_nowhere_is_none_and_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert StorageManager.get_local_copy(url) is None
    assert len(error_lines(capsys)) == 1
    assert not StorageManager.exists_file(url)


def test_a_password_is_sent_but_never_shown(server: Server, home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    url = server.url.replace("http://", "http://me:s3cret@")
    server.files["/a"] = b"1"

    assert get(f"{url}/a").read_bytes() == b"1"
    assert StorageManager.get_local_copy(f"{url}/none") is None

    assert server.seen[0][2]["authorization"] == "Basic bWU6czNjcmV0"
    (line,) = error_lines(capsys)
    assert "s3cret" not in line
    assert all(
        "s3cret" not in path.read_text(errors="replace") for path in (home.path / "downloads").rglob("*") if path.is_file()
    )


def test_a_password_is_not_sent_to_where_a_server_leads(server: Server) -> None:
    server.files["/a"], server.moved_to = b"1", f"{server.url}/a"

    assert get(f"{server.url.replace('http://', 'http://me:s3cret@')}/moved").read_bytes() == b"1"

    assert ["authorization" in asked for _, _, asked, _ in server.seen] == [True, False]


def test_a_server_cannot_lead_to_a_local_file(server: Server, mirror: Path) -> None:
    server.moved_to = (mirror / "secret.txt").as_uri()

    assert StorageManager.get_local_copy(f"{server.url}/moved") is None


@pytest.mark.parametrize("last", ["..%2f..%2fout", "%2e%2e", "a%0ab", "", "x" * 400 + ".csv"])
def test_a_urls_name_cannot_place_its_file_elsewhere(server: Server, home: Store, last: str) -> None:
    server.files[f"/{last}"] = b"1"

    path = get(f"{server.url}/{last}")

    assert path.read_bytes() == b"1"
    assert path.resolve().is_relative_to((home.path / "downloads").resolve())
    assert path.name.isprintable()


def test_the_copy_may_get_another_name(server: Server) -> None:
    server.files["/a"] = b"1"

    assert get(f"{server.url}/a", name="b.csv").name == "b.csv"
    assert get(f"{server.url}/a").name == "a"


def test_letters_beyond_ascii_in_a_url_are_quoted(server: Server) -> None:
    server.files["/%C3%BC"] = b"1"

    assert get(f"{server.url}/ü").name == "ü"


def test_two_at_once_transfer_it_once(server: Server) -> None:
    server.files["/a"] = BIG
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(get(f"{server.url}/a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 1
    assert sorted(server.statuses()) == [200, 304, 304, 304]


@pytest.mark.parametrize("head", [True, False])
def test_existence_and_size_are_asked_without_a_download(server: Server, home: Store, head: bool) -> None:
    server.files["/a"], server.head = BIG, head

    assert StorageManager.exists_file(f"{server.url}/a")
    assert not StorageManager.exists_file(f"{server.url}/b")
    assert StorageManager.get_file_size_bytes(f"{server.url}/a") == len(BIG)
    assert StorageManager.get_file_size_bytes(f"{server.url}/b", silence_errors=True) is None
    assert not (home.path / "downloads").exists()


def test_a_downloaded_archive_comes_extracted_unless_asked_otherwise(server: Server) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archived:
        archived.addfile(tarfile.TarInfo("in/empty"))
    server.files["/data.tar.gz"] = packed.getvalue()

    folder = get(f"{server.url}/data.tar.gz")

    assert (folder.name, [path.name for path in folder.rglob("*")]) == ("data", ["in", "empty"])
    assert get(f"{server.url}/data.tar.gz") == folder
    assert get(f"{server.url}/data.tar.gz", extract_archive=False).name == "data.tar.gz"


class Terminal(io.StringIO):
    """A terminal that remembers what it was sent."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("after_s", "after_bytes", "lines"), [(0.0, 1 << 30, True), (1e9, 0, True), (1e9, 1 << 30, False)])
def test_a_long_or_large_download_shows_a_line_on_a_terminal_and_takes_it_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, after_s: float, after_bytes: int, lines: bool
) -> None:
    server.files["/a"] = BIG
    monkeypatch.setattr(meter, "_METER_AFTER_S", after_s)
    monkeypatch.setattr(meter, "_METER_AFTER_BYTES", after_bytes)
    monkeypatch.setattr(sys, "stderr", Terminal())

    get(f"{server.url}/a")

    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("MB" in text) == lines
    assert text.endswith("\r\033[K") == lines


def test_where_nobody_looks_a_download_is_silent(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a"] = BIG
    monkeypatch.setattr(meter, "_METER_AFTER_S", 0.0)

    get(f"{server.url}/a")

    assert error_lines(capsys) == []


# -- archives -----------------------------------------------------------------------------------------------------------


def tar_of(*members: tuple[str, bytes | str, bytes]) -> bytes:
    """A tar archive of (name, type, content or target)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archived:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind if isinstance(kind, bytes) else kind.encode()
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = content.decode()
            info.size = len(content) if info.type == tarfile.REGTYPE else 0
            archived.addfile(info, io.BytesIO(content) if info.size else None)
    return packed.getvalue()


def zip_of(*members: tuple[str, int, bytes]) -> bytes:
    """A zip archive of (name, Unix mode, content)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(info, content)
    return packed.getvalue()


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE = {
    "up.tar": tar_of(("ok", FILE, b"1"), ("../out", FILE, b"1")),
    "link-up.tar": tar_of(("a/link", LINK, b"../../out")),
    "link-absolute.tar": tar_of(("link", LINK, b"/etc")),
    "through-link.tar": tar_of(("here", LINK, b"."), ("here/up", LINK, b"../out")),
    "file-through-link.tar": tar_of(("dir", LINK, b"other"), ("dir/file", FILE, b"1")),
    "link-chain.tar": tar_of(("d", LINK, b"."), ("e", LINK, b"d/../out")),
    "hard-link-up.tar": tar_of(("x", HARD, b"../../../../etc/passwd")),
    "hard-link-to-link.tar": tar_of(("l", LINK, b"gone"), ("x", HARD, b"l")),
    "device.tar": tar_of(("null", tarfile.CHRTYPE, b"")),
    "pipe.tar": tar_of(("pipe", tarfile.FIFOTYPE, b"")),
    "bomb.tar.gz": gzip.compress(tar_of(("zeros", FILE, bytes(2 << 20)))),
    "sum.tar.gz": gzip.compress(tar_of(*[(f"f{number}", FILE, bytes(400_000)) for number in range(4)])),
    "many.tar": tar_of(*[(f"f{number}", FILE, b"") for number in range(200)]),
    "cut.tar": tar_of(("a", FILE, BIG))[:100_000],
    "file-and-folder.tar": tar_of(("a", FILE, b"1"), ("a/b", FILE, b"1")),
    "up.zip": zip_of(("../out", 0o644, b"1")),
    "link-up.zip": zip_of(("link", stat.S_IFLNK | 0o777, b"../out")),
    "device.zip": zip_of(("null", stat.S_IFCHR | 0o666, b"")),
    "bomb.zip": zip_of(("zeros", 0o644, bytes(2 << 20))),
    "none.zip": b"this is no archive",
    "none.tar.gz": b"this is no archive",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_none_and_leaves_nothing(
    name: str, server: Server, home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files[f"/{name}"] = HOSTILE[name]
    monkeypatch.setattr(archive, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(archive, "MOST_RATIO", 2)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 100)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(home.path)}

    assert StorageManager.get_local_copy(f"{server.url}/{name}") is None

    (line,) = error_lines(capsys)
    assert f"the archive {name} cannot be unpacked" in line
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(home.path)} == before
    assert {path.name for path in (home.path / "downloads").rglob("*") if path.is_file()} >= {name, "kept.json"}
    assert [path for path in (home.path / "downloads").rglob("*") if path.suffix in (".x", ".part")] == []


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_an_absolute_name_in_an_archive_is_refused(suffix: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    (tmp_path / f"a{suffix}").write_bytes(tar_of((out, FILE, b"1")) if suffix == ".tar" else zip_of((out, 0o644, b"1")))

    with pytest.raises(errors.NotFound, match="would lie outside its folder"):
        archive.unpack(tmp_path / f"a{suffix}", tmp_path / "x")

    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == [f"a{suffix}"]


def test_a_tar_archive_keeps_what_is_inside(tmp_path: Path) -> None:
    program = tarfile.TarInfo("bin/run")
    program.mode = 0o4755
    packed = io.BytesIO(
        tar_of(
            ("a", FILE, b"old"),
            ("A", FILE, b"other case"),
            ("./deep/er/b", FILE, b"b"),
            ("deep/er/up", LINK, b"../../a"),
            ("deep/gone", LINK, b"not/there"),
            ("hard", HARD, b"a"),
            ("a", FILE, b"new"),
            ("empty", tarfile.DIRTYPE, b""),
        )
    )
    with tarfile.open(fileobj=packed, mode="a") as archived:
        archived.addfile(program)
    (tmp_path / "data.tar").write_bytes(packed.getvalue())

    folder = archive.unpack(tmp_path / "data.tar", tmp_path / "x")

    assert folder == tmp_path / "x" / "data"
    assert [(folder / name).read_bytes() for name in ("a", "A", "deep/er/b", "deep/er/up")] == [
        b"new",
        b"other case",
        b"b",
        b"new",
    ]
    assert os.readlink(folder / "deep/gone") == "not/there"
    assert (folder / "hard").is_file()
    assert list((folder / "empty").iterdir()) == []
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("a", "bin/run")] == [0o444, 0o555]


def test_a_zip_archive_keeps_what_is_inside(tmp_path: Path) -> None:
    members = (("dir/", 0, b""), ("dir/a", 0, b"1"), ("dir/link", stat.S_IFLNK | 0o777, b"a"), ("run", 0o755, b"2"))
    (tmp_path / "Data.ZIP").write_bytes(zip_of(*members))

    folder = archive.unpack(tmp_path / "Data.ZIP", tmp_path / "x")

    assert folder.name == "Data"
    assert [(folder / name).read_bytes() for name in ("dir/a", "dir/link", "run")] == [b"1", b"1", b"2"]
    assert (folder / "dir/link").is_symlink()
    assert os.access(folder / "run", os.X_OK)


NAMES = st.lists(st.sampled_from(["a", "b", "c", ".", ".."]), min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from([FILE, LINK, LINK, HARD, tarfile.DIRTYPE])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(st.tuples(NAMES, KINDS, NAMES.map(str.encode)), max_size=8))
def test_no_archive_writes_or_points_out_of_its_folder(
    members: list[tuple[str, bytes, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outer = tmp_path_factory.mktemp("archive")
    (outer / "data.tar").write_bytes(tar_of(*members))

    with contextlib.suppress(errors.NotFound):
        folder = archive.unpack(outer / "data.tar", outer / "x")
        for path in folder.rglob("*"):
            with contextlib.suppress(RuntimeError):  # links in a circle lead nowhere
                assert path.resolve().is_relative_to(folder.resolve())
    assert {path.name for path in outer.iterdir()} <= {"data.tar", "x"}


def test_a_process_that_dies_while_unpacking_leaves_no_half_folder(tmp_path: Path) -> None:
    (tmp_path / "data.tar").write_bytes(tar_of(("a", FILE, b"1"), ("b", FILE, b"2")))
    (tmp_path / "x.part/data").mkdir(parents=True)
    (tmp_path / "x.part/data/stale").write_text("of a process that was killed")

    folder = archive.unpack(tmp_path / "data.tar", tmp_path / "x")

    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


# -- copies to and from -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_url", [str, Path.as_uri])
def test_an_uploaded_file_is_there_at_once(tmp_path: Path, as_url: Callable[[Path], str]) -> None:
    (tmp_path / "a").write_text("1")
    target = as_url(tmp_path / "new folder" / "b")

    assert StorageManager.upload_file(str(tmp_path / "a"), target) == target

    assert (tmp_path / "new folder" / "b").read_text() == "1"
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["b"]
    assert StorageManager.get_local_copy(target) == str(tmp_path / "new folder" / "b")


def test_a_missing_file_cannot_be_uploaded_and_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")

    with pytest.raises(FileNotFoundError):
        StorageManager.upload_file(str(tmp_path / "a"), str(tmp_path / "b"))

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir() if path.is_file()] == [("b", "old")]


@pytest.mark.parametrize("url", ["http://h/a", "s3://b/a", "minipipe://0/a"])
def test_nothing_is_uploaded_to_servers(url: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")

    with pytest.raises(NotSupported, match="not written here"):
        StorageManager.upload_file(str(tmp_path / "a"), url)
    with pytest.raises(NotSupported, match="not written here"):
        StorageManager.upload_folder(str(tmp_path), url)


def test_the_files_server_is_a_folder_of_the_store(tmp_path: Path, home: Store) -> None:
    (tmp_path / "a").write_text("1")
    url = StorageManager.get_files_server()

    StorageManager.upload_file(str(tmp_path / "a"), f"{url}/project/a")

    assert url.startswith("file://")
    assert get(f"{url}/project/a").is_relative_to(home.path)
    assert get(f"{url}/project/a").read_text() == "1"


def test_a_folder_is_uploaded_listed_and_downloaded_again(mirror: Path, tmp_path: Path) -> None:
    there = f"file://{tmp_path}/there"
    names = ["one/a b.txt", "secret.txt", "two/a.txt", "two/deep/b.txt"]

    assert StorageManager.upload_folder(str(mirror), there) == there
    assert StorageManager.list(there) == names
    assert StorageManager.list(there, return_full_path=True) == [f"{there}/{name}" for name in names]
    assert StorageManager.list(there, with_metadata=True) == [{"name": name, "size": len(name)} for name in names]
    assert StorageManager.download_folder(there, str(tmp_path / "back")) == str(tmp_path / "back")
    assert StorageManager.list(str(tmp_path / "back")) == names


def test_a_wildcard_chooses_what_is_copied(mirror: Path, tmp_path: Path) -> None:
    StorageManager.upload_folder(str(mirror), str(tmp_path / "up"), match_wildcard="a*.txt")
    StorageManager.download_folder(str(mirror), str(tmp_path / "down"), match_wildcard="*/deep/*")

    assert StorageManager.list(str(tmp_path / "up")) == ["one/a b.txt", "two/a.txt"]
    assert StorageManager.list(str(tmp_path / "down")) == ["two/deep/b.txt"]


def test_what_cannot_be_copied_or_listed_is_none_and_one_line(
    mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert StorageManager.upload_folder(str(tmp_path / "none"), str(tmp_path / "x")) is None
    assert StorageManager.download_folder(str(tmp_path / "none"), str(tmp_path / "x")) is None
    assert StorageManager.download_folder(str(mirror), str(tmp_path / "x"), match_wildcard="*.none") is None
    assert StorageManager.download_file(str(tmp_path / "none"), str(tmp_path / "x")) is None
    assert StorageManager.download_file(str(mirror), str(tmp_path / "x")) is None
    assert StorageManager.list(str(mirror / "secret.txt")) is None
    assert StorageManager.list("http://127.0.0.1:1/") is None
    assert StorageManager.get_file_size_bytes(str(tmp_path / "none")) is None
    assert len(error_lines(capsys)) == 8

    assert StorageManager.download_file(str(tmp_path / "none"), silence_errors=True) is None
    assert StorageManager.download_folder(str(tmp_path / "none"), silence_errors=True) is None
    assert error_lines(capsys) == []


def test_a_downloaded_file_lies_under_its_path_in_the_url(server: Server, tmp_path: Path) -> None:
    server.files["/data/sub/a.csv"] = b"1"
    url = f"{server.url}/data/sub/a.csv?key=1"

    found = StorageManager.download_file(url, str(tmp_path / "to"))

    assert found == str(tmp_path / "to/data/sub/a.csv")
    assert Path(found).read_bytes() == b"1"
    Path(found).write_bytes(b"mine")
    assert StorageManager.download_file(url, str(tmp_path / "to")) == found
    assert Path(found).read_bytes() == b"mine"
    assert StorageManager.download_file(url, str(tmp_path / "to"), overwrite=True) == found
    assert Path(found).read_bytes() == b"1"


@pytest.mark.parametrize("path", ["/../../out", "/%2e%2e/%2e%2e/out", "/a/../../out"])
def test_a_downloaded_file_cannot_leave_the_folder(server: Server, tmp_path: Path, path: str) -> None:
    server.files[path] = b"1"

    assert StorageManager.download_file(f"{server.url}{path}", str(tmp_path / "deep/to")) == str(tmp_path / "deep/to/out")


def test_an_empty_download_is_an_error_unless_it_may_be_empty(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = b""

    assert StorageManager.download_file(f"{server.url}/a", str(tmp_path / "x"), silence_errors=True) is None
    assert StorageManager.download_file(f"{server.url}/a", str(tmp_path / "x"), skip_zero_size_check=True)


def test_an_artifact_is_downloaded_under_its_name(home: Store, tmp_path: Path) -> None:
    url = put(home, "x", "text").url

    assert StorageManager.download_file(url, str(tmp_path / "to")) == str(tmp_path / "to/x.txt")


# -- pieces, facts, the size of the cache -------------------------------------------------------------------------------


def test_a_stream_gives_the_content_in_pieces(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"abcdefg")
    pieces = StorageManager.get_stream(path.as_uri(), chunk_size=3)
    assert pieces is not None and list(pieces) == [b"abc", b"def", b"g"]
    assert StorageManager.get_stream(str(tmp_path)) is None and "it is a folder" in capsys.readouterr().err
    assert StorageManager.get_stream(str(tmp_path / "no")) is None
    with pytest.raises(NotSupported, match="s3"):
        StorageManager.get_stream("s3://bucket/x")


def test_metadata_are_name_size_and_on_request_the_hash(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"abc")
    assert StorageManager.get_metadata(str(path)) == {"name": "data.bin", "size": 3}
    found = StorageManager.get_metadata(path.as_uri(), return_full_path=True, read_hash=True)
    assert found == {"name": path.as_uri(), "size": 3, "hash": hashlib.sha256(b"abc").hexdigest()}
    assert StorageManager.get_metadata(str(tmp_path / "no")) is None


def test_only_so_many_downloads_are_kept_as_were_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "limit", 0)
    for number in range(4):
        with download.entry(store, f"http://host/{number}") as folder:
            (folder / "kept").write_text(str(number))
            os.utime(folder, (number, number))
    with download.entry(store, "http://host/used") as used:
        os.utime(used, (0, 0))
        assert StorageManager.set_cache_file_limit(2) == 2
        kept = {(folder / "kept").read_text() for folder in (store.path / "downloads").glob("*/") if (folder / "kept").exists()}
        assert kept == {"2", "3"} and used.exists(), "what is in use stays"
