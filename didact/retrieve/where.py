"""Where an index lies: a folder, a server by its URL, or a run that points at one."""

from pathlib import Path

from didact.errors import DataProblem
from didact.retrieve.folder import Folder
from didact.retrieve.store import Store

POINTER = "index"  # in a run folder: a line with the path of its index
SERVER = "index.url"  # in the folder of an index that lies in a server: its URL, and what it then was
SCHEMES = ("postgresql://", "postgres://")


def stored(where: str | Path) -> Store:
    """The place of an index that is there or to be made."""
    if str(where).startswith(SCHEMES):
        from didact.retrieve.server import Server

        return Server(str(where))
    folder = Path(where)
    url = folder / SERVER
    return stored(url.read_text().split()[0]) if url.is_file() else Folder(folder)


def find(where: str | Path) -> Store:
    """The index behind itself, a run's pointer file or the run. Raises DataProblem where there is none."""
    path = Path(where)
    pointer = path / POINTER if (path / POINTER).is_file() else path
    if pointer.is_file():
        where = pointer.parent / pointer.read_text(errors="replace")[:4096].strip()
    store = stored(where)
    if not store.begun():
        remedy = "make one with didact index, or with the stage index"
        raise DataProblem("there is no index here", where=str(where), remedy=remedy)
    return store
