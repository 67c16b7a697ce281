"""Recognise handwritten digits: the pipeline that `minipipe run` executes when it is given no script.

Real data (1,797 scanned digits, see DIGITS.txt), standard library only, four steps:

    load -> split -> train -> evaluate

Things to try:

    minipipe run                             run it
    minipipe run --set lr=0.2                change a parameter: load and split come from the cache
    minipipe run --set lr=9.9                watch a step fail
    minipipe run --print-example > flow.py   copy it, change it, then: minipipe run flow.py
"""

from minipipe import PipelineDecorator, Task


# A component is one step of the pipeline. Calling it starts the step, in a process of its own, and returns at once.
# With cache=True a step is not run again as long as its code and its arguments are the same.
@PipelineDecorator.component(return_values=["data"], cache=True, task_type="data_processing")
def load() -> list[list[int]]:
    """Read the images: per row 8 x 8 grey values from 0 to 16, then the digit they show."""
    import csv
    import gzip
    from importlib.resources import files

    text = gzip.decompress(files("minipipe.demo").joinpath("digits.csv.gz").read_bytes()).decode("ascii")
    return [[int(cell) for cell in row] for row in csv.reader(text.splitlines())]


# Two names in return_values: the step has two results, which later steps can use independently of each other.
@PipelineDecorator.component(return_values=["train_points", "test_points"], cache=True, task_type="data_processing")
def split(data: list[list[int]], seed: int) -> tuple[list[tuple[list[float], int]], list[tuple[list[float], int]]]:
    """Shuffle, scale the grey values to -1 ... 1, and keep a quarter of the images for the evaluation."""
    import random

    # The 1.0 behind the pixels is the input of the bias, so that a model is nothing but one row of weights per digit.
    points = [([pixel / 8 - 1 for pixel in pixels] + [1.0], digit) for *pixels, digit in data]
    random.Random(seed).shuffle(points)
    cut = len(points) * 3 // 4
    return points[:cut], points[cut:]


@PipelineDecorator.component(return_values=["model"], cache=True, task_type="training", retry_on_failure=1)
def train(train_points: list[tuple[list[float], int]], n: int, lr: float) -> list[list[float]]:
    """Fit softmax regression to the first n points by stochastic gradient descent with learning rate lr."""
    import math
    from operator import mul

    if not 1 <= n <= len(train_points):
        raise ValueError(f"n is {n}, there are 1 to {len(train_points)} points to train on")
    task = Task.current_task()  # this step: what it reports is kept with it
    weights = [[0.0] * 65 for _ in range(10)]
    epochs = 60
    for epoch in range(1, epochs + 1):
        loss = 0.0
        for pixels, digit in train_points[:n]:
            scores = [sum(map(mul, row, pixels)) for row in weights]
            # Beyond 709 exp() overflows. math.exp calls that an error; C, NumPy and GPUs go on with infinity, as we do:
            # infinity / infinity is nan, which is how a learning rate that is far too high shows.
            powers = [math.exp(score) if score < 709 else math.inf for score in scores]
            total = sum(powers)
            loss += (math.log(total) - scores[digit]) / n
            for k in range(10):
                step = lr * (powers[k] / total - (k == digit))
                weights[k] = [weight - step * pixel for weight, pixel in zip(weights[k], pixels, strict=True)]
        print(f"epoch {epoch} loss {loss:.4f}")  # a step's output goes to its log: minipipe logs @last/train
        if not math.isfinite(loss):
            raise ValueError(f"loss is {loss}")
        task.get_logger().report_scalar("loss", "train", loss, epoch)
        task.set_progress(100 * epoch // epochs)
    return weights


@PipelineDecorator.component(return_values=["accuracy"], cache=True, task_type="testing")
def evaluate(model: list[list[float]], test_points: list[tuple[list[float], int]]) -> float:
    """Return the share of points, none of them seen in training, whose digit gets the highest score."""
    from operator import mul

    correct = 0
    for pixels, digit in test_points:
        scores = [sum(map(mul, row, pixels)) for row in model]
        correct += scores.index(max(scores)) == digit
    accuracy = correct / len(test_points)
    Task.current_task().get_logger().report_single_value("accuracy", accuracy)
    return accuracy


# The pipeline is plain Python. What a step returned travels to the steps that use it; the pipeline itself waits
# only where it needs a value, here to print it. Its arguments can be set from outside: --set lr=0.2
@PipelineDecorator.pipeline(name="digits-demo", project="examples", version="1.0.0")
def digits_demo(n: int = 200, lr: float = 0.1, seed: int = 0) -> None:
    """Train on n digits, then print how many digits that were never seen before are recognised."""
    data = load()
    train_points, test_points = split(data, seed)
    model = train(train_points, n, lr)
    accuracy = evaluate(model, test_points)
    print(f"accuracy on unseen points: {float(accuracy):.2f}")


if __name__ == "__main__":
    digits_demo()
