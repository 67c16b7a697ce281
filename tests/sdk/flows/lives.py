"""A script with a task, and all the ways in which its process can end."""

import argparse
import contextlib
import os
import signal
import sys
import threading

from minipipe import Task

how = sys.argv[1]
task = Task.init("lives", how)
print(f"{how} runs")
if how == "sys.exit(0)":
    sys.exit(0)
elif how == "sys.exit(3)":
    sys.exit(3)
elif how == "sys.exit(words)":
    sys.exit("words")
elif how == "exit(3)":
    exit(3)
elif how == "raise SystemExit":
    raise SystemExit
elif how == "raise SystemExit(3)":
    raise SystemExit(3)
elif how == "caught":
    with contextlib.suppress(SystemExit):
        sys.exit(3)
elif how == "thread":
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
elif how == "argparse":
    argparse.ArgumentParser().parse_args(["--unknown"])
elif how == "error":
    print(1 / 0)
elif how == "Ctrl-C":
    os.kill(os.getpid(), signal.SIGINT)
elif how == "SIGTERM":
    os.kill(os.getpid(), signal.SIGTERM)
elif how == "SIGKILL":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "close":
    task.close()
    assert Task.current_task() is None
    assert task.status == "completed"
    sys.exit(3)
elif how == "mark_failed":
    task.mark_failed(status_reason="no luck")
elif how == "mark_stopped":
    task.mark_stopped(status_message="enough")
elif how == "mark_completed":
    task.mark_completed()
    sys.exit(3)
