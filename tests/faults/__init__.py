"""Faults, made from outside; nothing in the package knows of them."""
