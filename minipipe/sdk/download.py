"""Downloads over http, kept in the store: ``downloads/KEY/``, where the key is a digest of the URL.

    kept.json   what was fetched last: its file, and what the server called it (ETag, Last-Modified, length)
    part        a download that broke off, with part.json; it goes on where it stopped if the server still has the same
    VERSION/    one file; a newer one gets a folder of its own, so that nobody's open path changes its content

A kept file serves without a transfer while the server confirms it, and when the server cannot be reached.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from minipipe import errors, hashing
from minipipe.chance import fresh_id
from minipipe.meter import Meter
from minipipe.shown import tell
from minipipe.store import locks
from minipipe.store.database import mapped, os_error
from minipipe.store.home import Store

FOLDER = "downloads"
_TRIES = 5  # of a download that breaks off; each has to get further than the one before
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18
_LONGEST_NAME = 200
_REACHABLE = "!#$%&'()*+,/:;=?@[]~"  # what quoting leaves as it is


def shown(text: object) -> str:
    """A URL for people: on one line, without control characters or password."""
    open_text = re.sub(r"//[^/@]*@", "//***@", str(text))
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in open_text)


def file_name(text: str) -> str:
    """The last part of a URL or name as the name of a file: no folder, no control characters, not too long."""
    name = "".join(one if one.isprintable() else "_" for one in text.rpartition("/")[2])
    name = os.fsencode(name)[-_LONGEST_NAME:].decode(errors="ignore")
    return "file" if name in ("", ".", "..") else name


@contextlib.contextmanager
def entry(store: Store, key: str) -> Iterator[Path]:
    """A folder of the cache, for this process alone while it is used."""
    home = store.path / FOLDER
    folder = home / hashing.digest_bytes(key.encode(errors="surrogatepass"))[:32]
    with mapped(folder):
        home.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    held = locks.hold(home / f"{folder.name}.lock")
    try:
        os.utime(folder)  # for `prune`: when it was used last
        yield folder
    finally:
        if held is not None:
            held.release()


limit = 0  # of entries that this process leaves in the cache; 0 for any number


def prune(store: Store) -> None:
    """Remove the entries that were used longest ago until `limit` are left; what some process uses stays."""
    home = store.path / FOLDER
    if limit <= 0 or not home.is_dir():
        return
    folders = [each for each in home.iterdir() if each.is_dir() and re.fullmatch("[0-9a-f]{32}", each.name)]
    for folder in sorted(folders, key=lambda each: each.stat().st_mtime_ns, reverse=True)[limit:]:
        held = locks.hold(home / f"{folder.name}.lock", wait=False)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            held.release(unlink=True)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of a download.

    Attributes:
        etag, modified: the server's words for this version, "" if it said none.
        size: bytes, -1 if it did not say.
        file: path below the folder of the entry.
    """

    etag: str
    modified: str
    size: int
    file: str = ""

    @property
    def validator(self) -> str:
        """What proves that the rest of a file belongs to its beginning (RFC 9110: a strong ETag, or a date)."""
        return self.etag if self.etag.startswith('"') else self.modified

    @classmethod
    def load(cls, path: Path) -> Kept | None:
        """What `save` wrote, None if nothing usable is there."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Write it; a reader sees the old facts or the new ones."""
        draft = path.with_name(f"{path.name}.new")
        draft.write_text(json.dumps(asdict(self)))
        os.replace(draft, path)


def fetch(folder: Path, url: str, name: str | None, force: bool) -> Path:
    """The file of a URL, from the cache or from its server.

    Args:
        folder: of the `entry`, held.
        url: http or https; ``user:password@`` is sent as basic authorization.
        name: file name of the copy; default its own.
        force: transfer it again.

    Raises:
        NotFound: it cannot be reached.
        DiskFull: no room; what has arrived stays for the next try.
    """
    kept = None if force else Kept.load(folder / "kept.json")
    if kept is not None and not (folder / kept.file).is_file():
        kept = None
    failures = (OSError, ValueError, importlib.import_module("http.client").HTTPException)
    for _ in range(_TRIES):
        before = _part_size(folder)
        try:
            return _transfer(folder, url, name, kept)
        except failures as error:
            ours, code = os_error(error, folder) if isinstance(error, OSError) else None, _code(error)
            if ours is not None:
                raise ours from error
            if code == 304 and kept is not None:
                return folder / kept.file
            if code == 416:  # our beginning is not of what the server has now
                (folder / "part").unlink(missing_ok=True)
            elif _part_size(folder) <= before:
                return _kept_after_all(folder, url, kept, error)
    return _kept_after_all(folder, url, kept, ConnectionError("it broke off again and again"))


