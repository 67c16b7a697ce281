"""Steps in containers: against a program that records its command line and runs what stands behind the image, and a real engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from minipipe.store import steering
from minipipe.store.tasks import Submitted
from tests.engine.real import Shop

FAKE = """#!{python}
import json, os, sys
words = sys.argv[1:]
with open({record!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
if words[0] != "run":
    sys.exit({answer})
where = words.index({image!r})
for n, word in enumerate(words[:where]):
    if word == "--env":
        name, _, value = words[n + 1].partition("=")
        os.environ[name] = value
    if word == "--workdir":
        os.chdir(words[n + 1])
rest = [{python!r} if word == "python3" else word for word in words[where + 1 :]]
os.execvp(rest[0], rest)
"""
IMAGE = "example/image:1"


def engine(shop: Shop, answer: int = 0) -> dict[str, str]:
    """Environment of a worker whose docker is the program above."""
    folder = shop.folder / "bin"
    folder.mkdir()
    text = FAKE.format(python=sys.executable, record=str(shop.folder / "said"), image=IMAGE, answer=answer)
    (folder / "docker").write_text(text)
    (folder / "docker").chmod(0o755)
    return {"MINIPIPE_CONTAINERS": "docker", "PATH": f"{folder}:{os.environ['PATH']}"}


def step(shop: Shop, function: str, arguments: str = "", setup: str = "", **facts: Any) -> Submitted:
    entry = {"container": {"image": IMAGE, "arguments": arguments, "setup": setup}, **facts.pop("entry", {})}
    return shop.step(function, entry=entry, **facts)


def said(shop: Shop) -> list[list[str]]:
    return [words for line in shop.lines("said") if (words := json.loads(line))[0] == "run"]


def test_a_step_runs_in_its_image_with_results_log_and_mounts(shop: Shop) -> None:
    first = step(shop, "begin", arguments="--gpus all", setup="echo from the setup; export X=1")
    second = step(shop, "grow", needs={"value": first})
    last = shop.step("close", needs={"value": second})
    shop.drain(environment=engine(shop))
    assert shop.status(last) == "completed"
    commands = said(shop)
    assert len(commands) == 2
    words, home = commands[0], str(shop.store.path)
    mounts = [words[n + 1] for n, word in enumerate(words) if word == "--volume"]
    assert f"{home}:{home}" in mounts
    assert f"{home}/blobs:{home}/blobs:ro" in mounts
    assert words[words.index("--gpus") + 1] == "all"
    assert words.index("--gpus") < words.index(IMAGE)
    assert words[words.index("--user") + 1] == f"{os.geteuid()}:{os.getegid()}"
    assert b"from the setup" in shop.log(first)
    assert [shop.lines("count").count(name) for name in ("begin", "grow")] == [1, 1]


def test_failures_limits_and_aborts_are_those_of_any_step(shop: Shop) -> None:
    bad = step(shop, "fail")
    slow = step(shop, "stay", file="never", time_limit_s=0.5)
    long = step(shop, "stay", file="never", name="long")
    worker = shop.worker(engine(shop), slots=3)
    shop.running(long)
    steering.abort(shop.store, [long.id], "enough")
    shop.finished(bad, slow, long)
    assert [shop.status(one) for one in (bad, slow, long)] == ["failed", "failed", "stopped"]
    assert "time limit" in shop.row(slow)["reason"]
    assert worker.end() == 0


def test_without_the_setting_or_an_engine_that_answers_the_step_runs_here(shop: Shop) -> None:
    here = step(shop, "one")
    environment = engine(shop, answer=1)
    shop.drain(environment={**environment, "MINIPIPE_CONTAINERS": "off"})
    assert shop.lines("said") == []
    there = step(shop, "one")
    shop.drain(environment=environment)
    assert (shop.status(here), shop.status(there)) == ("completed", "completed")
    assert said(shop) == []
    assert "docker does not answer" in (shop.folder / "worker1.out").read_text()


@pytest.mark.index
def test_a_real_engine_runs_a_step(shop: Shop) -> None:
    program = next((name for name in ("docker", "podman") if shutil.which(name)), None)
    if program is None or subprocess.run([program, "version"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine answers here")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    image = f"python:{version}-slim"
    if subprocess.run([program, "pull", "--quiet", image], capture_output=True, check=False).returncode:
        pytest.skip(f"the image {image} cannot be had here")
    made = shop.step("one", entry={"container": {"image": image, "arguments": "", "setup": ""}})
    shop.drain(environment={"MINIPIPE_CONTAINERS": program}, timeout=120)
    assert shop.value(made) == 1
