"""An array made by one step and summed by the next. Argument: its number of float64 elements."""

import json
import sys
import time
from typing import Any

from minipipe import PipelineDecorator


@PipelineDecorator.component(return_values=["ready"])
def warm() -> int:
    """Starts the worker and has its step host import numpy."""
    import numpy

    return len(numpy.zeros(1))


@PipelineDecorator.component(return_values=["array"])
def make(elements: int) -> Any:
    """The array."""
    import numpy

    return numpy.arange(elements, dtype="float64")


@PipelineDecorator.component(return_values=["total"])
def total(array: Any) -> float:
    """Its sum."""
    return float(array.sum())


@PipelineDecorator.pipeline(name="array", project="bench", version="1.0")
def pipeline(elements: int) -> None:
    """Time both steps, with and without the start of the worker."""
    cold = time.perf_counter()
    int(warm())
    start = time.perf_counter()
    value = float(total(make(elements)))
    end = time.perf_counter()
    print(json.dumps({"value": value, "seconds": end - start, "cold_seconds": end - cold}))


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    pipeline(int(sys.argv[1]))
