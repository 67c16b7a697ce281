"""Controllers in this very process: what can be said of a pipeline before it starts, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe import PipelineController, PipelineDecorator, Task, errors, told
from minipipe.sdk import dag, launch, pipeline, session, versions
from minipipe.store import edits, records, tasks
from minipipe.store.home import Store


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy_store: Callable[[Path], Store]) -> Iterator[Store]:
    """The store of this process, and no pipeline from another test."""
    copy_store(tmp_path / "store").close()
    monkeypatch.setenv("MINIPIPE_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("MINIPIPE_DURABILITY", "fast")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "capture_script", lambda what: ENTRY)
    pipeline.write_down(None)
    yield session.open_store()
    session.open_store().close()
    pipeline.write_down(None)


ENTRY = {
    "kind": "script",
    "file": "/nowhere.py",
    "source": "",
    "argv": ["/nowhere.py"],
    "cwd": "/",
    "roots": ["/"],
    "imports": [],
}


def controller(**options: Any) -> PipelineController:
    return PipelineController("flow", "tests", **options)


def one(n: int = 1, m: Any = 2) -> Any:
    return n


def template(store: Store, name: str = "template", project: str = "tests", status: str = "created", **facts: Any) -> str:
    """A stored task; returns its id."""
    cells = (tasks.Parameter("General", "n", "1", "int", "1"),)
    new = tasks.NewTask(type="training", name=name, project=project, entry=ENTRY, draft=True, parameters=cells)
    made = tasks.submit(store, new)
    if status != "created":
        edits.move(store, made.id, status, force=True)
    if facts:
        edits.label(store, made.id, **facts)
    return made.uid


def stored(store: Store) -> list[str]:
    """Names of all tasks."""
    return [row["name"] for row in store.database.rows("SELECT name FROM task ORDER BY id")]


# -- names, parents, order --------------------------------------------------------------------------------------------


def test_a_step_cannot_be_called_like_another_one(store: Store) -> None:
    pipe = controller()
    pipe.add_function_step("a", one)

    with pytest.raises(ValueError, match=r"'a'.*taken"):
        pipe.add_function_step("a", one)
    with pytest.raises(ValueError, match=r"'a'.*taken"):
        pipe.add_step("a", template(store))


def test_a_step_cannot_be_called_pipeline(store: Store) -> None:
    with pytest.raises(ValueError, match="'pipeline'"):
        controller().add_function_step("pipeline", one)
    with pytest.raises(ValueError, match="'pipeline'"):
        controller().add_step("pipeline", template(store))


def test_an_unknown_parent_is_refused_with_the_nearest_name_and_nothing_is_stored(store: Store) -> None:
    pipe = controller()
    pipe.add_function_step("training", one)
    pipe.add_function_step("b", one, parents=["trainin"])

    for start in (pipe.start, pipe.start_locally, pipe.create_draft):
        with pytest.raises(ValueError, match=r"'b': no step 'trainin'(.|\n)*did you mean 'training'"):
            start()
    assert stored(store) == []


def test_a_cycle_is_refused_with_its_path(store: Store) -> None:
    pipe = controller()
    pipe.add_function_step("a", one, {"n": "${c.id}"})
    pipe.add_function_step("b", one, parents=["a"])
    pipe.add_function_step("c", one, parents=["b"])

    with pytest.raises(ValueError, match="a -> b -> c -> a"):
        pipe.start_locally(run_pipeline_steps_locally=True)
    assert stored(store) == []


def test_a_step_that_is_its_own_parent_is_a_cycle() -> None:
    with pytest.raises(ValueError, match="a -> a"):
        dag.order({"a": ["a"]})


def test_two_steps_that_wait_for_each_other_are_a_cycle() -> None:
    with pytest.raises(ValueError, match="a -> b -> a|b -> a -> b"):
        dag.order({"a": ["b"], "b": ["a"]})


def test_a_pipeline_without_steps_completes_and_leaves_nothing_behind(store: Store) -> None:
    """ClearML takes it so, too."""
    pipe = controller()
    pipe.start_locally(run_pipeline_steps_locally=True)
    assert [row["status"] for row in store.database.rows("SELECT status FROM task")] == ["completed"]


def test_each_step_comes_after_its_parents_and_else_in_the_order_given() -> None:
    assert dag.order({"a": [], "b": ["d"], "c": ["a"], "d": ["a"]}) == ["a", "d", "b", "c"]
    assert dag.order({name: [] for name in "xyz"}) == list("xyz")


def test_a_chain_of_many_thousand_steps_is_ordered() -> None:
    chain = {str(n): [str(n + 1)] for n in range(5_000)} | {"5000": []}

    assert dag.order(chain) == [str(n) for n in range(5_000, -1, -1)]


def test_explicit_parents_and_those_of_references_are_united() -> None:
    pipe = controller()
    for name in ("a", "b"):
        pipe.add_function_step(name, one, function_return=["x"])
    pipe.add_function_step("c", one, {"n": "${a.x}", "m": [{"k": ("${b.id}", "${a.id}")}]}, parents=["b"])

    assert pipe.get_pipeline_dag()["c"].parents == ["b", "a"]


# -- references -------------------------------------------------------------------------------------------------------

BAD = [
    ("${trein.id}", "no step 'trein'", "did you mean train"),
    ("${pipeline.leraning}", "no pipeline parameter 'leraning'", "did you mean learning"),
    ("${train.artefacts.x.url}", "a step has no 'artefacts'", "did you mean artifacts"),
    ("${train.artifacts.x.uri}", "an artifact has no 'uri'", "did you mean url"),
    ("${train.artifacts.x}", "an artifact needs a name and a part", "known: url"),
    ("${train.artifacts}", "an artifact needs a name and a part", "known: url"),
    ("${train.artifacts.x.url.y}", "'url' has no parts", "known: url"),
    ("${train.artifacts.x.metadata}", "metadata needs a key", "known: none"),
    ("${train.parameters}", "a parameter needs a name", ""),
    ("${train.id.x}", "an id has no parts", ""),
    ("${train}", "nothing is asked of the step", "known: id"),
    ("${pipeline}", "no pipeline parameter ''", ""),
    ("${}", "no step ''", ""),
    ("${train.script.branch}", "task_overrides", ""),
    ("${bad.id}", "cannot refer to itself", ""),
]


@pytest.mark.parametrize("way", ["function", "copy"])
@pytest.mark.parametrize(("text", "trouble", "hint"), BAD, ids=[text for text, *_ in BAD])
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: [{"k": (f"before {text} after",)}]], ids=["alone", "deep"])
def test_a_bad_reference_is_refused_before_anything_is_stored(
    store: Store, way: str, text: str, trouble: str, hint: str, wrap: Callable[[str], Any]
) -> None:
    base = template(store)
    pipe = controller()
    pipe.add_parameter("learning", 1)
    pipe.add_function_step("train", one, function_return=["x"])
    if way == "function":
        pipe.add_function_step("bad", one, {"n": wrap(text)})
    else:
        pipe.add_step("bad", base, parameter_override={"General/n": wrap(text)})

    with pytest.raises(ValueError, match="'bad'") as raised:
        pipe.start_locally(run_pipeline_steps_locally=True)
    for words in (trouble, hint, text, "argument 'n'" if way == "function" else "argument 'General/n'"):
        assert words in str(raised.value)
    assert stored(store) == ["template"]


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("${train.id", "is not closed"),
        ("${train.id} and ${pipeline.learning", "is not closed"),
        ("${${train.id}}", "has another one inside"),
        ("${${train.id", "is not closed"),
    ],
)
def test_a_reference_that_is_open_or_nested_is_refused_before_anything_is_stored(store: Store, text: str, trouble: str) -> None:
    pipe = controller()
    pipe.add_parameter("learning", 1)
    pipe.add_function_step("train", one, function_return=["x"])
    pipe.add_function_step("bad", one, {"n": [{"k": text}]})

    with pytest.raises(ValueError, match="'bad'") as raised:
        pipe.start_locally(run_pipeline_steps_locally=True)
    assert trouble in str(raised.value) and "argument 'n'" in str(raised.value)
    assert stored(store) == []


@pytest.mark.parametrize("text", ["$train", "{train.id}", "${HOME", "$(pwd) ${", "100 % ${ x"])
def test_text_that_only_looks_like_a_reference_is_text(text: str) -> None:
    pipe = controller()
    pipe.add_function_step("train", one, function_return=["x"])
    pipe.add_function_step("b", one, {"n": text})
    assert pipe._verify() == ["train", "b"]
    assert pipe.get_pipeline_dag()["b"].parents == []


def test_a_result_is_only_referred_to_in_arguments_of_functions_and_alone(store: Store) -> None:
    for text, in_copy in (("${train.x}", True), ("= ${train.x}", False)):
        pipe = controller()
        pipe.add_function_step("train", one, function_return=["x"])
        if in_copy:
            pipe.add_step("bad", template(store), parameter_override={"General/n": text})
        else:
            pipe.add_function_step("bad", one, {"n": text})
        with pytest.raises(ValueError, match="the result 'x' stands alone in an argument of a function"):
            pipe.start()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models.output.-1", "a place and a fact"),
        ("models.outptu.0.url", "did you mean output"),
        ("models.output.first.url", "the place of a model is an integer, not 'first'"),
        ("models.input.0.urls", "did you mean url"),
    ],
)
def test_a_reference_to_a_model_that_cannot_be_is_refused(reference: str, message: str) -> None:
    pipe = controller()
    pipe.add_function_step("a", one)
    pipe.add_function_step("b", one, {"n": f"${{a.{reference}}}"})
    with pytest.raises(ValueError, match=message):
        pipe.start()


def test_a_reference_in_a_queue_to_a_step_is_not_supported_yet() -> None:
    pipe = controller()
    pipe.add_function_step("a", one)
    pipe.add_function_step("b", one, execution_queue="${a.id}")
    assert pipe._verify() == ["a", "b"]
    assert pipe.get_pipeline_dag()["b"].parents == ["a"]


def test_a_key_of_parameter_override_needs_a_section(store: Store) -> None:
    with pytest.raises(ValueError, match=r"'n' has no section(.|\n)*General/n"):
        controller().add_step("a", template(store), parameter_override={"n": 1})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("monitor_metrics", [("loss",)]),
        ("monitor_metrics", ["loss"]),
        ("monitor_metrics", [(("a", "b"), "c")]),
        ("monitor_artifacts", [("a", "b", "c")]),
        ("monitor_artifacts", [1]),
        ("monitor_models", [("a", "b", "c")]),
        ("monitor_models", "model_*"),
    ],
)
def test_a_monitor_list_that_cannot_be_read_is_refused_when_the_step_is_added(store: Store, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=argument):
        controller().add_function_step("a", one, **{argument: value})
    with pytest.raises(ValueError, match=argument):
        controller().add_step("a", template(store), **{argument: value})


# -- functions --------------------------------------------------------------------------------------------------------


def test_an_unknown_argument_of_a_function_is_a_type_error_when_the_step_is_added() -> None:
    with pytest.raises(TypeError, match="'q'"):
        controller().add_function_step("a", one, {"q": 1})


def test_a_required_argument_that_is_left_out_is_none_with_a_warning_that_names_it() -> None:
    pipe = controller()
    with pytest.warns(UserWarning, match="'n'") as caught:
        pipe.add_function_step("a", lambda n, m=2: n)

    assert pipe.get_pipeline_dag()["a"].parameters == {"kwargs/n": None, "kwargs/m": 2}
    assert caught[0].filename == __file__


def test_a_result_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' twice"):
        controller().add_function_step("a", one, function_return=["x", "x"])


# -- templates --------------------------------------------------------------------------------------------------------


def chosen(**how: Any) -> str | None:
    pipe = controller()
    pipe.add_step("a", **how)
    found: str | None = pipe.get_pipeline_dag()["a"].base_task_id
    return found


def test_a_template_is_found_by_its_id_alone(store: Store) -> None:
    uid = template(store, status="failed")
    template(store)

    assert chosen(base_task_id=uid) == uid
    with pytest.raises(ValueError, match="no task 'f00'"):
        chosen(base_task_id="f00")


def test_the_newest_of_exactly_that_project_and_name_is_taken(store: Store) -> None:
    for name, project in (("template", "tests/sub"), ("template 2", "tests")):
        template(store, name, project)
    template(store)
    newest = template(store)
    template(store, "template", "elsewhere")

    assert chosen(base_task_project="tests", base_task_name="template") == newest


@pytest.mark.parametrize("status", ["created", "completed", "published", "stopped"])
def test_templates_of_these_statuses_are_taken(store: Store, status: str) -> None:
    uid = template(store, status="completed" if status == "published" else status)
    if status == "published":
        Task.by_id(uid).publish()

    assert chosen(base_task_project="tests", base_task_name="template") == uid


def test_a_failed_template_is_not_taken_and_none_is_a_value_error_that_says_what_to_do(store: Store) -> None:
    good = template(store)
    template(store, status="failed")
    assert chosen(base_task_project="tests", base_task_name="template") == good

    template(store, "bad", status="failed")
    with pytest.raises(ValueError, match=r"no task 'bad' in project 'tests'(.|\n)*step 'a'(.|\n)*minipipe run"):
        chosen(base_task_project="tests", base_task_name="bad")
    with pytest.raises(ValueError, match="names no task"):
        chosen(base_task_project="tests")


def test_an_archived_template_is_only_taken_if_there_is_no_other_and_with_a_warning(store: Store) -> None:
    old = template(store)
    archived = template(store, archived=1)
    assert chosen(base_task_project="tests", base_task_name="template") == old

    edits.label(store, Task.by_id(old).row_id, archived=1)
    with pytest.warns(UserWarning, match="archived") as caught:
        assert chosen(base_task_project="tests", base_task_name="template") in (old, archived)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"task_overrides": {"script.brnach": "x"}}, "did you mean 'script.branch'"),
        ({"task_overrides": {"script": "x"}}, "no field 'script'"),
        ({"task_overrides": {"General/x": 1}}, "parameter_override"),
        ({"clone_base_task": False, "cache_executed_step": True}, "only copies are served"),
        ({"base_task_factory": one}, "a task and a factory"),
        ({"continue_behaviour": {"continue_on_fial": True}}, "did you mean 'continue_on_fail'"),
    ],
)
def test_what_a_step_cannot_be_told_is_refused_with_the_nearest_name(store: Store, argument: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.BadPipeline) as raised:
        controller().add_step("a", template(store), **argument)
    assert words in f"{raised.value.message} {raised.value.hint}"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("${a.script}", "needs a part"),
        ("${a.tags.x}", "has no parts"),
        ("${b.comment}", "itself"),
        ("${c.comment}", "no step 'c'"),
    ],
)
def test_references_to_fields_are_checked_when_the_pipeline_is_built(store: Store, reference: str, words: str) -> None:
    pipe = controller()
    pipe.add_step("a", template(store))
    pipe.add_step("b", template(store), task_overrides={"comment": reference})
    with pytest.raises(errors.BadPipeline, match=words):
        pipe._verify()


# -- the pipeline itself ----------------------------------------------------------------------------------------------


def test_writing_a_pipeline_stores_nothing(store: Store) -> None:
    pipe = controller()
    pipe.add_parameter("n", 1)
    pipe.add_function_step("a", one)
    pipe.get_pipeline_dag(), pipe.get_parameters(), repr(pipe)

    assert stored(store) == []


def test_before_the_start_a_pipeline_does_not_run() -> None:
    pipe = controller()
    pipe.add_function_step("a", one, {"n": 5})
    node = pipe.get_pipeline_dag()["a"]

    assert (pipe.is_running(), pipe.elapsed(), pipe.wait(), pipe.is_successful()) == (False, -1.0, True, False)
    assert (pipe.get_running_nodes(), pipe.get_processed_nodes()) == ({}, {})
    assert (node.status, node.executed, node.job, node.skip_job, node.job_started) == ("pending", None, None, False, None)
    with pytest.raises(ValueError, match="not been started"):
        pipe.stop()


def test_a_version_that_is_no_pep_440_version_is_refused() -> None:
    with pytest.raises(ValueError, match="PEP 440"):
        controller(version="one")


def test_asking_for_the_task_stores_a_draft_controller_in_the_hidden_project() -> None:
    pipe = controller(version="2.1")

    task = pipe.task
    assert (task.status, task.task_type, task.name) == ("created", "controller", "flow")
    assert task.get_project_name() == "tests/.pipelines/flow"
    assert (pipe.id, pipe.version, pipe.tags) == (task.id, "2.1", [])
    pipe.add_tags("one")
    pipe.add_tags(["two"])
    assert pipe.tags == ["one", "two"]


def test_create_draft_stores_all_parameters_and_goes_on(store: Store) -> None:
    pipe = controller()
    pipe.add_parameter("n", 1, "how many")
    assert pipe.task.get_parameters() == {"Args/n": "1"}
    pipe.add_parameter("late", [1.5], "comes later")
    pipe.add_function_step("a", one)
    pipe.create_draft()

    assert (pipe.task.status, pipe.task.get_parameters()) == ("created", {"Args/n": "1", "Args/late": "[1.5]"})
    rows = store.database.rows("SELECT name, description FROM parameter ORDER BY id")
    assert [tuple(row) for row in rows] == [("n", "how many"), ("late", "comes later")]
    assert stored(store) == ["flow"], "steps become tasks when the pipeline runs"


def test_start_without_a_queue_leaves_a_draft_and_ends_the_process_well() -> None:
    pipe = controller()
    pipe.add_function_step("a", one)

    with pytest.raises(SystemExit) as left:
        pipe.start(queue=None)
    assert left.value.code == 0
    assert pipe.task.status == "created"


def test_start_enqueues_and_ends_the_process_well(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = controller()
    pipe.add_parameter("n", 3)

    with pytest.raises(SystemExit) as left:
        pipe.start("mine")
    assert left.value.code == 0
    assert (pipe.task.status, pipe.task.get_executed_queue(return_name=True)) == ("queued", "mine")
    said = capsys.readouterr().err
    assert f"run {pipe.id[:8]}" in said
    assert "no worker serves queue 'mine': the run waits; start one: minipipe worker --queue mine" in said


def test_what_minipipe_run_set_is_applied_when_all_parameters_are_known() -> None:
    with told.telling({"n": "7"}):
        pipe = controller()
        pipe.add_tags("early")  # the task is stored before the parameter is declared
        pipe.add_parameter("n", 1)
        pipe.create_draft()

    assert pipe.task.get_parameters(cast=True) == {"Args/n": 7}


def test_what_was_reported_before_the_start_goes_when_the_script_will_run_again() -> None:
    pipe = controller()
    pipe.upload_artifact("early", [1])
    pipe.get_logger().report_scalar("t", "s", 1.0, iteration=0)
    assert list(pipe.task.artifacts) == ["early"]

    with pytest.raises(SystemExit):
        pipe.start()
    assert list(pipe.task.artifacts) == []
    assert pipe.task.get_reported_scalars() == {}


def test_reports_without_any_pipeline_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="no pipeline"):
        PipelineController.get_logger()
    with pytest.raises(ValueError, match="no pipeline"):
        PipelineController.upload_artifact("x", 1)


@pytest.mark.parametrize(
    ("kind", "default", "text", "value"),
    [
        ("int", None, "7", 7),
        ("float", None, "7", 7.0),
        ("bool", None, "true", True),
        (None, 1.5, "2", 2.0),
        ("str", None, "7", "7"),
    ],
)
def test_the_declared_type_of_a_parameter_or_that_of_its_default_reads_a_text(
    kind: str | None, default: Any, text: str, value: Any
) -> None:
    with told.telling({"p": text}):
        pipe = controller()
        pipe.add_parameter("p", default, param_type=kind)
        pipe.create_draft()

    assert pipe.task.get_parameters(cast=True)["Args/p"] == value
    assert type(pipe.task.get_parameters(cast=True)["Args/p"]) is type(value)


# -- get, clone, enqueue ----------------------------------------------------------------------------------------------


def draft(
    name: str = "flow", project: str = "tests", version: str | None = None, tags: tuple[str, ...] = ()
) -> PipelineController:
    """A stored pipeline with one parameter."""
    pipe = PipelineController(name, project, version)
    pipe.add_parameter("n", 1)
    pipe.create_draft()
    if tags:
        pipe.add_tags(tags)
    return pipe


def test_get_gives_the_highest_version_and_of_equal_ones_the_newest() -> None:
    made = [draft(version=version) for version in ("1.9", "1.10", "1.10", "1.10rc1", "1.2")]
    draft("other", version="9.0")

    assert PipelineController.get(pipeline_project="tests", pipeline_name="flow").id == made[2].id
    found = PipelineController.get(pipeline_project="tests", pipeline_name="flow", pipeline_version="1.9")
    assert (found.id, found.version) == (made[0].id, "1.9")


def test_get_by_id_and_by_tag() -> None:
    first, second = draft(tags=("a", "b")), draft(tags=("c",))

    assert PipelineController.get(first.id).id == first.id
    assert PipelineController.get(pipeline_project="tests", pipeline_name="flow", pipeline_tags=["b", "x"]).id == first.id
    assert PipelineController.get(pipeline_project="tests", pipeline_name="flow").id == second.id


def test_no_such_pipeline_is_a_value_error(store: Store) -> None:
    draft()
    for how in (
        {"pipeline_id": "f00"},
        {"pipeline_project": "tests", "pipeline_name": "flaw"},
        {"pipeline_project": "tests", "pipeline_name": "flow", "pipeline_version": "7"},
        {"pipeline_id": template(store)},
        {"pipeline_id": "f00", "pipeline_name": "flow"},
        {},
    ):
        with pytest.raises(ValueError, match="pipeline"):
            PipelineController.get(**how)


def test_a_pipeline_that_was_looked_up_shows_its_facts_and_is_not_started_here() -> None:
    made = draft(version="1.2")
    found = PipelineController.get(made.id)

    assert (found.id, found.version, found.get_parameters(), found.get_pipeline_dag()) == (made.id, "1.2", {"n": 1}, {})
    assert not found.is_running()
    for start in (found.start, found.start_locally):
        with pytest.raises(ValueError, match="looked up"):
            start()


def test_looking_a_pipeline_up_leaves_reports_with_the_one_that_is_written_here() -> None:
    stored_one = draft("other")
    mine = controller()
    PipelineController.get(stored_one.id)
    mine.upload_artifact("x", [1])

    assert list(mine.task.artifacts) == ["x"]


def test_clone_makes_a_draft_that_can_be_changed_and_enqueued(capsys: pytest.CaptureFixture[str]) -> None:
    made = draft(version="1.2", tags=("kept",))
    for source in (made, made.id):
        copy = PipelineController.clone(source, comment="again", version="2.0")
        copy.task.set_parameters({"Args/n": 5})
        assert (copy.task.status, copy.version, copy.tags, copy.get_parameters()) == ("created", "2.0", ["kept"], {"n": 5})
        assert copy.task.get_project_name() == "tests/.pipelines/flow"
        assert PipelineController.enqueue(copy, "mine")["queued"] == 1
        assert copy.task.get_executed_queue(return_name=True) == "mine"
    assert made.get_parameters() == {"n": 1}


def test_clone_under_another_name_or_project_moves_to_the_hidden_project_of_that() -> None:
    made = draft(version="1.2")

    assert PipelineController.clone(made, name="flux").task.get_project_name() == "tests/.pipelines/flux"
    assert PipelineController.clone(made, project="more").task.get_project_name() == "more/.pipelines/flow"
    assert PipelineController.clone(made, name="flux").task.name == "flux"


def test_enqueue_without_a_queue_takes_the_one_that_the_pipeline_would_run_from() -> None:
    made = draft()
    PipelineController.enqueue(made.id)

    assert made.task.get_executed_queue(return_name=True) == "services"


def test_versions_are_ordered_as_pep_440_says() -> None:
    given = ["1.0.dev1", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0.post1", "1.1", "1.10", "2", "1!0.1"]

    shuffled = given[::-1]
    assert sorted(shuffled, key=versions.order) == given
    assert versions.order("1.0") == versions.order("1.0.0")
    assert versions.order("no version") < versions.order("0")


# -- nodes ------------------------------------------------------------------------------------------------------------


def test_a_node_has_clearmls_attributes_and_copies_without_its_job(store: Store) -> None:
    pipe = controller()
    uid = template(store)
    pipe.add_step("a", uid, parameter_override={"General/n": 2}, monitor_metrics=[("t", "s")], time_limit=3, stage="late")
    node = pipe.get_pipeline_dag()["a"]

    names = (
        "name base_task_id task_factory_func queue parents timeout parameters configurations task_overrides executed status"
        " clone_task job job_type job_started job_ended job_code_section skip_job cache_executed_step return_artifacts"
        " monitor_metrics monitor_artifacts monitor_models explicit_docker_image recursively_parse_parameters output_uri draft"
        " continue_behaviour continue_on_fail continue_on_abort skip_children_on_abort skip_children_on_fail stage"
    ).split()
    assert [name for name in names if not hasattr(node, name)] == []
    twin = node.copy()
    assert (twin.name, twin.base_task_id, twin.parameters, twin.timeout, twin.job) == ("a", uid, {"General/n": 2}, 3, None)
    twin.parameters["General/n"] = 9
    assert node.parameters == {"General/n": 2}
    assert (node.monitor_metrics, node.stage) == ([("t", "s")], "late")


def test_pipeline_controller_node_is_a_name() -> None:
    assert PipelineController.Node("x").name == "x"
    assert "failed" in PipelineController.valid_job_status
    assert issubclass(PipelineDecorator, pipeline.RunningPipeline)


# -- notebooks --------------------------------------------------------------------------------------------------------


def test_without_a_script_a_remote_start_is_refused_before_anything_is_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_script(what: str) -> Any:
        raise errors.CannotTravel(f"{what} cannot be started on a worker from here", hint="run_locally()")

    monkeypatch.setattr(launch, "capture_script", no_script)
    pipe = controller()
    for start in (pipe.start, pipe.create_draft):
        with pytest.raises(ValueError, match="cannot be started on a worker"):
            start()
    assert stored(store) == []


def test_stored_parameters_of_an_earlier_draft_are_not_overwritten() -> None:
    pipe = draft()
    pipe.task.set_parameter("Args/n", 8)
    pipe.create_draft()

    assert pipe.task.get_parameters(cast=True) == {"Args/n": 8}
    assert records.parameters(session.open_store(), pipe.task.row_id)[0]["type"] == "int"


def test_a_pipeline_is_made_from_a_script_that_is_not_run(tmp_path: Path) -> None:
    script = tmp_path / "flow.py"
    script.write_text("raise SystemExit('it ran')")

    first = PipelineController.create("tests", "made", script=str(script), version="2.1", argparse_args=[("n", "3")])
    second = PipelineController.create("tests", "made", script=str(script))

    assert [one.task.name for one in (first, second)] == ["made", "made #2"]
    assert [(one.task.status, one.version, one.task.task_type) for one in (first, second)] == [
        ("created", "2.1", "controller"),
        ("created", "1.0.0", "controller"),
    ]
    assert first.task.get_project_name() == "tests/.pipelines/made"
    assert first.task.get_parameter("Args/n") == "3"
    assert PipelineController.get(pipeline_project="tests", pipeline_name="made").id == first.id
    with pytest.raises(errors.BadPipeline, match="version"):
        PipelineController.create("tests", "made", script=str(script), version="one")
