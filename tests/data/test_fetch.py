import hashlib
import io
import shutil
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from didact.data import fetch as module
from didact.data.fetch import ASSETS, Asset, cache_dir, fetch
from didact.errors import DataProblem, ResourceProblem, UsageProblem


def tarball(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return path


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Makes an archive the asset ``toy``, and a registry that hands it out."""

    def offered(archive: Path, **changes) -> Asset:
        asset = Asset(
            name="toy",
            registry="npm",
            package="toy",
            version="1",
            sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
            wanted=("package/*.txt",),
            limit=1000,
            licence="CC0-1.0",
            provenance="a toy",
        )
        asset = replace(asset, **changes)

        def download(asset: Asset, folder: Path) -> Path:
            return Path(shutil.copy(archive, folder))

        monkeypatch.setattr(module, "ASSETS", {"toy": asset})
        monkeypatch.setattr(module, "download", download)
        return asset

    return offered


@pytest.mark.parametrize("pack", [tarball, wheel])
def test_only_what_is_wanted_is_unpacked(offer, tmp_path, pack):
    offer(pack(tmp_path / "toy", {"package/a.txt": b"text", "package/index.js": b"code"}))
    said = []
    folder = fetch("toy", tmp_path / "cache", said.append)
    assert {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()} == {"package/a.txt"}
    assert (folder / "package/a.txt").read_bytes() == b"text"
    assert said == ["toy: a toy; npm toy 1; CC0-1.0"]


def test_the_second_time_nothing_is_downloaded_or_said(offer, tmp_path, monkeypatch):
    offer(tarball(tmp_path / "toy", {"package/a.txt": b"text"}))
    first = fetch("toy", tmp_path / "cache", lambda line: None)
    monkeypatch.setattr(module, "download", lambda *a: pytest.fail("downloaded again"))
    assert fetch("toy", tmp_path / "cache", pytest.fail) == first


def test_a_wrong_hash_is_refused_and_leaves_nothing(offer, tmp_path):
    offer(tarball(tmp_path / "toy", {"package/a.txt": b"text"}), sha256="0" * 64)
    with pytest.raises(DataProblem, match=f"expected {'0' * 64}"):
        fetch("toy", tmp_path / "cache", lambda line: None)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("pack", [tarball, wheel])
@pytest.mark.parametrize("path", ["../../out.txt", "/tmp/out.txt", "package/../../out.txt", "package/c:\\out.txt"])
def test_a_path_that_leads_outside_is_refused(offer, tmp_path, pack, path):
    offer(pack(tmp_path / "toy", {path: b"text"}), wanted=("*.txt",))
    with pytest.raises(DataProblem, match="wants to write to"):
        fetch("toy", tmp_path / "cache", lambda line: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_links_are_never_followed_or_made(offer, tmp_path):
    archive = tmp_path / "toy"
    with tarfile.open(archive, "w:gz") as packed:
        entry = tarfile.TarInfo("package/a.txt")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(entry)
    offer(archive)
    with pytest.raises(DataProblem, match="lacks package"):
        fetch("toy", tmp_path / "cache", lambda line: None)


@pytest.mark.parametrize("pack", [tarball, wheel])
def test_an_archive_that_swells_is_refused(offer, tmp_path, pack):
    offer(pack(tmp_path / "toy", {"package/a.txt": b"0" * 600, "package/b.txt": b"0" * 600}))
    with pytest.raises(DataProblem, match="more than 1000 bytes"):
        fetch("toy", tmp_path / "cache", lambda line: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_archive_at_all_is_a_problem(offer, tmp_path):
    (tmp_path / "toy").write_bytes(b"<html>captive portal</html>")
    offer(tmp_path / "toy")
    with pytest.raises(DataProblem, match="damaged"):
        fetch("toy", tmp_path / "cache", lambda line: None)


def test_an_interrupted_fetch_leaves_no_half_asset(offer, tmp_path, monkeypatch):
    asset = offer(tarball(tmp_path / "toy", {"package/a.txt": b"text", "package/b.txt": b"text"}))
    copy, copied = module.copy, []

    def interrupted(*given):
        if copied:
            raise KeyboardInterrupt
        copied.append(copy(*given))
        return copied[0]

    monkeypatch.setattr(module, "copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("toy", tmp_path / "cache", lambda line: None)
    assert copied
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(module, "copy", copy)
    folder = fetch("toy", tmp_path / "cache", lambda line: None)
    assert folder.name == asset.folder
    assert (folder / "package/b.txt").exists()


def test_what_a_killed_fetch_leaves_is_not_mistaken_for_the_asset(offer, tmp_path):
    offer(tarball(tmp_path / "toy", {"package/a.txt": b"text"}))
    (tmp_path / "cache" / ".fetch-dead" / "unpacked" / "package").mkdir(parents=True)
    assert (fetch("toy", tmp_path / "cache", lambda line: None) / "package/a.txt").exists()


def test_two_at_once_end_with_one_whole_asset(offer, tmp_path, monkeypatch):
    offer(tarball(tmp_path / "toy", {"package/a.txt": b"text"}))
    together, unpack, found = threading.Barrier(2), module.unpack, []

    def unpack_then_wait(*given):
        unpack(*given)
        together.wait(timeout=60)

    monkeypatch.setattr(module, "unpack", unpack_then_wait)
    both = [
        threading.Thread(target=lambda: found.append(fetch("toy", tmp_path / "cache", lambda line: None)))
        for _ in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert list((tmp_path / "cache").iterdir()) == [found[0]]
    assert (found[0] / "package/a.txt").read_bytes() == b"text"


def test_a_cache_that_cannot_be_written_is_a_resource_problem(offer, tmp_path):
    offer(tarball(tmp_path / "toy", {"package/a.txt": b"text"}))
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ResourceProblem, match="DIDACT_CACHE"):
        fetch("toy", tmp_path / "cache", lambda line: None)


def test_an_unknown_asset_is_refused(tmp_path):
    with pytest.raises(UsageProblem, match="no asset 'nothing'"):
        fetch("nothing", tmp_path, print)


def test_without_npm_the_remedy_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceProblem, match=r"npm is not installed; install Node\.js"):
        fetch("gutenberg", tmp_path, lambda line: None)


def test_without_a_network_the_cause_is_one_line(tmp_path):
    failing = [sys.executable, "-c", "import sys; sys.exit('some noise\\nERROR: no route to host\\nmore noise')"]
    with pytest.raises(ResourceProblem) as caught:
        module.run(failing, ASSETS["smollm2-135m-instruct"])
    assert "ERROR: no route to host; check the network" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 4


def test_a_download_without_end_is_a_problem(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    with pytest.raises(ResourceProblem, match=r"no download within 0\.2 s"):
        module.run([sys.executable, "-c", "import time; time.sleep(60)"], ASSETS["gutenberg"])


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DIDACT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / "home" / ".cache" / "didact"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "didact"
    monkeypatch.setenv("DIDACT_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def fetched(name: str, cache: Path) -> Path:
    try:
        return fetch(name, cache, lambda line: None)
    except ResourceProblem as problem:
        pytest.skip(str(problem))


@pytest.mark.download
def test_the_model_is_the_one_that_was_examined(tmp_path):
    folder = fetched("smollm2-135m-instruct", tmp_path)
    (model,) = folder.rglob("*.gguf")
    with model.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert model.stat().st_size == 98_362_432


@pytest.mark.download
def test_the_books_are_the_eighteen(tmp_path):
    books = sorted(fetched("gutenberg", tmp_path).rglob("*.txt"))
    assert len(books) == 18
    assert books[0].read_text(encoding="latin-1").startswith("[Emma by Jane Austen 1816]")


@pytest.mark.download
def test_the_lexicon_is_the_one_that_was_examined(tmp_path):
    (lexicon,) = fetched("vader", tmp_path).rglob("vader_lexicon.txt")
    assert len(lexicon.read_text(encoding="utf-8").splitlines()) == 7520
