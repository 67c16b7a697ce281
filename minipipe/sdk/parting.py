"""How this process is about to end, asked inside an exit handler: Python tells its handlers nothing about the exit code.

`sys.exit` and ``exit`` can be listened to, a bare ``raise SystemExit(main())`` cannot. Then a copy of the process is made that does
nothing but end: its exit code is ours.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import sys
import time
import warnings

PATIENCE_S = 20.0  # the copy takes milliseconds; a machine that is overloaded is no reason to call a failed script completed


def can_tell() -> bool:
    """True if `left_early` works: ``python SCRIPT``, not ``-m`` or a notebook. Asked while the script runs."""
    main = sys.modules.get("__main__")
    return main is not None and "__file__" in vars(main) and getattr(main, "__spec__", None) is None


def left_early() -> bool:
    """True if SystemExit ended the script: CPython deletes ``__main__.__file__`` when a script came to its end or to an error."""
    return "__file__" in vars(sys.modules["__main__"])


def code_of_a_copy() -> int | None:
    """The exit code that this process will have, None if it cannot be found out; call it from an exit handler.

    It returns in the copy too, with None, and the copy must do nothing more than return.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads: a copy that hangs is killed
            pid = os.fork()
    except OSError:
        return None
    if pid == 0:
        _do_nothing_but_end()
        return None
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _do_nothing_but_end() -> None:
    """No exit handler, no output of what is buffered, no destructor of the user's: all that is the original's business."""
    atexit._clear()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, 1 << 16)
    keep = ctypes.pythonapi.Py_IncRef
    keep.argtypes = [ctypes.py_object]
    for each in gc.get_objects():
        keep(each)
