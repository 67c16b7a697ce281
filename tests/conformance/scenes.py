"""What a script is run in: a virtual environment of its own, made once; an empty folder and store; files in the place of a network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from minipipe.store import models, plots, records
from minipipe.store.home import Store

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "requirements.txt"
IRIS = "https://github.com/allegroai/events/raw/master/odsc20-east/generic/iris_dataset.pkl"
LIGHTGBM = "https://raw.githubusercontent.com/microsoft/LightGBM/master/examples/regression/regression"
MINING = "https://raw.githubusercontent.com/plotly/datasets/master/Mining-BTC-180.csv"
ADULT = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/adult.data"


def python(folder: Path | None = None) -> Path:
    """The Python that has all that the scripts import; made and filled when it is not there yet.

    Args:
        folder: of the virtual environment; default one in the user's cache, by the content of ``requirements.txt``.
    """
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = folder or cache / "minipipe" / f"conformance-{wanted}"
    found, done = folder / "bin" / "python", folder / "filled"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # several test processes ask at once
        if not done.exists() or done.read_text() != str(ROOT):
            print(f"filling {folder}, once", file=sys.stderr)
            if not found.exists():
                venv.create(folder, with_pip=True)
            subprocess.run([found, "-m", "pip", "install", "-q", "-r", REQUIREMENTS, "-e", ROOT], check=True, stdout=sys.stderr)
            done.write_text(str(ROOT))
    return found


_MAKE = """
import json, pathlib, pickle, random, sys
import numpy, pandas, sklearn.datasets
folder = pathlib.Path(sys.argv[1])
random.seed(1)
numpy.random.seed(1)
with open(folder / "iris.pkl", "wb") as file:
    pickle.dump(sklearn.datasets.load_iris(), file, 2)
for name, rows in (("train", 400), ("test", 100)):
    frame = pandas.DataFrame(numpy.random.rand(rows, 29))
    frame[0] = (frame[5] > 0.5).astype(int)
    frame[22] = numpy.random.randint(0, 5, rows)
    frame.to_csv(folder / f"regression.{name}", header=False, index=False, sep="\\t")
    ranks = pandas.DataFrame(numpy.random.rand(rows, 8))
    ranks[0] = numpy.random.randint(0, 4, rows)
    ranks.to_csv(folder / f"msrank.{name}.tsv", header=False, index=False, sep="\\t")
columns = "age workclass fnlwgt degree edu marital occ rel eth gender gain loss hours country income".split()
numbers = {0: (17, 90), 2: (10000, 900000), 4: (1, 16), 10: (0, 9000), 11: (0, 900), 12: (10, 60)}
adult = [[random.randint(*numbers[i]) if i in numbers else f"{name}{random.randint(0, 4)}" for i, name in enumerate(columns)]
         for _ in range(300)]
pandas.DataFrame(adult).to_csv(folder / "adult.data", header=False, index=False)
pandas.DataFrame({"Date": range(20), "Price": numpy.random.rand(20)}).to_csv(folder / "mining.csv", index=False)
pandas.DataFrame([
    dict(subject=s, timepoint=t, event=e, region=r, signal=random.random())
    for s in range(3) for t in range(5) for e in ("stim", "cue") for r in ("parietal", "frontal")
]).to_csv(folder / "fmri.csv", index=False)
"""


def make_files(python: Path, folder: Path) -> dict[str, str]:
    """Write stand-ins for what the scripts would download; gives address -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "fmri.csv").exists():
        subprocess.run([python, "-c", _MAKE, folder], check=True)
    found = {IRIS: "iris.pkl", MINING: "mining.csv", ADULT: "adult.data"}
    found |= {f"{LIGHTGBM}.{name}": f"regression.{name}" for name in ("train", "test")}
    return {url: str(folder / name) for url, name in found.items()}


