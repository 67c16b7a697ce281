"""Independent trivial steps. Argument: how many."""

import json
import sys
import time

from minipipe import PipelineDecorator


@PipelineDecorator.component(return_values=["y"], cache=True)
def increment(x: int) -> int:
    """One step."""
    return x + 1


@PipelineDecorator.pipeline(name="fan", project="bench", version="1.0")
def fan(steps: int) -> None:
    """Time the steps from the first call to the last value."""
    int(increment(-1))  # starts the worker
    start = time.perf_counter()
    results = [increment(x) for x in range(steps)]
    submitted = time.perf_counter()
    value = sum(results)
    spent = time.perf_counter() - start
    print(
        json.dumps(
            {
                "value": value,
                "ms_per_step": spent * 1e3 / steps,
                "submit_ms_per_step": (submitted - start) * 1e3 / steps,
                "steps_per_s": steps / spent,
            }
        )
    )


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    fan(int(sys.argv[1]))
