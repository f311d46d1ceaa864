"""What this machine has: versions, devices, memory, disk, speed, and what is missing. Nothing here asks the network."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from didact.data.fetch import cache_dir

PACKAGES = ("didact", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic")
EXTRAS = {"gguf": ("gguf", "accelerate"), "zstd": ("zstandard",), "hub": ("datasets",)}
COMPILERS = ("c++", "g++", "clang++", "cl")
MISFIT = "torchvision::nms"  # what torch says when torchvision was built for another torch
MISFIT_REMEDY = "pip uninstall torchvision (Didact does not need it), or install both from the same index"
LOW_DISK = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One line about the machine; ``worry`` is what to do about it, if anything."""

    name: str
    value: str
    worry: str = ""


def findings(runs: Path) -> Iterator[Finding]:
    """All that is worth knowing before a run; each is looked up as it is asked for."""
    yield Finding("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    yield from (Finding(name, metadata.version(name)) for name in PACKAGES)
    yield torchvision()
    yield from devices()
    yield memory()
    yield disk("cache", cache_dir())
    yield disk("runs", runs)
    yield compiler()
    yield from (extra(name, packages) for name, packages in EXTRAS.items())
    yield from peaks()


def torchvision() -> Finding:
    """A torchvision that was built for another torch makes transformers' own imports fail."""
    if find_spec("torchvision") is None:
        return Finding("torchvision", "not installed (not needed)")
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        return Finding("torchvision", f"does not load with this torch: {said}", MISFIT_REMEDY)
    return Finding("torchvision", metadata.version("torchvision"))


def devices() -> Iterator[Finding]:
    """The processor and every accelerator."""
    import psutil
    import torch

    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    yield Finding("processor", f"{cores} cores, {torch.get_num_threads()} threads used, {_bf16()}")
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield Finding(f"cuda:{number}", f"{card.name}, {size(card.total_memory)}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "available")


def _bf16() -> str:
    from didact.engine.precision import cpu_flags

    native = sorted(cpu_flags() & {"avx512_bf16", "amx_bf16"})
    return f"bf16 by {', '.join(native)}" if native else "no bf16 instructions: fp32 is used"


def memory() -> Finding:
    """Memory that can be had now."""
    import psutil

    now = psutil.virtual_memory()
    return Finding("memory", f"{size(now.available)} free of {size(now.total)}")


def disk(name: str, folder: Path) -> Finding:
    """Space where a folder is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    worry = "" if os.access(place, os.W_OK) else f"{place} cannot be written: choose another folder"
    if not worry and free < LOW_DISK:
        worry = "a checkpoint of a small model takes 2 GB: free some space"
    return Finding(f"disk of {name}", f"{size(free)} free at {folder}", worry)


def compiler() -> Finding:
    """torch.compile makes C++ on CPUs."""
    chosen = os.environ.get("CXX", "")
    found = next((path for name in (chosen, *COMPILERS) if name and (path := shutil.which(name))), None)
    return Finding("C++ compiler", found or "none", "" if found else "set compile: off, or install g++")


def extra(name: str, packages: tuple[str, ...]) -> Finding:
    """One optional feature."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        return Finding(f"extra {name}", f"not installed: pip install 'didact[{name}]'")
    return Finding(f"extra {name}", ", ".join(f"{package} {metadata.version(package)}" for package in packages))


def peaks() -> Iterator[Finding]:
    """Measured speed of matrix products on the device a run would take."""
    import torch

    from didact.engine.mesh import pick_device
    from didact.engine.meter import measure_peak

    device = pick_device("auto")
    for dtype in (torch.float32, torch.bfloat16):
        speed = measure_peak(device, dtype)
        yield Finding(
            f"peak {str(dtype).removeprefix('torch.')}", f"{speed / 1e12:,.3g} TFLOP/s on {device.type}, measured"
        )


def size(count: int) -> str:
    """Bytes in GiB."""
    return f"{count / 2**30:,.1f} GiB"
