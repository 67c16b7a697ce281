"""A task worth searching over: fit a line to noisy points by gradient descent, standard library only.

minipipe run train.py        registers it, with one result of its own
"""

import random

from minipipe import Logger, Task

task = Task.init(project_name="examples", task_name="fit a line")
settings = task.connect({"rate": 0.01, "steps": 40, "batch": 8})

points = [(x / 50, 3.0 * x / 50 + 1.0 + random.gauss(0, 0.1)) for x in range(100)]
slope = offset = 0.0
for step in range(settings["steps"]):
    sample = random.sample(points, settings["batch"])
    errors = [(slope * x + offset - y, x) for x, y in sample]
    slope -= settings["rate"] * sum(error * x for error, x in errors) / len(sample)
    offset -= settings["rate"] * sum(error for error, _ in errors) / len(sample)
    loss = sum((slope * x + offset - y) ** 2 for x, y in points) / len(points)
    Logger.current_logger().report_scalar("loss", "all points", loss, step)
print(f"loss {loss:.3f}")
