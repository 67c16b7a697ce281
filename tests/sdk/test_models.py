"""Models: made, registered, looked up, used (ClearML's `OutputModel`, `InputModel`, `Model`, `task.models`)."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minipipe import InputModel, Model, OutputModel, PipelineController, PipelineDecorator, StorageManager, Task, errors
from minipipe.cli import root
from minipipe.sdk import notice
from minipipe.store import models, plots
from minipipe.store.home import Store
from tests.faults.sane import sane

WEIGHTS = b"weights" * 10_000


@pytest.fixture
def task(home: Store) -> Task:
    """A task that runs."""
    made = Task.create("models", "train")
    made.mark_started()
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of weights."""
    path = tmp_path / "best.pt"
    path.write_bytes(WEIGHTS)
    return path


def content_of(path: str | None) -> bytes:
    assert path is not None
    return Path(path).read_bytes()


# -- output models ------------------------------------------------------------------------------------------------------


def test_update_weights_stores_the_file_and_any_process_reads_it(task: Task, file: Path, home: Store) -> None:
    model = OutputModel(task, name="net", tags=["b", "a"], comment="mine", label_enumeration={"cat": 1}, config_dict={"k": 1})
    url = model.update_weights(weights_filename=str(file), iteration=7)
    assert file.exists(), "without an upload destination the file stays"
    seen = Model(model.id)
    assert seen.url == url == f"minipipe://{models.by_uid(home, model.id).digest}"
    path = seen.get_weights()
    assert content_of(path) == WEIGHTS and path is not None and Path(path).name == "best.pt"
    assert content_of(StorageManager.get_local_copy(url)) == WEIGHTS
    assert (seen.name, seen.tags, seen.labels, seen.config_dict) == ("net", ["a", "b"], {"cat": 1}, {"k": 1})
    assert (seen.framework, seen.task, seen.original_task, seen.project) == ("PyTorch", task.id, task.id, task.project)
    assert seen.comment.splitlines()[1:] == [f"Created by task id: {task.id}", "mine"] and "best.pt" in seen.comment
    task.mark_completed()
    assert sane(home.path) == []


def test_update_weights_with_a_uri_records_it_without_reading_it(task: Task, tmp_path: Path) -> None:
    model = OutputModel(task)
    assert model.update_weights(register_uri="s3://bucket/model.onnx") == "s3://bucket/model.onnx"
    assert (model.url, model.framework) == ("s3://bucket/model.onnx", "ONNX")
    missing = tmp_path / "later.bin"
    assert OutputModel(task).update_weights(register_uri=str(missing)) == missing.as_uri()
    assert Model(model.id).name == "train"


def test_a_model_has_no_id_before_it_is_stored_and_leaves_nothing(task: Task) -> None:
    model = OutputModel(task, name="planned", framework="PyTorch")
    model.name, model.tags, model.comment = "renamed", ["t"], "c"
    assert (model.id, model.name, model.tags, model.comment, model.url, model.published) == (
        "",
        "renamed",
        ["t"],
        "c",
        None,
        False,
    )
    assert Model.query_models() == [] and task.models["output"] == []
    assert model.set_metadata("k", "1", "int")
    assert Model(model.id).tags == ["t"]


def test_task_models_answers_by_place_and_by_name_the_newest_last(task: Task, file: Path) -> None:
    for name in ("epoch_1.pt", "epoch_2.pt"):
        OutputModel(task, name=name[:-3]).update_weights(str(file), target_filename=name)
    output = Task.get_task(task.id).models["output"]
    assert [model.name for model in output] == ["epoch_1", "epoch_2"]
    assert output[-1].name == output["epoch_2"].name == task.get_models().output.get("epoch_2").name == "epoch_2"
    assert output.keys() == ["epoch_1", "epoch_2"] and output.get("nothing") is None and task.models.input == []
    assert task.output_models_id == {"epoch_1": output[0].id, "epoch_2": output[1].id}


def test_the_same_model_gets_new_weights_and_connect_says_how_the_task_calls_it(task: Task, file: Path) -> None:
    model = OutputModel(task, name="net")
    model.connect(task, name="best")
    for number in range(3):
        file.write_bytes(b"%d" % number)
        model.update_weights(str(file))
    assert len(Model.query_models(model_name="net")) == 1
    assert content_of(task.models.output["best"].get_local_copy()) == b"2"
    assert model.comment.count("snapshot") == 1
    with pytest.raises(ValueError, match="belongs to the task"):
        model.connect(Task.create("models", "other"))


