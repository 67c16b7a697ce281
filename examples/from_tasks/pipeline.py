"""A pipeline from tasks: three scripts that know nothing of each other, chained by copies of them with other parameters.

    load -> split -> train (once per value of C, at the same time)

    pip install scikit-learn pandas
    cd examples/from_tasks
    minipipe run load.py && minipipe run split.py && minipipe run train.py     # once: registers the templates
    minipipe run pipeline.py
    minipipe run pipeline.py --set test_share=0.4 --set enough=0.99

Steps read what other steps left by the id that `parameter_override` gives them. All are cached: a second run only does
what a changed parameter asks for.
"""

from minipipe import PipelineController

REGULARISATION = (0.001, 0.1, 10.0)


def before_training(pipeline, node, parameters):
    """Leave out what is not worth a try: returning False skips the step."""
    print(f"{node.name} gets C={parameters['General/C']}, of a copy of {node.base_task_id[:8]}")
    if parameters["General/C"] < pipeline.get_parameters()["least"]:
        return False


def after_training(pipeline, node):
    """Every step that ran is over now, its children have not started."""
    _, _, accuracy = node.job.get_metric("accuracy", "test")
    good = "good enough" if accuracy >= pipeline.get_parameters()["enough"] else "too low"
    print(f"{node.name} {node.status}: accuracy {accuracy:.3f}, {good}")
    pipeline.get_logger().report_scalar(
        "accuracy by C", "test", accuracy, iteration=REGULARISATION.index(node.parameters["General/C"])
    )


pipe = PipelineController(name="wine from tasks", project="examples", version="1.0.0", add_pipeline_tags=True)
pipe.add_parameter("test_share", 0.25, "share of the wines that nobody trains with")
pipe.add_parameter("enough", 0.9, "accuracy that is good enough")
pipe.add_parameter("least", 0.01, "smaller values of C are left out")

pipe.add_step("load", base_task_project="examples", base_task_name="wine 1 load", cache_executed_step=True)
pipe.add_step(
    "split",
    base_task_project="examples",
    base_task_name="wine 2 split",
    parameter_override={"General/data_task": "${load.id}", "General/test_share": "${pipeline.test_share}"},
    cache_executed_step=True,
)
for number, strength in enumerate(REGULARISATION, start=1):
    pipe.add_step(
        f"train {number}",
        base_task_project="examples",
        base_task_name="wine 3 train",
        parameter_override={"General/split_task": "${split.id}", "General/C": strength},
        pre_execute_callback=before_training,
        post_execute_callback=after_training,
        cache_executed_step=True,
    )

if __name__ == "__main__":
    pipe.start()
