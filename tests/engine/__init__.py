"""Tests of floor 2: real workers, real hosts, real steps."""