def test_a_file_is_removed_after_the_upload_only_where_a_destination_was_asked_for(task: Task, file: Path) -> None:
    OutputModel(task).update_weights(str(file), upload_uri="s3://bucket", auto_delete_file=False)
    assert file.exists()
    model = OutputModel(task)
    model.update_weights(str(file), upload_uri="s3://bucket")
    assert not file.exists() and content_of(model.get_weights()) == WEIGHTS and model.upload_storage_uri == "s3://bucket"


def test_a_folder_is_packed_and_comes_back_as_a_package(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a")
    (folder / "deep" / "b.bin").write_bytes(b"b")
    model = OutputModel(task)
    model.update_weights(str(folder))
    seen = Model(model.id)
    assert "package" in seen.system_tags
    path = seen.get_local_copy()
    assert path is not None and (Path(path) / "deep" / "b.bin").read_bytes() == b"b"
    files = seen.get_weights_package()
    assert isinstance(files, list) and {file.name for file in files} == {"a.bin", "deep"}
    packed = seen.get_local_copy(extract_archive=False)
    assert packed is not None and zipfile.ZipFile(packed).namelist() == ["a.bin", "deep/b.bin"]
    first = seen.url
    assert model.update_weights_package(weights_path=str(folder)) == first, "equal files, equal bytes"


def test_single_files_are_packed_below_their_common_folder(task: Task, tmp_path: Path) -> None:
    for name in ("x/a.bin", "x/y/b.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    model = OutputModel(task)
    model.update_weights_package(weights_filenames=[str(tmp_path / "x/a.bin"), str(tmp_path / "x/y/b.bin")])
    path = Model(model.id).get_local_copy(extract_archive=False)
    assert path is not None and zipfile.ZipFile(path).namelist() == ["a.bin", "y/b.bin"]
    with pytest.raises(ValueError, match="no package"):
        OutputModel(task, name="plain", base_model_id=None)._ensure() and Model.query_models(model_name="plain")[
            0
        ].get_weights_package()


def test_a_model_goes_on_under_base_model_id(task: Task, file: Path) -> None:
    first = OutputModel(task, name="net", comment="first")
    first.update_weights(str(file))
    other = Task.create("models", "again")
    other.mark_started()
    second = OutputModel(other, base_model_id=first.id, comment="second", tags=["t"])
    file.write_bytes(b"new")
    second.update_weights(str(file))
    seen = Model(first.id)
    assert (seen.name, seen.tags, content_of(seen.get_weights()), seen.original_task) == ("net", ["t"], b"new", other.id)
    assert "first" in seen.comment and f"Overwritten by task id: {other.id}" in seen.comment
    assert other.models.output[0].id == first.id


def test_a_published_model_cannot_be_changed(task: Task, file: Path) -> None:
    model = OutputModel(task)
    model.update_weights(str(file))
    model.publish()
    assert model.published and Model(model.id).published
    for change in (
        lambda: model.update_weights(str(file)),
        lambda: model.update_design(config_text="x"),
        lambda: model.update_labels({"a": 1}),
        lambda: setattr(model, "config_dict", {"a": 1}),
    ):
        with pytest.raises(ValueError, match="published"):
            change()
    model.archive()
    assert "archived" in model.system_tags and Model.query_models() == []
    model.unarchive()
    assert Model.query_models(only_published=True)[0].id == model.id


def test_metadata_is_text_with_a_type_that_it_is_cast_to(task: Task) -> None:
    model = OutputModel(task)
    for key, value, kind in (
        ("f", "1.5", "float"),
        ("i", "3", "int"),
        ("b", "False", "bool"),
        ("l", "[1, 2]", "list"),
        ("t", "(1, 2)", "tuple"),
        ("d", '{"a": 1}', "dict"),
        ("bad", "x", "int"),
        ("none", "x", None),
        ("odd", "x", "complex"),
    ):
        assert model.set_metadata(key, value, kind)
    seen = Model(model.id)
    assert seen.get_all_metadata_casted() == {
        "f": 1.5, "i": 3, "b": False, "l": [1, 2], "t": (1, 2), "d": {"a": 1}, "bad": "x", "none": "x", "odd": "x",
    }  # fmt: skip
    assert (seen.get_metadata("i"), seen.get_metadata_casted("i"), seen.get_metadata("no")) == ("3", 3, None)
    assert seen.get_all_metadata()["i"] == {"key": "i", "value": "3", "type": "int"}
    assert seen.get_all_metadata()["odd"]["type"] == "None"
    seen.set_all_metadata({"only": {"value": 1, "type": "int"}}, replace=False)
    assert len(seen.get_all_metadata()) == 10
    seen.set_all_metadata({"only": {"value": 2, "type": "int"}})
    assert seen.get_all_metadata_casted() == {"only": 2}


def test_a_model_takes_reports(task: Task, home: Store) -> None:
    model = OutputModel(task)
    model.report_scalar("loss", "train", 0.5, 1)
    model.report_single_value("accuracy", 0.9)
    model.report_scatter2d("t", "s", [(1, 2)], 1)
    model.report_table("t", "table", 1, [["a"], [1]])
    model.report_confusion_matrix("t", "m", [[1, 2]], 1)
    row = models.by_uid(home, model.id).id
    assert [(one["title"], one["series"], one["value"], one["iteration"]) for one in models.points(home, row)] == [
        ("loss", "train", 0.5, 1),
        ("Summary", "accuracy", 0.9, None),
    ]
    assert [(plot.kind, plot.series) for plot in plots.of_model(home, row)] == [("plot", "s"), ("table", "table"), ("plot", "m")]
    task.mark_completed()
    assert sane(home.path) == []


def test_labels_and_configuration_come_from_the_task_where_the_model_has_none(task: Task) -> None:
    task.set_model_label_enumeration({"cat": 1, "dog": 2})
    task.set_model_config(config_dict={"depth": 3})
    model = OutputModel(task)
    model.set_metadata("k", "v")
    assert (Model(model.id).labels, Model(model.id).config_dict) == ({"cat": 1, "dog": 2}, {"depth": 3})
    assert (task.get_num_of_classes(), task.get_label_num_description()) == (3, {1: "cat", 2: "dog"})
    assert task.get_model_config_dict() == {"depth": 3} and '"depth"' in task.get_model_design()
    task.set_model_label_enumeration({"a": 1, "b": 1})
    with pytest.raises(ValueError, match="one number"):
        task.get_label_num_description()


def test_what_a_model_says_of_itself_goes_to_a_task_that_says_nothing(task: Task) -> None:
    model = OutputModel(task)
    model.update_design(config_text="layers: 3")
    model.labels = {"cat": 1}
    assert (task.get_model_config_text(), task.get_labels_enumeration()) == ("layers: 3", {"cat": 1})


# -- looking up ---------------------------------------------------------------------------------------------------------


def test_models_are_queried_by_project_name_tags_and_metadata(task: Task) -> None:
    for name, tags in (("a", ["x"]), ("b", ["x", "y"]), ("c", [])):
        OutputModel(task, name=name, tags=tags).set_metadata("kind", name)

    def names(**wanted: Any) -> list[str]:
        return [model.name for model in Model.query_models(**wanted)]

    assert names() == ["c", "b", "a"]
    assert names(max_results=1) == ["c"]
    assert names(tags=["x", "-y"]) == ["a"]
    assert names(tags=["__$all", "x", "y"]) == ["b"]
    assert names(metadata={"kind": "a"}) == names(model_name="a") == names(project_name="models", model_name="a") == ["a"]
    with pytest.raises(ValueError, match="nowhere"):
        names(project_name="nowhere")
    assert InputModel(name="b", project="models", tags=["x"]).name == "b"
    with pytest.raises(ValueError, match="no model fits name='z'"):
        InputModel(name="z")
    with pytest.raises(ValueError, match="no model '0123'"):
        Model("0123")


def test_a_model_is_removed_unless_it_is_used(task: Task, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = OutputModel(task)
    model.update_weights(str(file))
    InputModel(model.id).connect(Task.create("models", "user"))
    assert Model.remove(model.id) is False and "is an input of task" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is an input of task"):
        Model.remove(model, raise_on_errors=True)
    assert Model.remove(Model(model.id), force=True) is True
    assert Model.query_models() == [] and task.models.output == []
    assert Model.remove("gone") is False
    with pytest.raises(ValueError, match="no model 'gone'"):
        Model.remove("gone", raise_on_errors=True)


def test_weights_that_cannot_be_had_are_none_and_a_line_or_an_error(task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    model = OutputModel(task)
    model.set_metadata("k", "v")
    assert Model(model.id).get_weights() is None and "none were stored yet" in capsys.readouterr().err
    model.update_weights(register_uri="file:///nowhere/m.bin")
    with pytest.raises(ValueError, match="/nowhere/m.bin"):
        Model(model.id).get_local_copy(raise_on_error=True)


# -- input models -------------------------------------------------------------------------------------------------------


def test_an_imported_model_is_registered_once(home: Store, file: Path) -> None:
    model = InputModel.import_model(
        str(file), name="pre", project="zoo", tags=["t"], config_dict={"a": 1}, create_as_published=True
    )
    assert (model.name, model.tags, model.url, model.framework) == ("pre", ["t"], file.as_uri(), "PyTorch")
    assert (model.published, model.original_task, model.config_dict) == (True, None, {"a": 1})
    assert content_of(model.get_weights()) == WEIGHTS
    assert InputModel.import_model(str(file), name="other").id == model.id
    found = InputModel.load_model(str(file))
    assert found is not None and found.id == model.id
    model.archive()
    assert InputModel.load_model(str(file)) is None
    archived = InputModel.load_model(str(file), load_archived=True)
    assert archived is not None and archived.id == model.id
    for call in (InputModel.import_model, InputModel.load_model):
        with pytest.raises(ValueError, match="weights_url"):
            call("")


def test_an_input_model_is_connected_with_its_labels_and_configuration(task: Task, file: Path) -> None:
    model = InputModel.import_model(str(file), label_enumeration={"cat": 1}, config_text="c")
    model.connect(task)
    assert task.input_models_id == {"best": model.id} and model.task == task.id
    assert (task.get_labels_enumeration(), task.get_model_config_text()) == ({"cat": 1}, "c")
    task.remove_input_models([model])
    assert task.models.input == []
    task.set_input_model(model_name=model.name, name="again")
    assert task.models["input"]["again"].id == model.id
    with pytest.raises(ValueError, match="model_id or model_name"):
        task.set_input_model()
    with pytest.raises(ValueError, match="no model 'nothing'"):
        task.set_input_model(model_name="nothing")


def test_an_empty_model_gives_the_task_its_configuration_and_labels(task: Task) -> None:
    model = InputModel.empty(config_dict={"a": 1}, label_enumeration={"x": 3})
    assert (model.id, model.config_dict, model.labels) == ("empty", {"a": 1}, {"x": 3})
    model.connect(task)
    assert task.models.input == [] and task.get_model_config_dict() == {"a": 1} and task.get_labels_enumeration() == {"x": 3}


def test_where_a_worker_executes_the_task_its_stored_input_and_labels_win(
    home: Store, as_worker: Callable[[Task], Task], file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(b"other")
    in_code, chosen = InputModel.import_model(str(file)), InputModel.import_model(str(other))
    draft = Task.create("models", "worker")
    draft.set_input_model(chosen.id, name="best")
    draft.set_model_label_enumeration({"stored": 1})
    task = as_worker(draft)
    in_code.connect(task)
    assert in_code.id == chosen.id and content_of(in_code.get_weights()) == b"other"
    labels = {"code": 2}
    assert task.connect_label_enumeration(labels) is labels and labels == {"stored": 1}
    kept = InputModel.import_model(str(file))
    kept.connect(task, ignore_remote_overrides=True)
    assert kept.id != chosen.id
    assert task.connect_label_enumeration({"code": 2}, ignore_remote_overrides=True) == {"code": 2}


def test_update_output_model_stores_a_file_under_the_tasks_name(task: Task, file: Path) -> None:
    url = task.update_output_model(str(file), name="best", comment="c", tags=["t"], iteration=3)
    model = task.models.output["best"]
    assert (model.url, model.name, model.tags) == (url, "train - best", ["t"])
    assert task.update_output_model("https://host/m.pkl", model_name="far") == "https://host/m.pkl"
    assert task.models.output["m"].name == "far"


def test_the_description_of_a_model_comes_from_a_file_and_is_read_back_as_text(task: Task, file: Path, tmp_path: Path) -> None:
    (tmp_path / "net.txt").write_text("layers: 3")
    task.update_model_desc(str(tmp_path / "net.txt"))
    assert (task.get_model_config_text(), task.labels_stats) == ("layers: 3", {})
    model = OutputModel(task)
    model.update_weights(str(file))
    assert model.config_text == Model(model.id).config_text == "layers: 3"
    with pytest.raises(OSError, match="no file"):
        task.update_model_desc("nowhere.txt")


def test_where_weights_should_go_is_recorded_and_there_is_nothing_to_wait_for(
    task: Task, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_said", set())
    monkeypatch.setattr(OutputModel, "_default_uri", None)
    model = OutputModel(task)
    for _ in range(2):
        model.set_upload_destination("s3://mine")
        OutputModel.set_default_upload_uri("s3://all")
    said = capsys.readouterr().err
    assert said.count("OutputModel.set_upload_destination") == said.count("OutputModel.set_default_upload_uri") == 1
    url = model.update_weights(str(file), auto_delete_file=False)
    assert OutputModel.wait_for_uploads(timeout=0.0) is None
    assert url.startswith("minipipe://") and content_of(Model(model.id).get_weights()) == WEIGHTS


# -- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda task, file: OutputModel(task).update_weights(), "either weights_filename or register_uri"),
        (lambda task, file: OutputModel(task).update_weights(file, register_uri="x"), "either weights_filename or register_uri"),
        (lambda task, file: OutputModel(task).update_weights("/nowhere.pt"), "/nowhere.pt"),
        (lambda task, file: OutputModel(task).update_weights_package(), "either weights_filenames or weights_path"),
        (lambda task, file: OutputModel(task).update_weights_package([file, "/nowhere"]), "/nowhere"),
        (lambda task, file: OutputModel(task, config_text="a", config_dict={"a": 1}), "not both"),
        (lambda task, file: OutputModel(task, label_enumeration={"a": "b"}), "text -> integer"),
        (lambda task, file: OutputModel(task, base_model_id="nothing"), "no model 'nothing'"),
        (lambda task, file: OutputModel(task, config_text="no json").config_dict, "no JSON"),
        (lambda task, file: task.connect_label_enumeration([1]), "a label enumeration is a dict"),
        (lambda task, file: task.update_output_model("/nowhere.pt"), "/nowhere.pt"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    task: Task, file: Path, home: Store, call: Callable[[Task, str], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(task, str(file))
    assert Model.query_models(include_archived=True) == [] and list((home.path / "tmp").iterdir()) == []


def test_without_a_task_there_is_no_output_model(home: Store) -> None:
    with pytest.raises(ValueError, match="no task runs here"):
        OutputModel()
    with pytest.raises(errors.NotSupported, match="minipipe export"):
        InputModel.empty().get_offline_mode_folder()


def test_a_task_with_a_model_is_not_used_again(home: Store, file: Path) -> None:
    first = Task.init("models", "again")
    OutputModel(first).update_weights(str(file))
    first.close()
    second = Task.init("models", "again")
    second.close()
    assert second.id != first.id


def test_weights_come_back_after_the_file_is_gone(task: Task, home: Store) -> None:
    with tempfile.NamedTemporaryFile(suffix=".pkl") as held:
        held.write(b"1")
        held.flush()
        url = OutputModel(task).update_weights(held.name)
    assert content_of(StorageManager.get_local_copy(url)) == b"1"
    assert json.loads(json.dumps(task.models.output[0].get_all_metadata())) == {}


def test_show_names_models_and_plots(task: Task, file: Path) -> None:
    OutputModel(task, name="net").update_weights(str(file))
    InputModel.import_model("https://host/base.onnx", name="base").connect(task)
    task.get_logger().report_matrix("confusion", "test", [[1]], 1)
    task.get_logger().report_media("sound", "first", 1, stream=io.BytesIO(b"1"), file_extension=".wav")
    result = CliRunner().invoke(root, ["show", task.id[:8]])
    shown = {line.split()[0]: line.split(None, 1)[1] for line in result.stdout.splitlines()[1:] if line.split()[1:]}
    assert shown["models"].startswith("base (input, ONNX, https://host/base.onnx), best (PyTorch, 70")
    assert shown["plots"].startswith("confusion/test, sound/first (audio/")


def test_upload_model_stores_a_model_of_the_pipelines_task(home: Store, as_worker: Callable[[Task], Task], file: Path) -> None:
    run = as_worker(Task.create("models", "pipeline", "controller"))
    for front in (PipelineController, PipelineDecorator):
        model = front.upload_model(front.__name__, str(file))
        assert run.models.output[front.__name__].id == model.id and file.exists()
    with pytest.raises(ValueError, match="/nowhere"):
        PipelineDecorator.upload_model("x", "/nowhere")
