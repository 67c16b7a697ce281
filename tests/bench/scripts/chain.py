"""A chain of trivial dependent steps. Argument: how many."""

import json
import sys
import time

from minipipe import PipelineDecorator


@PipelineDecorator.component(return_values=["y"], cache=True)
def increment(x: int) -> int:
    """One step."""
    return x + 1


@PipelineDecorator.pipeline(name="chain", project="bench", version="1.0")
def chain(steps: int) -> None:
    """Time the chain from its first call to its last value."""
    int(increment(-1))  # starts the worker
    start = time.perf_counter()
    x = 0
    for _ in range(steps):
        x = increment(x)
    submitted = time.perf_counter()
    value = int(x)
    end = time.perf_counter()
    print(
        json.dumps(
            {"value": value, "ms_per_step": (end - start) * 1e3 / steps, "submit_ms_per_step": (submitted - start) * 1e3 / steps}
        )
    )


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    chain(int(sys.argv[1]))
