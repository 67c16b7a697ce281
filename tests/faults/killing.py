"""How a process under test is armed: the environment that `shim/sitecustomize.py` reads."""

from __future__ import annotations

from pathlib import Path

SHIM = str(Path(__file__).resolve().parent / "shim")


def armed(
    role: str,
    kind: str,
    n: int,
    when: str = "before",
    *,
    match: str = "",
    mark: Path | None = None,
    count: Path | None = None,
) -> dict[str, str]:
    """Variables that let a process of `role` die at its n-th statement ("sql") or file operation ("os").

    Args:
        match: see the shim: only what contains this counts; ``A>>B``: B, once A was seen.
        mark: die only while this file does not exist; the one who dies makes it.
        count: file that gets a line for each point.
    """
    found = {"PYTHONPATH": SHIM, "MINIPIPE_TEST_KILL": f"{role}:{kind}:{n}:{when}", "MINIPIPE_TEST_MATCH": match}
    if mark is not None:
        found["MINIPIPE_TEST_MARK"] = str(mark)
    if count is not None:
        found["MINIPIPE_TEST_COUNT"] = str(count)
    return found
