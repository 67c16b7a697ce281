"""Scripts that say ``import clearml``."""
