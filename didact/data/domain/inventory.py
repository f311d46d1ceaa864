"""Lists the documented public objects of this Python's standard library, as JSON lines.

Run as a program, in a child process: importing two hundred modules leaves traces that nobody wants
in a training process. It therefore imports nothing but the standard library it describes.
"""

import contextlib
import enum
import importlib
import inspect
import io
import json
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from types import ClassMethodDescriptorType, ModuleType
from typing import Any

# Importing these opens a browser or a window, prints a poem, needs a display, or pulls in private machinery, tests
# and retired tools; the last two lines are the platform's own spelling of modules that have a public name.
# Where only some submodules are documented, those; every public name of the others is reached from above.
DOCUMENTED = {
    "asyncio": (),
    "concurrent": ("concurrent.futures",),
    "ctypes": ("ctypes.util",),
    "json": (),
    "multiprocessing": tuple(
        f"multiprocessing.{each}" for each in ("connection", "managers", "pool", "shared_memory", "sharedctypes")
    ),
    "sqlite3": (),
    "unittest": ("unittest.mock",),
    "zoneinfo": (),
}
NOT_DOCUMENTED = """
antigravity this idlelib test turtle turtledemo tkinter lib2to3 distutils ensurepip pydoc_data
asynchat asyncore smtpd imp encodings site rlcompleter __main__ __phello__
posixpath ntpath genericpath posix nt nturl2path pyexpat sre_compile sre_constants sre_parse
opcode msilib winreg winsound msvcrt
"""
SKIPPED = frozenset(NOT_DOCUMENTED.split())
PLAIN = (type(None), bool, int, float)
ALIASES = {"posixpath": "os.path", "ntpath": "os.path", "genericpath": "os.path"}


def module_names() -> list[str]:
    """The public modules by name, those inside packages included, in order."""
    found = {"os.path"}
    for name in sys.stdlib_module_names:
        if name.startswith("_") or name in SKIPPED:
            continue
        module = load(name)
        if module is None:
            continue
        found.add(name)
        for inner in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}.", onerror=lambda _: None):
            if is_documented(inner.name) and load(inner.name) is not None:
                found.add(inner.name)
    return sorted(found)


def is_documented(name: str) -> bool:
    """Whether a submodule is one that users are told about."""
    parts = name.split(".")
    return name in DOCUMENTED.get(parts[0], (name,)) and not any(each.startswith(("_", "test")) for each in parts)


def load(name: str) -> ModuleType | None:
    """The imported module, or None where this platform does not have it."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError, SystemExit):
        return None


def public(module: ModuleType, name: str) -> Iterator[tuple[str, Any]]:
    """What a module offers as its own: its ``__all__``, or what it defines itself."""
    listed = getattr(module, "__all__", None)
    for attribute in sorted(listed if listed is not None else vars(module)):
        value = getattr(module, attribute, None)  # not vars(): some packages load lazily
        if value is None or attribute.startswith("_") or inspect.ismodule(value) or not is_described(value):
            continue
        home = ALIASES.get(getattr(value, "__module__", None) or name, getattr(value, "__module__", None) or name)
        if listed is not None or home in (name, f"_{name}") or name == "builtins":
            yield f"{name}.{attribute}".removeprefix("builtins."), value


def is_described(value: Any) -> bool:
    """Whether this is a kind of object that has a docstring of its own; constants have their type's."""
    return inspect.isroutine(value) or inspect.isclass(value) or callable(getattr(value, "__wrapped__", None))


def members(path: str, owner: type) -> Iterator[tuple[str, Any, Any]]:
    """The public attributes a class defines itself, as (path, raw, bound); no ``do_`` commands."""
    for name, raw in sorted(vars(owner).items()):
        known = isinstance(raw, (staticmethod, classmethod, property)) or inspect.isroutine(raw)
        if name.startswith(("_", "do_")) or not (known or inspect.isdatadescriptor(raw)):
            continue
        bound = raw.__get__(None, owner) if isinstance(raw, (staticmethod, classmethod)) else raw
        yield f"{path}.{name}", raw, bound


