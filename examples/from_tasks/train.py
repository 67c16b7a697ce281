"""Template 3 of 3: trains a classifier on what template 2 left, reports its accuracy and keeps the model."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from minipipe import Task

task = Task.init(project_name="examples", task_name="wine 3 train")
settings = {"split_task": "", "C": 1.0}
task.connect(settings)
task.execute_remotely()

data = Task.get_task(task_id=settings["split_task"]).artifacts
train_set, test_set = data["train_set"].get(), data["test_set"].get()
model = make_pipeline(StandardScaler(), LogisticRegression(C=settings["C"], max_iter=2000))
model.fit(train_set.drop(columns="target"), train_set["target"])
for name, wines in (("train", train_set), ("test", test_set)):
    score = float(model.score(wines.drop(columns="target"), wines["target"]))
    task.get_logger().report_scalar("accuracy", name, score, iteration=0)
    print(f"accuracy on the {name} set: {score:.3f}")
task.upload_artifact("model", model)
