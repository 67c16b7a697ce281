"""Tests of floor 3, what users write."""
