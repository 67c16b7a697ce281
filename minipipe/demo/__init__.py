"""The built-in example: a pipeline on real data that needs nothing but the standard library."""
