"""Floor 3, what users write: pipelines, components, tasks, loggers."""
