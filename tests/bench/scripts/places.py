"""What an environment costs: the first step in it (the build), the first of a later worker, and each further step; without one, too."""

import json
import sys
import time

from minipipe import PipelineDecorator


@PipelineDecorator.component(return_values=["x"], packages=["six==1.15.0"])
def inside(x: int) -> int:
    """A step in an environment."""
    return x + 1


@PipelineDecorator.component(return_values=["x"])
def here(x: int) -> int:
    """The same in this Python."""
    return x + 1


@PipelineDecorator.pipeline(name="places", project="bench", version="1.0")
def places(number: int) -> None:
    """A chain of each kind."""
    found = {}
    for name, step in (("here", here), ("inside", inside)):
        start = time.perf_counter()
        value = int(step(0))
        found[f"{name}_first_s"] = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(number):
            value = step(value)
        found[f"{name}_value"] = int(value)
        found[f"{name}_step_ms"] = (time.perf_counter() - start) / number * 1e3
    print(json.dumps(found))


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    places(int(sys.argv[1]))
