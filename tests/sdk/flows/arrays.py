"""NumPy's and pandas' values as arguments and results."""

from __future__ import annotations

import numpy as np
import pandas as pd
from cases import case, main, parameters, steps

from minipipe import PipelineDecorator, Task


@PipelineDecorator.component(return_values=["value"])
def same(value):
    return value


@PipelineDecorator.component(return_values=["kind"])
def kind_of(value):
    return f"{type(value).__module__}.{type(value).__qualname__}"


@PipelineDecorator.component(return_values=["total"])
def total(array, factor):
    array[0] += 100  # its own copy
    return array.sum() * factor


@case
def numpy_scalar_arguments_keep_their_type():
    for value in (np.float64(1.5), np.int64(3), np.bool_(True)):
        assert kind_of(value) == f"numpy.{type(value).__name__}"


@case
def a_step_may_write_into_an_array_and_a_later_step_gets_the_stored_one():
    array = same(np.arange(5))
    assert [total(array, 2) for _ in range(2)] == [220, 220]
    assert array.sum() == 10


@case
def large_arrays_travel():
    array = np.arange(500_000)
    np.testing.assert_array_equal(np.asarray(same(array)), array)
    np.testing.assert_array_equal(same([same(1), array])[1], array)


@case
def arrays_come_back_equal_with_shape_and_dtype():
    for value in (
        np.arange(6, dtype="int16").reshape(2, 3),
        np.asfortranarray(np.ones((2, 3))),
        np.array("2020-01-01", dtype="datetime64[D]"),
        np.array([1, "a", None], dtype=object),
        np.zeros((0, 3)),
        np.arange(10)[::2],
    ):
        found = same(value)
        np.testing.assert_array_equal(np.asarray(found), value)
        assert (found.dtype, found.shape) == (value.dtype, value.shape)


@case
def frames_come_back_equal_dtypes_included():
    frame = pd.DataFrame(
        {"n": np.arange(3, dtype="int8"), "c": pd.Categorical(["a", "b", "a"]), "t": pd.date_range("2020", periods=3, tz="UTC")},
        index=pd.MultiIndex.from_tuples([(1, "x"), (1, "y"), (2, "x")], names=["i", "j"]),
    )
    found = same(frame)
    pd.testing.assert_frame_equal(found.copy(), frame)
    assert Task.get_task(steps()["same"]["uid"]).artifacts["value"].type == "pandas"


@case
def numpy_scalars_come_back_as_they_are():
    found = same(np.float64(0.25))
    assert found == 0.25
    assert found.__class__ is np.float64


@case
def a_sub_class_of_a_scalar_is_shown_as_a_parameter_too():
    assert kind_of(np.float64(1.5)) == "numpy.float64"
    assert parameters("kind_of")["kwargs/value"] == "1.5"


if __name__ == "__main__":
    main()
