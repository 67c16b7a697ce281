"""Random search over a template as one pipeline: each trial is a step that copies it, the best is picked by its metric.

    pip install scikit-learn
    cd examples/hyperparameters
    minipipe run template.py                     # once: registers the template
    minipipe run search.py
    minipipe run search.py --set trials=6 --set seed=8

The steps wait in a queue, so workers of any number share them: `minipipe worker -j 4` in another terminal, or the ones that
`minipipe run` starts.
"""

import math
import random

from minipipe import PipelineController

pipe = PipelineController(name="digits search", project="examples", version="1.0.0")
pipe.add_parameter("trials", 4, "copies of the template")
pipe.add_parameter("seed", 7, "what the drawn values depend on")
pipe.set_default_execution_queue("default")

told = pipe.get_parameters()  # what --set or a rerun changed counts already
draw = random.Random(told["seed"])
for number in range(told["trials"]):
    drawn = {"General/C": 10 ** draw.uniform(-1, 2), "General/gamma": 10 ** draw.uniform(-4, -2)}
    pipe.add_step(
        f"trial {number}",
        base_task_project="examples",
        base_task_name="digits for a search",
        parameter_override=drawn,
        monitor_metrics=[(("accuracy", "mean"), ("accuracy", f"trial {number}"))],
        continue_on_fail=True,
        stage="search",
    )

pipe.start_locally()

best, best_score = None, -math.inf
for node in pipe.get_processed_nodes().values():
    score = node.job.get_metric("accuracy", "mean")[2]
    if node.status in ("completed", "cached") and score > best_score:
        best, best_score = node, score
if best is None:
    raise SystemExit("not one trial came to an end")
found = best.job.task.get_parameters(cast=True)
print(f"best of {told['trials']}: {best.name}, C={found['General/C']:.4g} gamma={found['General/gamma']:.4g},", end=" ")
print(f"accuracy {best_score:.3f}")
