"""Model selection with scikit-learn: eleven candidates side by side, the best one is fitted again and tested.

    load -> split -> cross_validate (once per candidate, as many at a time as there are slots) -> fit -> evaluate

    pip install scikit-learn pandas
    minipipe run examples/model_selection/pipeline.py
    minipipe run examples/model_selection/pipeline.py --set nu=0.9            # one candidate fails, the run goes on
    minipipe run examples/model_selection/pipeline.py --set min_score=0.999   # nobody is good enough: ends early

The data are the 569 tumours (Wisconsin breast cancer, 30 measurements each) that scikit-learn ships; nothing is
downloaded. Every step is cached: after adding a candidate at the end of the list only that one is cross-validated.
"""

from typing import Any

import pandas as pd

from minipipe import PipelineDecorator, Task


def build_model(family: str, options: dict[str, Any], seed: int) -> Any:
    """Return an unfitted classifier of that family.

    The scaler is part of the model: in cross-validation each fold is then scaled by what it was trained on alone,
    and whoever gets the finished model can hand it raw measurements.
    """
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, NuSVC

    if family == "logistic":
        model = LogisticRegression(max_iter=5000, **options)
    elif family == "forest":
        model = RandomForestClassifier(random_state=seed, **options)
    elif family == "boosting":
        model = GradientBoostingClassifier(random_state=seed, **options)
    elif family == "svm":
        model = SVC(**options)
    elif family == "nu-svm":
        model = NuSVC(**options)
    elif family == "neighbours":
        model = KNeighborsClassifier(**options)
    else:
        raise ValueError(f"no family of models is called {family!r}")
    return make_pipeline(StandardScaler(), model)


@PipelineDecorator.component(return_values=["tumours"], cache=True, task_type="data_processing")
def load() -> pd.DataFrame:
    """Return 30 measurements per tumour; column `target` is 0 for malignant and 1 for benign."""
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(as_frame=True).frame


