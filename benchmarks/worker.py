"""One run of one side in a process of its own: ``python -m benchmarks.worker JOB.json RESULT.json``."""

import importlib
import json
import resource
import sys
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.case import Job, Measured


def main() -> None:
    job = Job.from_json(json.loads(Path(sys.argv[1]).read_text()))
    module, _, function = job.run.partition(":")
    measured: Measured = getattr(importlib.import_module(f"benchmarks.{module}"), function)(job)
    scale = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    Path(sys.argv[2]).write_text(json.dumps(asdict(replace(measured, peak=peak))))


if __name__ == "__main__":
    main()
