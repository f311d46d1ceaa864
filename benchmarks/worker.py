"""One run of one side in a process of its own: ``python -m benchmarks.worker JOB.json RESULT.json``."""

import importlib
import json
import re
import resource
import sys
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.case import Job, Measured


def main() -> None:
    job = Job.from_json(json.loads(Path(sys.argv[1]).read_text()))
    module, _, function = job.run.partition(":")
    measured: Measured = getattr(importlib.import_module(f"benchmarks.{module}"), function)(job)
    Path(sys.argv[2]).write_text(json.dumps(asdict(replace(measured, peak=measured.peak or peak()))))


def peak(process: int | str = "self") -> int:
    """Most memory a process has held, in bytes. Linux's getrusage would count its parent before the exec too."""
    status = Path(f"/proc/{process}/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


if __name__ == "__main__":
    main()
