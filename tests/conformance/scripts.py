"""ClearML's example scripts and what each must do, run unmodified. Which file is read where: `scenes`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.scenes import Scene

STAND_IN = str(Path(__file__).parent / "stand_in.py")
BASE, MNIST = (STAND_IN, "Keras HP optimization base"), (STAND_IN, "PyTorch MNIST train")


@dataclass(frozen=True, slots=True)
class Case:
    """A script.

    Attributes:
        script: below ClearML's ``examples``.
        expected: in words.
        check: asserts it.
        code: exit code.
        before: scripts, with arguments, that are run first in the same store.
        arguments, stdin: given to it.
        interrupt_when: Ctrl-C once the output has this.
        options: of ``minipipe run``.
        needs: why it is not run, "" if it is.
    """

    script: str
    expected: str
    check: Callable[[Scene], None]
    code: int = 0
    before: tuple[tuple[str, ...], ...] = ()
    arguments: tuple[str, ...] = ()
    stdin: str = ""
    interrupt_when: str = ""
    options: tuple[str, ...] = ()
    needs: str = ""

    def run(self, scene: Scene) -> None:
        """Run it and what comes before it, and assert what is expected."""
        for name, *arguments in self.before:
            scene.run(name, *arguments)
            assert scene.code == 0, f"{name} exited with {scene.code}: {scene.err[-800:]}"
        scene.run(self.script, *self.arguments, stdin=self.stdin, interrupt_when=self.interrupt_when, options=self.options)
        assert scene.code == self.code, f"exit {scene.code}: {scene.err[-1200:]}"
        self.check(scene)


CASES: list[Case] = []


def case(script: str, expected: str, **facts: object) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Add a case; the function asserts what is expected."""

    def add(check: Callable[[Scene], None]) -> Callable[[Scene], None]:
        CASES.append(Case(script, expected, check, **facts))  # type: ignore[arg-type]
        return check

    return add


def says(*words: str) -> Callable[[Scene], None]:
    """Asserts that the script printed something and that all of its tasks completed."""

    def check(scene: Scene) -> None:
        for word in words:
            assert word in scene.out, f"no {word!r} in {scene.out[-600:]!r}"
        ends = {name: task.status for name, task in scene.tasks().items() if task.status not in ("completed", "created")}
        assert not ends, ends

    return check


# -- pipelines ----------------------------------------------------------------------------------------------------------


@case("pipeline/decorated_pipeline_step_decorators.py", "step `step` returns 2")
def _(scene: Scene) -> None:
    assert scene.task("step").status == "completed"
    assert scene.task("step").parameters["return/return_object"] == "2"


@case("pipeline/decorated_pipeline_step_functions.py", "`step`, then `evaluate` by the reference")
def _(scene: Scene) -> None:
    step, evaluate = scene.task("step"), scene.task("evaluate")
    assert (step.status, evaluate.status) == ("completed", "completed")
    edges = scene.store.database.rows(
        "SELECT 1 FROM edge WHERE child_id = ? AND parent_id = ?", (evaluate.row["id"], step.row["id"])
    )
    assert edges


@case("pipeline/pipeline_from_decorator.py", "Accuracy=100.0%, 4 steps; again: all 4 cached")
def _(scene: Scene) -> None:
    assert "process completed" in scene.out and re.search(r"Accuracy=100\.0%|Accuracy= ?100", scene.out), scene.out[-500:]
    first = scene.seconds
    steps = [task for task in scene.tasks().values() if task.row["parent"] is not None]
    assert len(steps) == 4 and {task.status for task in steps} == {"completed"}
    scene.run("pipeline/pipeline_from_decorator.py")
    again = [task for task in scene.tasks().values() if task.row["parent"] is not None]
    assert scene.code == 0 and "process completed" in scene.out
    assert all(task.cached for task in again), {task.row["name"]: task.cached for task in again}
    scene.seconds = first


@case("pipeline/pipeline_from_functions.py", "three steps; `processed_data` is one artifact")
def _(scene: Scene) -> None:
    for name in ("step_one", "step_two", "step_three"):
        assert scene.task(name).status == "completed", scene.task(name).log[-800:]
    assert list(scene.task("step_two").artifacts) == ["processed_data"]


