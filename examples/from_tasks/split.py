"""Template 2 of 3: puts wines aside for the test. Which task it reads is a parameter, so any copy of template 1 will do."""

from sklearn.model_selection import train_test_split

from minipipe import Task

task = Task.init(project_name="examples", task_name="wine 2 split", task_type=Task.TaskTypes.data_processing)
settings = {"data_task": "", "test_share": 0.25, "seed": 0}
task.connect(settings)
task.execute_remotely()

wine = Task.get_task(task_id=settings["data_task"]).artifacts["wine"].get()
train_set, test_set = train_test_split(
    wine, test_size=settings["test_share"], stratify=wine["target"], random_state=settings["seed"]
)
task.upload_artifact("train_set", train_set)
task.upload_artifact("test_set", test_set)
print(f"{len(train_set)} wines to train with, {len(test_set)} to test with")
