"""How long `import clearml` takes where it means minipipe; and the first use of its names."""

import json
import time

import minipipe.clearml

minipipe.clearml.install()
start = time.perf_counter()
import clearml  # noqa: E402

imported = time.perf_counter()
clearml.Task, clearml.PipelineDecorator  # noqa: B018
print(json.dumps({"import_ms": (imported - start) * 1e3, "names_ms": (time.perf_counter() - imported) * 1e3}))