@case("pipeline/step1_dataset_artifact.py", "a draft; nothing after execute_remotely() ran")
def _(scene: Scene) -> None:
    task = scene.task("Pipeline step 1 dataset artifact")
    assert task.status == "created" and not task.artifacts and "Done" not in scene.out


@case("pipeline/step2_data_processing.py", "a draft with 4 parameters in General")
def _(scene: Scene) -> None:
    task = scene.task("Pipeline step 2 process dataset")
    assert task.status == "created" and len([name for name in task.parameters if name.startswith("General/")]) == 4


@case("pipeline/step3_train_model.py", "a draft with one parameter")
def _(scene: Scene) -> None:
    task = scene.task("Pipeline step 3 train model")
    assert task.status == "created" and len([name for name in task.parameters if name.startswith("General/")]) == 1


DRAFTS = tuple((f"pipeline/{name}.py",) for name in ("step1_dataset_artifact", "step2_data_processing", "step3_train_model"))


@case("pipeline/pipeline_from_tasks.py", "three stages; callbacks print; test_size 0.25; a plot; drafts untouched", before=DRAFTS)
def _(scene: Scene) -> None:
    for name in ("stage_data", "stage_process", "stage_train"):
        assert scene.task(name).status == "completed", scene.task(name).log[-800:]
    assert scene.task("stage_process").parameters["General/test_size"] == "0.25"
    assert "Cloning Task id=" in scene.out and "Completed Task id=" in scene.out, scene.out
    assert scene.task("stage_train").plots and scene.task("stage_train").models()
    assert scene.task("Pipeline step 1 dataset artifact").status == "created"


@case("pipeline/full_tabular_data_process_pipeline_example.py", "completes; best model on the pipeline; 2 data sets")
def _(scene: Scene) -> None:
    bad = {name: task.status for name, task in scene.tasks().items() if task.status not in ("completed", "published", "created")}
    assert not bad, (bad, scene.err[-600:])
    assert any(task.models() for task in scene.tasks().values() if task.row["type"] == "controller")


# -- automation ---------------------------------------------------------------------------------------------------------


@case("automation/toy_base_task.py", "`Example_Param is 1`; General/Example_Param = 1, int")
def _(scene: Scene) -> None:
    task = scene.task("Toy Base Task")
    assert scene.out == "Example_Param is 1\n" and task.status == "completed"
    assert task.parameters["General/Example_Param"] == "1" and task.types["General/Example_Param"] == "int"


@case("automation/programmatic_orchestration.py", "the clone prints 3 on a worker", before=(("automation/toy_base_task.py",),))
def _(scene: Scene) -> None:
    assert "Example_Param is 3" in scene.out
    assert scene.task("Auto generated cloned task").status == "completed"


@case("automation/manual_random_param_search_example.py", "3 clones with sampled parameters complete", before=(BASE,))
def _(scene: Scene) -> None:
    for number in range(3):
        clone = scene.task(f"Keras HP optimization base {number}")
        assert clone.status == "completed" and clone.parameters["General/batch_size"] in ("64", "96", "128", "160", "192")


# -- reporting ----------------------------------------------------------------------------------------------------------


@case("reporting/scalar_reporting.py", "4 series of 100 points, the last 0.01; two single values")
def _(scene: Scene) -> None:
    found = scene.task("Scalar reporting").scalars
    series = {name: values for name, values in found.items() if not name.startswith("Summary/")}
    assert len(series) == 4 and {len(values) for values in series.values()} == {100}
    assert series["unified graph/series A"][-1] == 0.01
    assert (found["Summary/metric A"], found["Summary/metric B"]) == ([486], [305.95])


@case("reporting/hyper_parameters.py", "all parameters of the contract's table")
def _(scene: Scene) -> None:
    (task,) = scene.tasks().values()
    found = task.parameters
    assert found["General/float"] == "9.9" and found["General/new_param"] and found["Args/argparser_int_value"] == "1"
    assert found["from TaskParameters-like object/iterations"] == "1000" and found["properties/custom1"] == "great"
    assert "'General/float': '9.9'" in scene.out


