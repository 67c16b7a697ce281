"""Search for good settings of train.py: every combination of two ranges, three copies at a time.

minipipe run train.py
minipipe run search.py
"""

from minipipe import DiscreteParameterRange, GridSearch, HyperParameterOptimizer, Task, UniformIntegerParameterRange


def tell(job_id, value, iteration, settings, best_id):
    """Called for each copy that ended."""
    if job_id == best_id:
        print(f"best so far: {value:.3f} with rate {settings['General/rate']}, batch {settings['General/batch']}")


task = Task.init(project_name="examples", task_name="search for a line", task_type="optimizer", reuse_last_task_id=False)
search = HyperParameterOptimizer(
    base_task_id=Task.get_task(project_name="examples", task_name="fit a line").id,
    hyper_parameters=[
        DiscreteParameterRange("General/rate", [0.1, 0.3, 0.5]),
        UniformIntegerParameterRange("General/batch", 4, 16, step_size=12),
    ],
    objective_metric_title="loss",
    objective_metric_series="all points",
    objective_metric_sign="min",
    optimizer_class=GridSearch,
    max_number_of_concurrent_tasks=3,
    time_limit_per_job=5.0,  # minutes
)
search.start(job_complete_callback=tell)
search.wait()
for rank, one in enumerate(search.get_top_experiments_details(top_k=3), 1):
    print(rank, round(one["metrics"]["loss/all points"]["value"], 3), one["hyper_parameters"])
search.stop()