class Something:
    """A default value that is not worth showing, or must not be: a function at an address, this user's environment."""

    def __repr__(self) -> str:
        return "..."


def shown(default: Any) -> Any:
    """A default as the signature shows it: short literals as they are, anything else as ``...``."""
    if default is inspect.Parameter.empty or type(default) in PLAIN:
        return default
    if type(default) in (str, bytes) and len(default) <= 40:
        return Something() if any(path in str(default) for path in (sys.prefix, sys.base_prefix)) else default
    if type(default) in (tuple, list) and len(default) <= 4:
        return type(default)(map(shown, default))
    return {} if default == {} and type(default) is dict else Something()


def call(value: Any, bound: bool) -> str:
    """The call as a reader writes it, ``(a, *p)``: no annotations, no ``self``; empty where Python does not know."""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return ""  # nobody calls the constructor that makes new enumerations
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError, AttributeError):  # the last: a default that names a constant not yet made
        return ""
    kept = [p.replace(annotation=p.empty, default=shown(p.default)) for p in signature.parameters.values()]
    if bound and kept and kept[0].kind in (kept[0].POSITIONAL_ONLY, kept[0].POSITIONAL_OR_KEYWORD):
        kept = kept[1:]
    return str(signature.replace(parameters=kept, return_annotation=signature.empty))


def kind_of(raw: Any) -> str:
    """How the object is spoken of."""
    if inspect.isclass(raw):
        return "exception" if issubclass(raw, BaseException) else "class"
    if isinstance(raw, (staticmethod, classmethod, ClassMethodDescriptorType)):
        return "class method"
    if inspect.isroutine(raw):
        return "function"
    return "function" if callable(raw) else "attribute"


def entry(path: str, module: str, kind: str, raw: Any, signature: str) -> dict[str, str] | None:
    """One line of the inventory, or None for an object without a docstring of its own."""
    doc = getattr(raw, "__doc__", None)
    if not isinstance(doc, str) or not doc.strip():
        return None
    return {"id": path, "module": module, "kind": kind, "signature": signature, "doc": inspect.cleandoc(doc)}


def describe(path: str, module: str, value: Any) -> Iterator[dict[str, str] | None]:
    """A function, or a class and what it defines."""
    kind = kind_of(value)
    yield entry(path, module, kind, value, call(value, bound=False))
    if not inspect.isclass(value):
        return
    for inner, raw, bound in members(path, value):
        kind = {"function": "method"}.get(kind_of(raw), kind_of(raw))
        if kind in ("method", "class method"):
            # A class method of C is not bound by the line above and still shows its class.
            takes_self = not isinstance(raw, (staticmethod, classmethod))
            yield entry(inner, module, kind, raw, call(bound, takes_self))
        elif kind == "attribute":
            yield entry(inner, module, kind, raw, "")


def preference(path: str, value: Any) -> tuple[int, int, int, str]:
    """Which of several names of one object is the canonical one: the one it was defined with, then the shortest."""
    return (path.rpartition(".")[2] != getattr(value, "__name__", ""), path.count("."), len(path), path)


def inventory() -> Iterator[dict[str, str] | None]:
    """Every object once, under its canonical public name."""
    names: dict[int, tuple[tuple[int, int, int, str], str, str, Any]] = {}
    for name in module_names():
        module = load(name)
        if module is None:
            continue
        yield entry(name, name, "module", module, "")
        for path, value in public(module, name):
            found = (preference(path, value), path, name, value)
            names[id(value)] = min(names.get(id(value), found), found, key=lambda each: each[0])
    for _, path, name, value in sorted(names.values(), key=lambda each: each[1]):
        yield from describe(path, name, value)


def main() -> None:
    """Prints the inventory; whatever the imports print goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        lines = [json.dumps(each) for each in inventory() if each is not None]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
