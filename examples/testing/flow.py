"""A small pipeline with something to test: a download, a split, a training that can fail, a metric."""

import json

from minipipe import PipelineDecorator, StorageManager, Task

POINTS_URL = "https://example.com/points.json"


@PipelineDecorator.component(return_values=["points"], cache=True)
def load(url: str):
    path = StorageManager.get_local_copy(url)
    with open(path) as file:
        return json.load(file)


@PipelineDecorator.component(return_values=["train_points", "test_points"], cache=True)
def split(points: list, share: float = 0.75):
    border = int(len(points) * share)
    return points[:border], points[border:]


@PipelineDecorator.component(return_values=["slope"], cache=True)
def train(points: list, lr: float):
    slope = 0.0
    for epoch in range(50):
        slope -= lr * sum(2 * (slope * x - y) * x for x, y in points) / len(points)
        print(f"epoch {epoch} slope {slope:.4f}")
        if not abs(slope) < 1e6:
            raise ValueError("loss is nan: the learning rate is too high")
    return slope


@PipelineDecorator.component(return_values=["error"])
def evaluate(slope: float, points: list):
    error = max(abs(slope * x - y) for x, y in points)
    Task.current_task().get_logger().report_single_value("error", error)
    return error


@PipelineDecorator.pipeline(name="line", project="examples/testing", version="1.0.0")
def line(lr: float = 0.1, url: str = POINTS_URL):
    train_points, test_points = split(load(url))
    error = evaluate(train(train_points, lr), test_points)
    print(f"largest error: {error:.3f}")
    return error


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    line()
