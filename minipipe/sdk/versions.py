"""Versions of pipelines: which texts are versions (PEP 440), which is higher, which comes next."""

from __future__ import annotations

import re

from minipipe import errors

# Epoch, release, pre, post, dev, local.
_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?P<pre>[-_.]?(?P<phase>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_number>\d*))?"
    r"(?P<post>-(?P<post_bare>\d+)|[-_.]?(?:post|rev|r)[-_.]?(?P<post_number>\d*))?"
    r"(?P<dev>[-_.]?dev[-_.]?(?P<dev_number>\d*))?(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?",
    re.IGNORECASE,
)
_PHASES = {"alpha": 0, "a": 0, "beta": 1, "b": 1, "preview": 2, "pre": 2, "c": 2, "rc": 2}


def checked(version: str | None) -> str | None:
    """The version as given.

    Raises:
        BadPipeline: it is not a PEP 440 string.
    """
    if version is not None and not _VERSION.fullmatch(str(version)):
        raise errors.BadPipeline(f"version {version!r} is not a PEP 440 version", hint="for example 1.0.0")
    return None if version is None else str(version)


def following(version: str | None) -> str:
    """The next version: the last number plus 1; 1.0.0 after none (ClearML's rule)."""
    match = re.match(r"(.*?)(\d+)(\D*)$", version) if version else None
    return f"{match[1]}{int(match[2]) + 1}" if match else "1.0.0"


def order(version: str) -> tuple[int, tuple[int, ...], tuple[float, float], float, float, str]:
    """A key that sorts versions as PEP 440 does: dev < a < b < rc < release < post; what is no version comes first."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return -1, (), (0.0, 0.0), 0.0, 0.0, ""
    release = tuple(int(part) for part in match["release"].split("."))
    while release and release[-1] == 0:
        release = release[:-1]
    last = float("inf")
    pre = (last, 0.0)
    if match["pre"]:
        pre = (_PHASES[match["phase"].lower()], float(match["pre_number"] or 0))
    elif match["dev"] and not match["post"]:
        pre = (-1.0, 0.0)
    post = float(match["post_bare"] or match["post_number"] or 0) if match["post"] else -1.0
    dev = float(match["dev_number"] or 0) if match["dev"] else last
    return int(match["epoch"] or 0), release, pre, post, dev, match["local"] or ""