@case("reporting/artifacts.py", "8 artifacts of the documented types")
def _(scene: Scene) -> None:
    assert scene.task("Artifacts example").artifacts == {
        "train": "data-audit-table",
        "Pandas": "pandas",
        "local file": "custom",
        "dictionary": "dict",
        "Numpy Eye": "numpy",
        "pillow_image": "image",
        "local folder": "archive",
        "wildcard jpegs": "archive",
    }


@case("reporting/artifacts_retrieval.py", "reads all of them in another process", before=(("reporting/artifacts.py",),))
def _(scene: Scene) -> None:
    paths = re.findall(r"path is:\n(.*)\n", scene.out)
    assert len(paths) == 6 and all(Path(path).exists() or path.startswith(("/tmp", str(scene.folder))) for path in paths), paths
    assert "falcon" in scene.out and "None" not in scene.out


case("reporting/using_artifacts_example.py", "the second task reads the first one's file")(
    says("Finished doing stuff with some data :)")
)


@case("reporting/config_files.py", "two configuration objects with the files' text")
def _(scene: Scene) -> None:
    task = scene.task("config_files_example")
    rows = scene.store.database.rows("SELECT name, text FROM configuration WHERE task_id = ?", (task.row["id"],))
    folder = scene.folder / "reporting" / "data_samples"
    assert {row["name"]: row["text"] for row in rows} == {
        "json config file": (folder / "sample.json").read_text(),
        "yaml config file": (folder / "config_yaml.yaml").read_text(),
    }


def draws(name: str, *plots: str) -> Callable[[Scene], None]:
    """Asserts that a task completed and holds these plots."""

    def check(scene: Scene) -> None:
        task = scene.task(name)
        assert task.status == "completed"
        assert set(plots) <= set(task.plots), sorted(set(task.plots))

    return check


case("reporting/3d_plots_reporting.py", "a surface and a 3d scatter")(
    draws("3D plot reporting", "example_surface/series1", "example_scatter_3d/series_xyz")
)
case("reporting/scatter_hist_confusion_mat_reporting.py", "histograms, matrices, scatters")(
    draws(
        "2D plots reporting",
        "single_histogram/random histogram",
        "two_histogram/series 2",
        "example_confusion/ignored",
        "example_confusion_0_0_at_top/ignored",
        "example_scatter/series_xy",
        "example_scatter/series_lines+markers",
    )
)
case("reporting/pandas_reporting.py", "three tables, one of a downloaded CSV")(
    draws("Table reporting", "table pd/PD with index", "table - csv/remote csv", "table - list of lists/List of lists")
)
case("reporting/plotly_reporting.py", "the figure")(draws("plotly reporting", "iris/sepal"))
case("reporting/image_reporting.py", "five images")(
    draws(
        "Image reporting",
        "image/image float",
        "image/image uint8",
        "image/image color red",
        "image/image PIL",
        "image/image with report media",
    )
)
case("reporting/media_reporting.py", "two addresses and a file")(
    draws("Audio and video reporting", "video/big bunny", "audio/pink panther", "audio/tada")
)
case("reporting/html_reporting.py", "four pages and an address")(
    draws("HTML samples reporting", "html/url_html", "html/Spectral_html", "html/Graph_html")
)
case("reporting/matplotlib_manual_reporting.py", "only what was reported by hand")(
    draws(
        "Manual Matplotlib example",
        "Manual Reporting/Just a plot",
        "Manual Reporting/Plot as an image",
        "Manual Reporting/Image plot",
        "Seaborn example/My Plot Series 4",
    )
)


@case("reporting/matplotlib_automatic_reporting.py", "each shown figure, a title where there is one")
def _(scene: Scene) -> None:
    found = scene.task("Matplotlib example").plots
    assert "My Plot Title/My Plot Series" in found and any(name.startswith("Image Title/") for name in found), found
    assert len(found) >= 6, found