@dataclass
class Scene:
    """One script's surroundings.

    Attributes:
        folder: a copy of the script's folder is in it, and the store.
        python: runs the scripts.
        examples: the checkout's folder of examples.
        files: address -> path of what can be downloaded.
        out, err: what the scripts said, newest last.
    """

    folder: Path
    python: Path
    examples: Path
    files: dict[str, str]
    out: str = ""
    err: str = ""
    code: int = 0
    seconds: float = 0.0

    @cached_property
    def environment(self) -> dict[str, str]:
        """What the processes of the scene get."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINIPIPE_", "PYTEST_"))}
        network = self.folder / "network.json"
        network.write_text(json.dumps(self.files))
        data = Path(self.files[IRIS]).parent
        return {
            **kept,
            "MINIPIPE_HOME": str(self.folder / ".minipipe"),
            "MINIPIPE_URL_MAP": json.dumps(self.files),
            "MPLBACKEND": "Agg",
            "PYTHONPATH": str(HERE / "network"),
            "CONFORMANCE_NETWORK": str(network),
            "SEABORN_DATA": str(data),
            "PYTHONWARNINGS": "ignore",
            "CONFORMANCE_HIDDEN": "graphviz",  # which is of no use without the program that it calls
            "NO_COLOR": "1",
        }

    def script(self, name: str) -> Path:
        """The script, in the copy of its folder."""
        source = self.examples / name
        place = self.folder / Path(name).parent
        if not place.exists():
            shutil.copytree(source.parent, place)
        return self.folder / name

    def run(
        self,
        name: str,
        *arguments: str,
        stdin: str = "",
        timeout_s: float = 180.0,
        interrupt_when: str = "",
        options: tuple[str, ...] = (),
    ) -> None:
        """``minipipe run`` of an example, or of a script with an absolute path, with its folder as the current one.

        Args:
            name: below the examples.
            arguments: of the script.
            stdin: what it can read.
            timeout_s: it is killed then.
            interrupt_when: Ctrl-C once the output has this in it, for what would run for ever.
            options: of the command.
        """
        path = Path(name) if os.path.isabs(name) else self.script(name)
        cwd = self.folder if os.path.isabs(name) else path.parent
        words = [str(self.python), "-m", "minipipe", "run", *options, str(path), "--", *arguments]
        start = time.monotonic()
        with open(self.folder / "out", "w+") as out, open(self.folder / "err", "w+") as err:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
            try:
                self._wait(process, start + timeout_s, interrupt_when)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        self.seconds = time.monotonic() - start
        self.code = process.returncode
        self.out = (self.folder / "out").read_text()
        self.err = (self.folder / "err").read_text()

    def _wait(self, process: subprocess.Popen[str], end: float, interrupt_when: str) -> None:
        sent = not interrupt_when
        while process.poll() is None and time.monotonic() < end:
            if not sent and interrupt_when in (self.folder / "out").read_text() + (self.folder / "err").read_text():
                process.send_signal(signal.SIGINT)
                sent = True
            time.sleep(0.02)
        assert process.poll() is not None, f"still running:\n{(self.folder / 'err').read_text()[-800:]}"

    # -- what was left ------------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The store that the scripts filled."""
        return Store.open(self.folder / ".minipipe", create=False)

    def tasks(self) -> dict[str, Left]:
        """Tasks by name; of equal names the newest."""
        rows = self.store.database.rows(
            "SELECT t.*, p.name AS project, u.name AS parent FROM task t JOIN project p ON p.id = t.project_id"
            " LEFT JOIN task u ON u.id = t.parent_id ORDER BY t.id"
        )
        return {row["name"]: Left(self.store, row) for row in rows}

    def task(self, name: str) -> Left:
        """One task."""
        found = self.tasks()
        assert name in found, f"no task {name!r}, only {', '.join(found)}"
        return found[name]


class Left:
    """A task that a script left."""

    def __init__(self, store: Store, row: Any) -> None:
        self.store = store
        self.row = row

    @property
    def status(self) -> str:
        """Its status."""
        return str(self.row["status"])

    @property
    def parameters(self) -> dict[str, str]:
        """``Section/name`` -> text."""
        return {f"{one['section']}/{one['name']}": one["text"] for one in records.parameters(self.store, self.row["id"])}

    @property
    def types(self) -> dict[str, str]:
        """``Section/name`` -> type tag."""
        return {f"{one['section']}/{one['name']}": one["type"] for one in records.parameters(self.store, self.row["id"])}

    @property
    def scalars(self) -> dict[str, list[float]]:
        """``title/series`` -> values; single values under ``Summary/name``."""
        found: dict[str, list[float]] = {}
        for row in records.points(self.store, self.row["id"]):
            found.setdefault(f"{row['title']}/{row['series']}", []).append(row["value"])
        return found

    @property
    def plots(self) -> list[str]:
        """``title/series`` of its plots, tables and samples."""
        return [f"{one.title}/{one.series}" for one in plots.of_task(self.store, self.row["id"])]

    def models(self, role: str = models.OUTPUT) -> list[models.Model]:
        """Its models of a role."""
        return [one.model for one in models.of_task(self.store, self.row["id"], role)]

    @property
    def artifacts(self) -> dict[str, str]:
        """Name -> type."""
        rows = self.store.database.rows(
            "SELECT a.name, a.type FROM task t JOIN artifact a ON a.task_id = coalesce(t.cached_from, t.id)"
            " WHERE t.id = ? AND a.role = 'output' ORDER BY a.id",
            (self.row["id"],),
        )
        return {row["name"]: row["type"] for row in rows}

    @property
    def cached(self) -> bool:
        """True if it was served from the cache."""
        return self.row["cached_from"] is not None

    @property
    def log(self) -> str:
        """What its last attempt printed."""
        path = records.log_of(self.store, self.row["id"])
        return path.read_text(errors="replace") if path.exists() else ""
