"""Template 1 of 3: the wine data that scikit-learn ships, as an artifact.

Running this script registers it: `execute_remotely()` leaves a draft that pipelines copy. Nothing after that line runs here.
"""

from sklearn.datasets import load_wine

from minipipe import Task

task = Task.init(project_name="examples", task_name="wine 1 load", task_type=Task.TaskTypes.data_processing)
settings = {"columns": 13}
task.connect(settings)
task.execute_remotely()

wine = load_wine(as_frame=True).frame
measured = list(wine.columns[: settings["columns"]])
task.upload_artifact("wine", wine[[*measured, "target"]], metadata={"rows": len(wine)})
print(f"{len(wine)} wines, {len(measured)} measurements each")