@case("reporting/text_reporting.py", "print, stderr, logging and report_text in the log; the text as a sample")
def _(scene: Scene) -> None:
    task = scene.task("Text reporting")
    for words in ("standard output test", "standard error test", "hello, this is plain text", "beautiful and simple logging"):
        assert words in task.log, words
    assert "text title/text series" in task.plots


@case("reporting/model_reporting.py", "an output model with labels at an address")
def _(scene: Scene) -> None:
    (model,) = scene.task("Model reporting example").models()
    assert model.labels == {"background": 0, "cat": 1, "dog": 2} and (model.url or "").endswith("yolov5x6.pt")


@case("reporting/model_reporting_plots.py", "plots and scalars on the model")
def _(scene: Scene) -> None:
    from minipipe.store import models, plots

    (model,) = scene.task("Model reporting plots example").models()
    assert {one.title for one in plots.of_model(scene.store, model.id)} == {"Summary Table", "Accuracy"}
    assert {row["series"]: row["value"] for row in models.points(scene.store, model.id)} == {
        "Val - mAP@50": 72.7,
        "Total epochs": 8,
    }


# -- schedules and optimisation -----------------------------------------------------------------------------------------


@case(
    "scheduler/cron_example.py",
    "start() blocks until Ctrl-C; the task is scheduled",
    before=(MNIST,),
    code=130,
    interrupt_when=" next: ",
)
def _(scene: Scene) -> None:
    assert "This line will run remotely" not in scene.out
    assert any(task.status == "stopped" for task in scene.tasks().values())


@case(
    "scheduler/trigger_example.py",
    "start_remotely() leaves a service that polls until Ctrl-C",
    code=130,
    interrupt_when="embedded pool",
)
def _(scene: Scene) -> None:
    assert any(task.row["queue"] == "services" for task in scene.tasks().values())


@case(
    "optimization/hyper-parameter-optimization/hyper_parameter_optimizer.py", "10 trials, callback, top 3 of them", before=(BASE,)
)
def _(scene: Scene) -> None:
    trials = [task for task in scene.tasks().values() if task.row["name"].startswith("Keras HP optimization base:")]
    assert len(trials) == 10 and {task.status for task in trials} == {"completed"}, [task.status for task in trials]
    assert scene.out.count("Job completed!") == 10 and "We are done, good bye" in scene.out
    (top,) = re.findall(r"^\['[0-9a-f]{32}', '[0-9a-f]{32}', '[0-9a-f]{32}'\]$", scene.out, re.MULTILINE)
    assert top


@case("optimization/hyper-parameter-optimization/multi_objective_hpo.py", "10 trials, two objectives", before=(BASE,))
def _(scene: Scene) -> None:
    trials = [task for task in scene.tasks().values() if task.row["name"].startswith("Keras HP optimization base:")]
    assert len(trials) == 10 and {task.status for task in trials} == {"completed"}
    assert "We are done, good bye" in scene.out


@case(
    "services/cleanup/cleanup_service.py",
    "asks, leaves itself to the services queue, looks for archived tasks, sleeps until Ctrl-C",
    stdin="y\n",
    options=("--logs",),
    code=130,
    interrupt_when="going to sleep for 1.0 days",
)
def _(scene: Scene) -> None:
    task = scene.task("Cleanup Service")
    assert (task.status, task.row["queue"], task.parameters["General/run_as_service"]) == ("stopped", "services", "True")


@case(
    "services/monitoring/slack_alerts.py",
    "posts that it started, from the services queue, and monitors until Ctrl-C",
    arguments=("--slack_api", "none", "--channel", "alerts"),
    options=("--logs",),
    code=130,
    interrupt_when="Refresh rate: 10.0s",
)
def _(scene: Scene) -> None:
    assert scene.task("Slack Alerts").status == "stopped"
    posted = (scene.folder / "services/monitoring/posted").read_text()
    assert "monitoring service started" in posted


# -- processes ----------------------------------------------------------------------------------------------------------


@case("advanced/multiple_tasks_single_process.py", "three completed tasks, #0 to #2")
def _(scene: Scene) -> None:
    names = [f"Same process, Multiple tasks, Task #{number}" for number in range(3)]
    assert {name: task.status for name, task in scene.tasks().items()} == dict.fromkeys(names, "completed")


