"""Concurrent training: one component called once for each set of hyper-parameters, all at once; the best one is trained on everything.

    pip install scikit-learn
    cd examples/hyperparameters
    minipipe run many.py
    minipipe run many.py --set "Cs=[0.1, 1, 10, 100]" -j 4

Calling a component does not wait, so the loop queues all trainings before the first has ended; as many run at a time as there are
slots. Touching a score waits for that training alone. Trainings of an earlier run are taken from the cache.
"""

from minipipe import Logger, PipelineDecorator


@PipelineDecorator.component(return_values=["images", "digits"], cache=True)
def load(count):
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    return images[:count], digits[:count]


@PipelineDecorator.component(return_values=["score"], cache=True, monitor_metrics=[("accuracy", "mean")])
def train(images, digits, C, gamma):
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    scores = cross_val_score(SVC(C=C, gamma=gamma), images, digits, cv=3)
    for fold, score in enumerate(scores):
        Logger.current_logger().report_scalar("accuracy", "fold", float(score), iteration=fold)
    Logger.current_logger().report_scalar("accuracy", "mean", float(scores.mean()), iteration=0)
    return float(scores.mean())


@PipelineDecorator.component(return_values=["model"])
def fit(images, digits, C, gamma):
    from sklearn.svm import SVC

    return SVC(C=C, gamma=gamma).fit(images, digits)


@PipelineDecorator.pipeline(name="digits concurrently", project="examples", version="1.0.0", return_value="best")
def pipeline(Cs: list = [0.1, 10.0], gammas: list = [0.0001, 0.001], count: int = 300):  # noqa: B006
    images, digits = load(count)
    trials = [(train(images, digits, C, gamma), C, gamma) for C in Cs for gamma in gammas]
    score, C, gamma = max(trials)
    model = fit(images, digits, C, gamma)
    print(f"{len(trials)} trainings, best C={C:g} gamma={gamma:g}: accuracy {score:.3f}, {model.n_support_.sum()} vectors kept")
    return {"C": C, "gamma": gamma, "accuracy": float(score)}


if __name__ == "__main__":
    pipeline()
