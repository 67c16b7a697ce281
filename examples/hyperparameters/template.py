"""A template: cross-validates a support vector machine on the handwritten digits that scikit-learn ships."""

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from minipipe import Task

task = Task.init(project_name="examples", task_name="digits for a search")
settings = {"C": 1.0, "gamma": 0.001, "images": 300}
task.connect(settings)
task.execute_remotely()

images, digits = load_digits(return_X_y=True)
images, digits = images[: settings["images"]], digits[: settings["images"]]
scores = cross_val_score(SVC(C=settings["C"], gamma=settings["gamma"]), images, digits, cv=3)
task.get_logger().report_scalar("accuracy", "mean", float(scores.mean()), iteration=0)
print(f"C={settings['C']:.4g} gamma={settings['gamma']:.4g}: accuracy {scores.mean():.3f}")