def size_of(url: str) -> int:
    """Bytes that a URL has, -1 if its server does not say.

    Raises:
        NotFound: it cannot be reached.
    """
    failures = (OSError, ValueError, importlib.import_module("http.client").HTTPException)
    for method in ("HEAD", "GET"):
        try:
            with _ask(url, {}, method) as response:
                return int(response.headers.get("Content-Length") or -1)
        except failures as error:
            if _code(error) not in (405, 501) or method == "GET":
                raise _unreachable(url, error) from error
    raise AssertionError("two methods were tried")


def _kept_after_all(folder: Path, url: str, kept: Kept | None, error: Exception) -> Path:
    code = _code(error)
    if kept is None or 400 <= code < 500:  # then the server has been reached, and says no
        raise _unreachable(url, error) from error
    tell(f"note: {shown(url)} cannot be reached; using the copy that was fetched before")
    return folder / kept.file


def _unreachable(url: str, error: Exception) -> errors.NotFound:
    return errors.NotFound(f"cannot read {shown(url)}", str(getattr(error, "reason", "") or error) or type(error).__name__)


def _code(error: Exception) -> int:
    """The http status that an error stands for, 0 if none; its connection is closed."""
    code = getattr(error, "code", 0)
    if code:
        error.close()  # type: ignore[attr-defined]
    return int(code or 0)


def _part_size(folder: Path) -> int:
    try:
        return os.stat(folder / "part").st_size
    except FileNotFoundError:
        return 0


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> Any:
    requests = importlib.import_module("urllib.request")
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    plain = quote(parts._replace(netloc=host, fragment="").geturl(), safe=_REACHABLE)
    request = requests.Request(plain, headers={"User-Agent": "minipipe", "Accept-Encoding": "identity", **headers}, method=method)
    if at:  # not to whom the server redirects
        credentials = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    return requests.urlopen(request, timeout=_TIMEOUT_S)


def _transfer(folder: Path, url: str, name: str | None, kept: Kept | None) -> Path:
    """One request: go on with a part, or ask for what is newer than the kept file."""
    part, begun = folder / "part", Kept.load(folder / "part.json")
    have = _part_size(folder) if begun is not None and begun.validator else 0
    headers = {}
    if have and begun is not None:
        headers = {"Range": f"bytes={have}-", "If-Range": begun.validator}
    elif kept is not None:
        asked = {"If-None-Match": kept.etag, "If-Modified-Since": kept.modified}
        headers = {key: value for key, value in asked.items() if value}
    with _ask(url, headers) as response:
        goes_on = response.status == 206
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise ConnectionError("the server sent another part than the one asked for")
        start = have if goes_on else 0
        length = response.headers.get("Content-Length")
        words = (response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
        found = Kept(*words, -1 if length is None else start + int(length))
        if kept is not None and not goes_on and found.size >= 0 and found == Kept(kept.etag, kept.modified, kept.size):
            return folder / kept.file
        if not goes_on:  # bytes before facts would mix two versions after a kill in between
            part.unlink(missing_ok=True)
            found.save(folder / "part.json")
        _receive(response, part, start, found.size, name or _name_of(url))
    return _publish(folder, found, file_name(name or _name_of(url)))


def _name_of(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _receive(response: Any, part: Path, done: int, size: int, name: str) -> None:
    with open(part, "ab") as file, Meter(shown(name), done, size) as meter:
        while chunk := response.read1(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            meter.show(done)
        file.flush()
        os.fsync(file.fileno())
    if size >= 0 and done != size:  # http.client does not tell
        raise ConnectionError(f"the connection ended after {done:,} of {size:,} bytes")


def _publish(folder: Path, found: Kept, name: str) -> Path:
    version = folder / fresh_id()[:16]
    version.mkdir(mode=0o700)
    os.chmod(folder / "part", 0o444)
    os.replace(folder / "part", version / name)
    Kept(found.etag, found.modified, (version / name).stat().st_size, f"{version.name}/{name}").save(folder / "kept.json")
    (folder / "part.json").unlink(missing_ok=True)
    return version / name