@PipelineDecorator.component(return_values=["train_set", "test_set"], cache=True, task_type="data_processing")
def split(tumours: pd.DataFrame, test_share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put test_share of both classes aside; no candidate sees them before the final evaluation."""
    from sklearn.model_selection import train_test_split

    train_set, test_set = train_test_split(tumours, test_size=test_share, stratify=tumours["target"], random_state=seed)
    return train_set, test_set


# continue_on_fail: a candidate whose hyper-parameters do not suit the data is lost, the selection is not.
# monitor_metrics: the pipeline itself gets a chart with one point per candidate, at the candidate's number.
@PipelineDecorator.component(
    return_values=["score", "spread"],
    cache=True,
    task_type="training",
    continue_on_fail=True,
    helper_functions=[build_model],
    monitor_metrics=[("candidates", "balanced accuracy")],
)
def cross_validate(
    train_set: pd.DataFrame, number: int, family: str, options: dict[str, Any], folds: int, seed: int
) -> tuple[float, float]:
    """Return mean and standard deviation of the balanced accuracy over stratified folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    scores = cross_val_score(
        build_model(family, options, seed),
        train_set.drop(columns="target"),
        train_set["target"],
        scoring="balanced_accuracy",
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        error_score="raise",
    )
    logger = Task.current_task().get_logger()
    for fold, score in enumerate(scores, start=1):
        logger.report_scalar("folds", "balanced accuracy", float(score), fold)
    logger.report_scalar("candidates", "balanced accuracy", float(scores.mean()), number)
    logger.report_single_value("balanced_accuracy", float(scores.mean()))
    logger.report_single_value("spread", float(scores.std()))
    return float(scores.mean()), float(scores.std())


@PipelineDecorator.component(return_values=["model"], cache=True, task_type="training", helper_functions=[build_model])
def fit(train_set: pd.DataFrame, family: str, options: dict[str, Any], seed: int) -> Any:
    """Fit the winner to all training data."""
    return build_model(family, options, seed).fit(train_set.drop(columns="target"), train_set["target"])


@PipelineDecorator.component(
    return_values=["test_score"],
    cache=True,
    task_type="testing",
    monitor_metrics=[("test", "balanced accuracy")],
    monitor_artifacts=["confusion"],
)
def evaluate(model: Any, test_set: pd.DataFrame) -> float:
    """Return the balanced accuracy on the tumours put aside; keep the confusion matrix as artifact `confusion` and as a plot."""
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_curve

    truth = test_set["target"]
    predicted = model.predict(test_set.drop(columns="target"))
    names = ["malignant", "benign"]
    confusion = pd.DataFrame(confusion_matrix(truth, predicted), index=names, columns=[f"predicted {name}" for name in names])
    score = float(balanced_accuracy_score(truth, predicted))
    task = Task.current_task()
    task.upload_artifact("confusion", confusion)
    log = task.get_logger()
    log.report_scalar("test", "balanced accuracy", score, 0)
    log.report_single_value("balanced_accuracy", score)
    log.report_confusion_matrix(
        "confusion", "test", confusion.to_numpy(), 0, "predicted", "true", xlabels=names, ylabels=names, yaxis_reversed=True
    )
    inputs = test_set.drop(columns="target")
    certainty = model.predict_proba(inputs)[:, 1] if hasattr(model, "predict_proba") else model.decision_function(inputs)
    false_alarms, found, _ = roc_curve(truth, certainty)
    log.report_scatter2d(
        "ROC", "test", [*zip(false_alarms, found, strict=True)], 0, "false positives", "true positives", mode="lines"
    )
    print(confusion)
    return score


@PipelineDecorator.pipeline(name="model-selection", project="examples", version="1.0.0", return_value="model")
def model_selection(test_share: float = 0.25, folds: int = 5, min_score: float = 0.9, nu: float = 0.2, seed: int = 0) -> Any:
    """Return the best model, fitted to all training data, or None if none reaches min_score."""
    candidates: list[tuple[str, dict[str, Any]]] = [
        ("logistic", {"C": 0.01}),
        ("logistic", {"C": 1.0}),
        ("logistic", {"C": 100.0}),
        ("forest", {"n_estimators": 200, "max_depth": 3}),
        ("forest", {"n_estimators": 200, "max_depth": 8}),
        ("boosting", {"n_estimators": 100, "max_depth": 2}),
        ("boosting", {"n_estimators": 200, "max_depth": 3, "learning_rate": 0.05}),
        ("svm", {"kernel": "rbf", "C": 1.0}),
        ("svm", {"kernel": "rbf", "C": 10.0}),
        # nu is at most twice the share of the rarer class, here about 0.74; beyond that no such model exists.
        ("nu-svm", {"nu": nu}),
        ("neighbours", {"n_neighbors": 7}),
    ]
    tumours = load()
    train_set, test_set = split(tumours, test_share, seed)

    # No call waits for its step, so this loop is over at once and all candidates are in the queue.
    results = [
        cross_validate(train_set, number, family, options, folds, seed)
        for number, (family, options) in enumerate(candidates, start=1)
    ]

    # From here on values are needed: the pipeline waits for the candidates, in the order of the list.
    ranking = []
    for (family, options), (score, spread) in zip(candidates, results, strict=True):
        label = f"{family} " + " ".join(f"{name}={value}" for name, value in options.items())
        if score:  # the result of a candidate that failed is None
            ranking.append((float(score), float(spread), label, family, options))
        else:
            print(f"lost: {label}")
    ranking.sort(key=lambda entry: entry[0], reverse=True)
    table = pd.DataFrame([entry[2::-1] for entry in ranking], columns=["candidate", "spread", "balanced accuracy"])
    PipelineDecorator.get_logger().report_table("ranking", "candidates", 0, table.round(4))
    print(f"{'balanced accuracy':<19}candidate")
    for mean, deviation, label, _, _ in ranking:
        print(f"{mean:.3f} +- {deviation:.3f}    {label}")

    if not ranking or ranking[0][0] < min_score:
        print(f"no candidate reaches {min_score}")
        return None

    _, _, label, family, options = ranking[0]
    model = fit(train_set, family, options, seed)
    test_score = evaluate(model, test_set)
    print(f"winner: {label}, balanced accuracy on unseen tumours: {float(test_score):.3f}")
    return model


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    model_selection()
