"""Iris with scikit-learn: load -> split -> train -> evaluate, four cached steps.

    pip install scikit-learn pandas
    minipipe run examples/iris/pipeline.py                  # or: python examples/iris/pipeline.py
    minipipe run examples/iris/pipeline.py --set C=0.01     # load and split come from the cache

The data are the 150 flowers that scikit-learn ships; nothing is downloaded.
"""

from typing import Any

import pandas as pd

from minipipe import PipelineDecorator, Task


@PipelineDecorator.component(return_values=["flowers"], cache=True, task_type="data_processing")
def load() -> pd.DataFrame:
    """Return the flowers: four measurements in cm and the species (0, 1 or 2) in column `target`."""
    from sklearn.datasets import load_iris

    return load_iris(as_frame=True).frame


@PipelineDecorator.component(return_values=["train_set", "test_set"], cache=True, task_type="data_processing")
def split(flowers: pd.DataFrame, test_share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put test_share of each species aside."""
    from sklearn.model_selection import train_test_split

    train_set, test_set = train_test_split(flowers, test_size=test_share, stratify=flowers["target"], random_state=seed)
    return train_set, test_set


@PipelineDecorator.component(return_values=["model"], cache=True, task_type="training")
def train(train_set: pd.DataFrame, C: float, folds: int = 5) -> Any:
    """Fit a logistic regression with inverse regularisation C; report its accuracy per cross-validation fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    features, species = train_set.drop(columns="target"), train_set["target"]
    model = LogisticRegression(C=C, max_iter=1000)
    scores = cross_val_score(model, features, species, cv=folds)
    logger = Task.current_task().get_logger()
    for fold, score in enumerate(scores, start=1):
        logger.report_scalar("cross-validation", "accuracy", float(score), fold)
    logger.report_single_value("cv_accuracy", float(scores.mean()))
    return model.fit(features, species)


@PipelineDecorator.component(return_values=["accuracy"], cache=True, task_type="testing")
def evaluate(model: Any, test_set: pd.DataFrame) -> float:
    """Return the share of the flowers put aside whose species the model names."""
    accuracy = float(model.score(test_set.drop(columns="target"), test_set["target"]))
    Task.current_task().get_logger().report_single_value("accuracy", accuracy)
    return accuracy


@PipelineDecorator.pipeline(name="iris", project="examples", version="1.0.0")
def iris(test_share: float = 0.3, C: float = 1.0, seed: int = 0) -> None:
    """Train on one part of the flowers, then print the accuracy on the other."""
    flowers = load()
    train_set, test_set = split(flowers, test_share, seed)
    model = train(train_set, C)
    accuracy = evaluate(model, test_set)
    print(f"accuracy on unseen flowers: {float(accuracy):.3f}")


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    iris()
