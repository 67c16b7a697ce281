"""Floor 2, processes: workers that claim, the step host that forks, the children that run a step."""
