"""A custom controller: random search over a template, in plain Python. No pipeline class is involved, only tasks.

    pip install scikit-learn
    cd examples/custom_controller
    minipipe run train.py                                  # once: registers the template
    minipipe run pipeline.py
    minipipe run pipeline.py -- --trials 6 --target 0.97

Each round clones the template, sets parameters, enqueues the copies, waits for them and reads their metrics. It then decides:
good enough, or another round in a narrower range around the best so far.
"""

import argparse
import math
import random

from minipipe import Task

parser = argparse.ArgumentParser()
parser.add_argument("--trials", type=int, default=4, help="copies per round")
parser.add_argument("--rounds", type=int, default=3, help="rounds at most")
parser.add_argument("--target", type=float, default=0.93, help="accuracy that is good enough")
parser.add_argument("--seed", type=int, default=7)
parser.add_argument("--queue", default="default")

task = Task.init(project_name="examples", task_name="digits random search", task_type=Task.TaskTypes.optimizer)
options = parser.parse_args()
template = Task.get_task(project_name="examples", task_name="digits svm")
draw = random.Random(options.seed)

centre, width = {"C": 0.0, "gamma": -3.0}, 3.0  # powers of ten
best, best_score = None, -math.inf
for number in range(options.rounds):
    copies = []
    for trial in range(options.trials):
        copy = Task.clone(template, name=f"digits svm {number}.{trial}", parent=task.id)
        drawn = {name: 10 ** draw.uniform(middle - width, middle + width) for name, middle in centre.items()}
        copy.set_parameters({**template.get_parameters(), **{f"General/{name}": value for name, value in drawn.items()}})
        Task.enqueue(copy, queue_name=options.queue)
        copies.append(copy)

    for copy in copies:
        copy.wait_for_status(status=["completed", "failed", "stopped"], raise_on_status=None)
        if copy.status != "completed":
            print(f"{copy.name} {copy.status}: {copy.get_status_message()}")
            continue
        score = copy.get_last_scalar_metrics()["accuracy"]["mean"]["last"]
        if score > best_score:
            best, best_score = copy, score
    if best is None:
        raise SystemExit("not one copy came to an end")
    task.get_logger().report_scalar("best", "accuracy", best_score, iteration=number)
    if best_score >= options.target:
        break
    found = best.get_parameters(cast=True)
    centre = {name: math.log10(found[f"General/{name}"]) for name in centre}
    width /= 2

found = best.get_parameters(cast=True)
task.upload_artifact("best", {"id": best.id, "accuracy": best_score, "C": found["General/C"], "gamma": found["General/gamma"]})
print(f"{'good enough' if best_score >= options.target else 'not good enough'}: {best.name}, accuracy {best_score:.3f}")
print(f"C={found['General/C']:.4g} gamma={found['General/gamma']:.4g} after {number + 1} rounds")
