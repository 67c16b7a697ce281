"""The templates that some examples look up by name and that need heavy frameworks to be made: same names, parameters and metrics."""

import sys

from clearml import Task

SETTINGS = {"layer_1": 512, "layer_2": 512, "batch_size": 128, "epochs": 6}

task = Task.init(project_name="examples", task_name=sys.argv[1])
settings = task.connect(dict(SETTINGS))
logger = task.get_logger()
score = (settings["layer_1"] + settings["layer_2"]) / 1024
for epoch in range(3):
    logger.report_scalar("epoch_accuracy", "epoch_accuracy", score * (epoch + 1) / 3, epoch)
    logger.report_scalar("evaluate", "accuracy", score, epoch)
    logger.report_scalar("evaluate", "score", 1 - score, epoch)
print("trained with", settings)
