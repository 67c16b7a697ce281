"""How a project tests its pipeline: nothing is mocked but the network, and most tests start no process."""

import json

import flow
import pytest

POINTS = [[x / 10, 3 * x / 10] for x in range(1, 41)]


@pytest.fixture
def points(url_map):
    """The pipeline reads these points instead of the network."""
    url_map["https://example.com/points.json"] = json.dumps(POINTS).encode()
    return url_map


def test_the_slope_is_found(run_pipeline, points):
    run = run_pipeline("flow.py", lr=0.1).assert_completed().assert_order("load", "split", "train", "evaluate")

    assert run.steps["train"].results["slope"] == pytest.approx(3.0)
    assert run.steps["evaluate"].metrics["error"] < 1e-6
    assert len(run.steps["split"].artifacts["train_points"].get()) == 30
    assert "largest error: 0.000" in run.console


def test_another_rate_trains_again_and_loads_nothing(run_pipeline, points):
    run_pipeline("flow.py", lr=0.1)

    run = run_pipeline("flow.py", lr=0.05).assert_completed().assert_cached("load", "split")

    assert not run.steps["train"].cached
    assert run.params["lr"] == 0.05


def test_a_rate_that_is_too_high_says_so_and_skips_the_rest(run_pipeline, points):
    run_pipeline("flow.py", lr=9.9).assert_failed("train", match="the learning rate is too high").assert_skipped("evaluate")


def test_the_pipeline_is_a_function(run_pipeline, points, monkeypatch):
    monkeypatch.setattr(flow, "POINTS_URL", "https://example.com/nothing.json")  # the default was taken before

    run = run_pipeline(flow.line, lr=0.1).assert_completed("train", "evaluate")

    assert run.value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.minipipe(jobs=2, timeout_s=60)
def test_with_a_real_worker_and_a_process_for_each_step(run_pipeline, points):
    run = run_pipeline.local("flow.py", lr=0.1).assert_completed()

    assert run.steps["train"].console.startswith("epoch 0 slope")


def test_what_is_not_in_the_url_map_is_an_error(run_pipeline, url_map):
    run_pipeline("flow.py").assert_failed("load", match="not mapped")
