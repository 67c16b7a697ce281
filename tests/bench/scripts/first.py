"""The first pipeline that somebody runs: three dependent steps."""

import json

from minipipe import PipelineDecorator


@PipelineDecorator.component(return_values=["y"], cache=True)
def increment(x: int) -> int:
    """One step."""
    return x + 1


@PipelineDecorator.pipeline(name="first", project="bench", version="1.0")
def first() -> None:
    """Three steps."""
    print(json.dumps({"value": int(increment(increment(increment(0))))}))


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    first()