@case("distributed/subprocess_example.py", "one task; Args without counter; the children's keys in General")
def _(scene: Scene) -> None:
    (task,) = scene.tasks().values()
    found = task.parameters
    assert task.status == "completed" and "Args/counter" not in found and found["Args/num_workers"] == "3"
    assert found["General/args_3"] == "some value 3" and sum(name.startswith("General/stuff_") for name in found) > 1


# -- command lines ------------------------------------------------------------------------------------------------------


def reads(name: str, out: str, **stored: str) -> Callable[[Scene], None]:
    """Asserts what a command printed last and some of what its task holds (``__`` stands for ``/``, ``_DOT_`` for a dot)."""

    def check(scene: Scene) -> None:
        task = scene.task(name)
        assert task.status == "completed" and scene.out.rstrip().endswith(out), scene.out
        wanted = {key.replace("__", "/").replace("_DOT_", "."): value for key, value in stored.items()}
        assert {key: task.parameters.get(key) for key in wanted} == wanted

    return check


case("frameworks/click/click_single_cmd.py", "asks for the name; Args", arguments=("--count", "2"), stdin="Ann\n")(
    reads("Click single command", "Hello Ann!", Args__count="2", Args__name="Ann")
)
case("frameworks/click/click_multi_cmd.py", "the chosen command; Args", arguments=("hello", "--name", "Ann"))(
    reads("Click multi command", "Hello Ann!", Args__hello="True", Args__hello__name="Ann", Args__runserver__port="8000")
)
case("frameworks/fire/fire_class_cmd.py", "5; Args", arguments=("--offset=2", "add", "1", "2"))(
    reads("Fire class command", "5", Args__add="True", Args__add__x="1", Args__offset="2", Args__multiply="False")
)
case("frameworks/fire/fire_dict_cmd.py", "12; Args", arguments=("multiply", "3", "4"))(
    reads("Fire dict command", "12", Args__multiply="True", Args__multiply__y="4", Args__add="False")
)
case("frameworks/fire/fire_grouping_cmd.py", "two burps; Args", arguments=("digestion", "run", "--volume", "2"))(
    reads("Fire grouping command", "Burp! Burp!", Args__digestion_DOT_run="True", Args__digestion_DOT_run__volume="2")
)
case("frameworks/fire/fire_multi_cmd.py", "a greeting; Args", arguments=("hello", "1", "--name", "bob"))(
    reads("Fire multi command", "Hello prefix_bob_suffix!", Args__hello="True", Args__hello__name="bob", Args__serve="False")
)
case("frameworks/fire/fire_object_cmd.py", "7; Args", arguments=("add", "3", "4"))(
    reads("Fire object command", "7", Args__add="True", Args__add__x="3")
)
case("frameworks/fire/fire_single_cmd.py", "a greeting; Args", arguments=("1", "--suffix=7"))(
    reads("Fire single command", "Hello prefix_clearml7!", Args__count="1", Args__suffix="7")
)
case("frameworks/fire/fire_typing.py", "the arguments; Args", arguments=("with_args", "1", "[2,3]"))(
    reads("Fire typing command", "With args called 1 [2, 3]", Args__with_args="True", Args__with_args__arg2="[2, 3]")
)
case("frameworks/jsonargparse/jsonargparse_command.py", "the prize; Args", arguments=("--prize", "50", "person", "Bob"))(
    reads("jsonargparse command", "Bob won 50!", Args__prize="50", Args__person_DOT_name="Bob", Args__subcommand="person")
)
case("frameworks/jsonargparse/jsonargparse_nested_namespaces.py", "nested keys in Args", arguments=("--arg2.opt1", "y"))(
    reads("jsonargparse nested namespaces", "not_nested=None)", Args__arg2_DOT_opt1="y", Args__arg1_DOT_opt1="from default 1")
)


@case("frameworks/hydra/hydra_example.py", "the override, and the whole configuration", arguments=("dataset.user=ann",))
def _(scene: Scene) -> None:
    task = scene.task("Hydra configuration")
    assert task.parameters["Hydra/dataset.user"] == "ann" and "user: ann" in scene.out
    (row,) = scene.store.database.rows("SELECT text FROM configuration WHERE task_id = ?", (task.row["id"],))
    assert "user: ann" in row["text"]


