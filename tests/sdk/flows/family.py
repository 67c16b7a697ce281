"""A script with a task and processes of all kinds that it starts; each says which task it has, connects and reports."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

from minipipe import Logger, Task


def live(name: str, number: int) -> str:
    task = Task.init()
    assert Task.current_task().id == task.id
    task.connect({name: number})
    Logger.current_logger().report_scalar("family", name, number, 1)
    task.upload_artifact(name, {"number": number})
    task.close()  # never ends what is not its own
    return task.id


def main() -> None:
    task = Task.init("family", "parent")
    ids = {"fork": "", "pool": "", "spawned": "", "program": ""}
    pid = os.fork()
    if pid == 0:
        live("fork", 1)
        sys.exit(3)
    os.waitpid(pid, 0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        ids["pool"] = pool.apply(live, ("pool", 2))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ids["spawned"] = pool.apply(live, ("spawned", 3))
    done = subprocess.run([sys.executable, __file__, "program"], check=False, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    ids["program"] = done.stdout.strip()
    other = subprocess.run(
        [sys.executable, __file__, "program"], env={**os.environ, "MINIPIPE_HOME": sys.argv[1]}, capture_output=True, text=True
    )
    assert other.stdout.strip() not in ("", task.id), other.stderr
    sleeper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    sleeper.start()
    sleeper.terminate()
    sleeper.join()
    assert sleeper.exitcode == -signal.SIGTERM
    assert {one for one in ids.values() if one} == {task.id}, ids
    assert task.status == "in_progress"
    print("the family is complete")


if __name__ == "__main__":
    if sys.argv[1] == "program":
        print(live("program", 4))
        sys.exit(4)
    main()
