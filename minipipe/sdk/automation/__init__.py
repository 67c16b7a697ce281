"""What starts, watches and repeats tasks: jobs, searches over parameters, schedules, triggers, monitors (ClearML's `automation`)."""