# -- frameworks ---------------------------------------------------------------------------------------------------------


@case("frameworks/scikit-learn/sklearn_joblib_example.py", "an output model of ScikitLearn, a plot")
def _(scene: Scene) -> None:
    task = scene.task("Scikit-learn joblib example")
    assert task.status == "completed" and task.plots
    assert [model.framework for model in task.models()] == ["ScikitLearn"]
    assert [model.framework for model in task.models("input")] == ["ScikitLearn"]


@case("frameworks/scikit-learn/sklearn_matplotlib_example.py", "two plots")
def _(scene: Scene) -> None:
    (task,) = scene.tasks().values()
    assert task.status == "completed" and len(task.plots) >= 2, task.plots


@case("frameworks/matplotlib/matplotlib_example.py", "each shown figure")
def _(scene: Scene) -> None:
    assert len(scene.task("Matplotlib example").plots) >= 6


@case("frameworks/xgboost/xgboost_sample.py", "two models of XGBoost, a plot")
def _(scene: Scene) -> None:
    task = scene.task("XGBoost simple example")
    assert task.status == "completed" and task.plots
    assert [model.framework for model in task.models()] == ["XGBoost"] * 2, task.models()


@case("frameworks/xgboost/xgboost_metrics.py", "rmse of train and test, 100 points each; the model")
def _(scene: Scene) -> None:
    task = scene.task("XGBoost metric auto reporting")
    assert {len(values) for values in task.scalars.values()} == {100} and len(task.scalars) == 2, task.scalars.keys()
    assert [model.framework for model in task.models()] == ["XGBoost"]


@case("frameworks/lightgbm/lightgbm_example.py", "a model of LightGBM, scalars, three plots")
def _(scene: Scene) -> None:
    task = scene.task("LightGBM")
    assert task.status == "completed" and len(task.plots) >= 3 and task.scalars
    assert [model.framework for model in task.models()] == ["LightGBM"]


def ranks(scene: Scene) -> None:
    """catboost keeps what it downloads in the current folder."""
    folder = scene.script("frameworks/catboost/catboost_example.py").parent / "catboost_cached_datasets" / "msrank"
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        source = Path(next(iter(scene.files.values()))).parent / f"msrank.{name}.tsv"
        (folder / f"{name}.tsv").write_text(source.read_text())


@case("frameworks/catboost/catboost_example.py", "a model of CatBoost; Args/iterations")
def _(scene: Scene) -> None:
    task = scene.task("CatBoost simple example")
    assert task.status == "completed" and task.parameters["Args/iterations"] == "200"
    assert [model.framework for model in task.models()] == ["CatBoost"]


HEAVY = {
    "advanced/execute_remotely_example.py": "torch",
    "distributed/pytorch_distributed_example.py": "torch",
    "frameworks/jsonargparse/pytorch_lightning_cli.py": "lightning",
    "frameworks/jsonargparse/pytorch_lightning_cli_old.py": "pytorch_lightning",
    "frameworks/tensorboardx/moviepy_tensorboardx.py": "torch",
    "frameworks/tensorboardx/pytorch_tensorboardX.py": "torch",
    "optimization/hyper-parameter-optimization/base_template_keras_simple.py": "tensorflow",
}
"""Scripts of the same folders that are not run: they need a heavy framework."""

PREPARATIONS: dict[str, Callable[[Scene], None]] = {"frameworks/catboost/catboost_example.py": ranks}


def perform(one: Case, scene: Scene) -> tuple[bool, str, float]:
    """Run a case: (as expected, what came instead, seconds of the script)."""
    prepare = PREPARATIONS.get(one.script)
    if prepare is not None:
        prepare(scene)
    start = time.monotonic()
    try:
        one.run(scene)
    except AssertionError as error:
        return False, str(error) or f"{type(error).__name__} in its check", scene.seconds or time.monotonic() - start
    return True, "as expected", scene.seconds
