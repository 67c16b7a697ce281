"""A script as ClearML's users have it: one task, its parameters, one line of output."""

from clearml import Task

task = Task.init(project_name="bench", task_name="toy")
parameters = task.connect({"Example_Param": 1})
print("Example_Param is", parameters["Example_Param"])
