"""A module next to the flow scripts."""

from minipipe import component


def double(n):
    return 2 * n


@component(return_values=["n"])
def tripled(n):
    return double(n) + n


def calls_a_helper(n):
    return helping(n)  # noqa: F821
