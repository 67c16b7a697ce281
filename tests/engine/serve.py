"""A worker as a process of its own, with options that the command line does not offer.

``python serve.py HOME OPTIONS``: OPTIONS is JSON for `minipipe.engine.worker.Options`; its key ``before`` holds code that runs
first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from minipipe import errors
from minipipe.engine.worker import Options, Worker
from minipipe.store.home import Store


def main(home: str, text: str) -> int:
    """Serve; the exit code is the worker's."""
    options = json.loads(text)
    exec(options.pop("before", ""), {})
    options["queues"] = tuple(options.get("queues", ("default",)))
    try:
        return Worker(Store.open(Path(home), create=False), Options(**options), lambda line: print(line, flush=True)).run()
    except errors.MinipipeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
