"""Read by mypy, never run: decorated functions keep their parameters and their results.

A line that ends with ``# wrong`` has to be an error; all others must be none.
"""

from collections.abc import Callable
from typing import Any, assert_type

import minipipe
from minipipe import Logger, PipelineController, PipelineDecorator, StorageManager, Task
from minipipe import component as short


@PipelineDecorator.component(return_values=["model"], cache=True)
def train(data: list[float], lr: float = 0.1, *, epochs: int = 3) -> dict[str, float]:
    return {"loss": sum(data) * lr * epochs}


@short(return_values=["text"])
def report(model: dict[str, float]) -> str:
    return str(model)


@PipelineDecorator.component(return_values=["low", "high"])
def split(data: list[float]) -> tuple[list[float], list[float]]:
    return data[:1], data[1:]


@PipelineDecorator.pipeline(name="p", project="p", version="1.0.0")
def pipeline(lr: float = 0.1) -> str:
    low, high = split([1.0, 2.0])
    assert_type(low, list[float])
    model = train(high, lr, epochs=2)
    assert_type(model, dict[str, float])
    return report(model)


assert_type(pipeline(), str)
assert_type(pipeline(lr=0.2), str)
assert_type(train([1.0]), dict[str, float])
assert_type(minipipe.resolve(3), int)
assert_type(Task.init("p", "n"), Task)
assert_type(Task.init("p", "n").get_logger(), Logger)
assert_type(StorageManager.get_local_copy("x"), str | None)
assert_type(PipelineController("p", "p").start(), bool)

callback: Callable[[], Any] = pipeline

train([1.0], lr="fast")  # wrong
train("abc")  # wrong
train([1.0], 0.1, 3)  # wrong
train([1.0], rate=0.1)  # wrong
train()  # wrong
report(train([1.0]), 1)  # wrong
pipeline(lr="fast")  # wrong
pipeline(rate=0.1)  # wrong
print(train([1.0]).nothing)  # wrong
number: int = pipeline()  # wrong
PipelineDecorator.component(return_values=3)  # wrong
PipelineDecorator.pipeline(name="p", project="p", verison="1")  # wrong
Task.init(3, "n")  # wrong
