"""A script that registers itself as a template: what its copies do is up to their parameters. ``template.py [PROJECT] [NAME]``"""

import json
import sys

from cases import note, wait_for

from minipipe import Task

project, name = (sys.argv[1:] + ["tests", "template"][len(sys.argv) - 1 :])[:2]
task = Task.init(project, name)
told = task.connect({"n": 1, "rate": 0.5, "text": "", "items": [1, 2], "fails": False, "note": "", "waits": ""})
task.execute_remotely()

if told["note"]:
    note(told["note"], json.dumps([told["n"], told["rate"], told["text"], told["items"]]))
if told["waits"]:
    wait_for(told["waits"])
for iteration in range(3):
    task.get_logger().report_scalar("loss", "train", told["n"] * iteration, iteration=iteration)
if told["fails"]:
    raise KeyError("the template was told to fail")
task.upload_artifact("out", {"n": told["n"]}, metadata={"kind of": "small"})
task.upload_artifact("a.dotted name", [told["n"]])
