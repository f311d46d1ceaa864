"""PDF and DOCX files: parsers that strangers' files may crash, fill or stall work in a child process."""

import signal
import subprocess
import sys
from pathlib import Path

import orjson

import didact
from didact.data.words import brief
from didact.errors import DataProblem, MissingExtra
from didact.retrieve.extract import Block, Extract
from didact.retrieve.load.child import SECONDS

PATIENCE = 2 * SECONDS  # seconds on the clock
START = "import sys; sys.path.append(sys.argv[1]); from didact.retrieve.load.child import main; main(*sys.argv[2:])"
EXTRA = {"pypdf": "pypdf", "docx": "python-docx"}


def office(path: Path, kind: str) -> Extract:
    """The document in a ``pdf`` or ``docx`` file.

    Raises DataProblem for one that is encrypted, broken, scanned, or takes too much memory or time; MissingExtra.
    """
    root = str(Path(didact.__file__).parents[1])
    command = [sys.executable, "-P", "-X", "utf8", "-c", START, root, kind, str(path.absolute())]
    slow = DataProblem(f"takes more than {SECONDS} s to read", where=str(path), remedy="split it, or leave it out")
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise slow from None
    if done.returncode == -signal.SIGXCPU:
        raise slow
    try:
        said = orjson.loads(done.stdout)
    except orjson.JSONDecodeError:
        what = f"ends its reader with exit code {done.returncode}"
        raise DataProblem(what, where=str(path), remedy="open and save it again, or leave it out") from None
    if "missing" in said:
        package = EXTRA.get(str(said["missing"]).partition(".")[0], said["missing"])
        raise MissingExtra(package, "documents", f"reading {path.name}")
    if "problem" in said:
        raise DataProblem(brief(said["problem"], 200), where=str(path), remedy=said["remedy"])
    blocks = tuple(Block(kind, tuple(above), start, end) for kind, above, start, end in said.pop("blocks"))
    return Extract(blocks=blocks, **said)
