"""Proof that the tests bite: each protection is taken out of a copy of the package, and a named test must then fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_matrix import known_in

ROOT = Path(__file__).resolve().parents[2]

# What is taken out: file, the text that protects, what stands there instead; and a test that must notice.
MUTANTS: dict[str, tuple[str, str, str, str]] = {
    "an ending does not ask whether the task is in progress": (
        "store/attempts.py",
        'if row["status"] != states.IN_PROGRESS:',
        "if False:",
        "tests/faults/test_kills.py::test_of_two_endings_of_one_task_the_second_changes_nothing",
    ),
    "an ending does not ask for the token": (
        "store/attempts.py",
        'if row is None or row["token"] != lease.token:',
        "if row is None:",
        "tests/store/test_workers.py::test_a_dead_workers_late_ending_changes_nothing",
    ),
    "bytes are published without a sync": (
        "store/blobs.py",
        "            os.fsync(self._descriptor)\n            os.fchmod",
        "            os.fchmod",
        "tests/store/test_blobs.py::test_publishing_syncs_the_file_before_and_the_folder_after_the_rename",
    ),
    "bytes are published before the transaction that links them": (
        "store/blobs.py",
        "        return Staged(self._hash.hexdigest(), self.size, None, self._path)",
        "        target = self._path.parent.parent / 'blobs' / self._hash.hexdigest()[:2] / self._hash.hexdigest()\n"
        "        target.parent.mkdir(mode=0o700, exist_ok=True)\n"
        "        os.replace(self._path, target)\n"
        "        return Staged(self._hash.hexdigest(), self.size, None, self._path)",
        "tests/store/test_blobs.py",
    ),
    "writes begin deferred": (
        "store/database.py",
        '_patiently(lambda: connection.execute("BEGIN IMMEDIATE"), self.path, deadline_s)',
        '_patiently(lambda: connection.execute("BEGIN"), self.path, deadline_s)',
        "tests/store/test_database.py::test_every_write_of_every_verb_is_inside_begin_immediate",
    ),
    "a child does not look whether its parent is still there": (
        "engine/tree.py",
        "    if os.getppid() != parent:\n        os._exit(1)\n",
        "",
        "tests/engine/test_tree.py::test_a_process_whose_parent_is_gone_already_ends_at_once",
    ),
    "the token is only in os.environ": (
        "engine/tree.py",
        "        ctypes.memmove(_branded, token.encode(), len(token))",
        "        pass",
        "tests/engine/test_tree.py::test_the_token_shows_in_the_environment_of_a_forked_daemon",
    ),
    "a lock file goes although somebody else holds the path now": (
        "store/locks.py",
        "if unlink and not self.lost():",
        "if unlink:",
        "tests/store/test_workers.py::test_a_lock_whose_file_is_gone_or_replaced_is_lost_and_never_unlinks_the_new_one",
    ),
    "bytes are not verified": (
        "store/blobs.py",
        "    if found != digest:\n        raise _damaged",
        "    if False:\n        raise _damaged",
        "tests/store/test_blobs.py::test_damaged_bytes_are_never_handed_out",
    ),
    "durable commits are as fast as the others": (
        "store/database.py",
        'wanted = "FULL" if durable and self.durable else "NORMAL"',
        'wanted = "NORMAL"',
        "tests/store/test_database.py::test_durable_commits_sync_and_the_others_do_not",
    ),
    "a dead worker's tasks go back before its processes are gone": (
        "store/workers.py",
        "            if sweep is not None:\n",
        "            if False:\n",
        "tests/faults/test_kills.py::test_what_a_dead_workers_step_left_running_is_ended_before_the_task_goes_back",
    ),
    "a fork keeps what another thread held": (
        "mutex.py",
        "            mutex._lock = threading.RLock()\n",
        "            pass\n",
        "tests/words/test_mutex.py::test_a_fork_finds_free_what_another_thread_held_and_held_what_its_own_did",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_takes_out_is_there_and_so_is_the_test_that_must_notice(name: str) -> None:
    file, protection, _, test = MUTANTS[name]
    assert (ROOT / "minipipe" / file).read_text().count(protection) == 1, "it is written otherwise now: change it here too"
    file, _, name = test.partition("::")
    assert (ROOT / file).exists() and (not name or name in known_in(ROOT / file))


@pytest.mark.faults
@pytest.mark.parametrize("name", MUTANTS)
def test_a_protection_that_is_missing_is_noticed(name: str, tmp_path: Path) -> None:
    file, protection, instead, test = MUTANTS[name]
    for folder in ("minipipe", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "frozen"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "minipipe" / file
    text = path.read_text()
    path.write_text(text.replace(protection, instead))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "", test],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert " failed" in done.stdout or " error" in done.stdout
