"""From the names in a recipe to examples, and what happens when the names lead nowhere."""

import gzip
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.data.example import Conversation, Document
from didact.data.settings import Data
from didact.data.source import examples, fingerprint
from didact.errors import DataProblem, MissingExtra, ResourceProblem, UsageProblem


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with data of many kinds."""
    monkeypatch.chdir(tmp_path)
    write("data/train.jsonl", *(f"document {i}" for i in range(40)))
    write("data/test.jsonl", "held out")
    write("docs/b.jsonl", "b1", "b2")
    Path("docs/a.md").write_text("# a")
    Path("docs/deep").mkdir()
    Path("docs/deep/c.txt").write_text("c")
    Path("docs/deep/d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "d"}\n'))
    Path("docs/.hidden.txt").write_text("no")
    Path("docs/.git").mkdir()
    Path("docs/.git/e.txt").write_text("no")
    Path("docs/picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def write(name, *texts):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def data(*sources):
    return Data.model_validate(list(sources))


def texts(source):
    return [example.text for example in source]


def read(path, outputs=None, seed=0):
    (source,) = examples(data(path), outputs or {}, seed)
    return texts(source)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("data/test.jsonl", ["held out"]),
        ("./data/test.jsonl", ["held out"]),
        ("docs", ["# a", "b1", "b2", "c", "d"]),
        ("docs/", ["# a", "b1", "b2", "c", "d"]),
        ("docs/*", ["# a", "b1", "b2"]),
        ("docs/**", ["# a", "b1", "b2", "c", "d"]),
        ("docs/**/*.txt", ["c"]),
        ("docs/[ab].*", ["# a", "b1", "b2"]),
        ("d*/test.jsonl", ["held out"]),
        ("first/output", ["of a stage"]),
        ("first/folder", ["# a", "b1", "b2", "c", "d"]),
    ],
)
def test_what_a_name_stands_for(path, wanted, here):
    outputs = {"first/output": write("runs/1/out.jsonl", "of a stage"), "first/folder": Path("docs")}
    assert read(path, outputs) == wanted


def test_an_output_comes_before_a_file(here):
    assert read("data/train.jsonl", {"data/train.jsonl": Path("data/test.jsonl")}) == ["held out"]


def test_a_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert read("~/data/test.jsonl") == ["held out"]
    assert read("~/data/t?st.jsonl") == ["held out"]


def test_a_file_with_brackets_in_its_name(here):
    write("data/new[1].jsonl", "brackets")
    assert read("data/new[1].jsonl") == ["brackets"]


def test_sources_stay_apart_and_can_be_read_again(here):
    first, second = examples(data("docs", {"path": "data/test.jsonl", "weight": 2}), {}, 0)
    assert texts(first) == texts(first) == ["# a", "b1", "b2", "c", "d"]
    assert texts(second) == ["held out"]
    assert second.source.weight == 2
    assert [file.name for file in first.files] == ["a.md", "b.jsonl", "c.txt", "d.jsonl.gz"]
    assert [file.name for file in first.skipped] == ["picture.png"]
    one, other = iter(first), iter(first)
    assert next(one) == next(other) == Document("docs/a.md:1", "# a")


def test_files_of_one_source_may_differ_in_format(here):
    Path("docs/e.json").write_text('[{"instruction": "a", "output": "b"}]')
    (source,) = examples(data("docs"), {}, 0)
    assert [type(example) for example in source].count(Conversation) == 1


def test_a_link_back_to_its_folder_is_followed_once(here):
    Path("docs/deep/loop").symlink_to(Path("docs").absolute())
    Path("docs/linked").symlink_to(Path("data").absolute())
    assert sorted(read("docs")) == sorted(["# a", "b1", "b2", "c", "d", *read("data")])


# --- names that lead nowhere -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("data/trian.jsonl", "data/trian.jsonl: no such file, folder or output; did you mean data/train.jsonl?"),
        ("dta/train.jsonl", "did you mean data?"),
        ("data/other", "data holds test.jsonl, train.jsonl"),
        ("data/train", "did you mean data/train.jsonl?"),
        ("frst/output", "frst/output: no such file, folder or output; did you mean first/output?"),
        ("first/outputs", "did you mean first/output?"),
        ("nowhere.jsonl", "holds data, docs"),
        ("nowhere/at/all.jsonl", "holds data, docs"),
        ("data/\0", "no such file"),
        ("data/*.csv", "data/*.csv: no files there"),
        ("empty", "empty: no files there"),
        ("hub:name", "hub:name: not a name on the hub; wanted hub:org/name"),
        ("hub:", "not a name on the hub"),
        ("hub:a/b/c", "not a name on the hub"),
    ],
)
def test_a_name_that_leads_nowhere(path, fragment, here):
    Path("empty").mkdir()
    with pytest.raises(UsageProblem) as caught:
        examples(data(path), {"first/output": Path("data/test.jsonl")}, 0)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("docs/picture.png", "docs/picture.png: unknown kind of file '.png'; known are .jsonl"),
        ("docs/*.png", "no file of a known kind (picture.png); known are .jsonl"),
        ("pictures", "pictures: no file of a known kind (a.png, b.png)"),
    ],
)
def test_nothing_readable(path, fragment, here):
    Path("pictures").mkdir()
    for name in "ab":
        Path(f"pictures/{name}.png").touch()
    with pytest.raises(DataProblem) as caught:
        examples(data(path), {}, 0)
    assert fragment in str(caught.value)
    assert caught.value.code == 3


def test_one_empty_file_of_a_folder_is_named(here):
    Path("docs/deep/empty.txt").touch()
    with pytest.raises(DataProblem, match=r"docs/deep/empty.txt: no examples"):
        read("docs")


def test_a_folder_without_permission(here, monkeypatch):
    scandir = os.scandir

    def refuse(path):  # root, who runs tests in containers, may open anything
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ResourceProblem, match=r"docs/deep: cannot be read: Permission denied"):
        examples(data("docs"), {}, 0)


# --- samples -----------------------------------------------------------------------------------------------


def test_a_sample_keeps_order_and_depends_on_the_seed(here):
    everything = read("data/train.jsonl")
    sample = read("data/train.jsonl#10", seed=1)
    assert len(sample) == 10
    assert sample == sorted(sample, key=everything.index)
    assert sample != everything[:10]
    assert sample == read("data/train.jsonl#10", seed=1)
    assert sample != read("data/train.jsonl#10", seed=2)
    assert set(read("data/train.jsonl#5", seed=1)) < set(sample)
    assert read("data/train.jsonl#40") == everything


def test_a_sample_crosses_files(here):
    chosen = {text for seed in range(30) for text in read("docs#2", seed=seed)}
    assert chosen == {"# a", "b1", "b2", "c", "d"}


def test_the_sample_of_a_seed_is_pinned(here):
    """Resuming a run on another machine or Python must find the same sample."""
    assert read("data/train.jsonl#3", seed=0) == ["document 9", "document 11", "document 24"]


def test_too_large_a_sample(here):
    (source,) = examples(data("data/train.jsonl#41"), {}, 0)
    with pytest.raises(UsageProblem, match=r"data/train.jsonl: a sample of 41 is more than the 40 examples there are"):
        next(iter(source))


# --- fingerprints ------------------------------------------------------------------------------------------


def test_the_fingerprint_knows_names_contents_and_settings(here):
    base = fingerprint(data("docs"), {})
    assert len(base) == 64
    assert fingerprint(data("docs"), {}) == base
    assert fingerprint(data("docs#2"), {}) != base
    assert fingerprint(data({"path": "docs", "weight": 2}), {}) != base
    assert fingerprint(data("docs", "docs"), {}) != base
    Path("docs/picture.png").write_bytes(b"another")  # not read, so it does not count
    assert fingerprint(data("docs"), {}) == base
    Path("docs/a.md").write_text("# A")
    changed = fingerprint(data("docs"), {})
    assert changed != base
    Path("docs/a.md").rename("docs/z.md")
    assert fingerprint(data("docs"), {}) not in (base, changed)


def test_the_fingerprint_follows_an_output(here):
    first, second = write("runs/1/out.jsonl", "one"), write("runs/2/out.jsonl", "one")
    same = fingerprint(data("stage/out"), {"stage/out": first})
    assert fingerprint(data("stage/out"), {"stage/out": second}) == same
    write("runs/2/out.jsonl", "two")
    assert fingerprint(data("stage/out"), {"stage/out": second}) != same


def test_the_fingerprint_of_a_source(here):
    def of(source, seed=0):
        return examples(data(source), {}, seed)[0].fingerprint

    assert of("docs") == of({"path": "docs", "weight": 2}) == of("docs", seed=1)  # the weight is the stream's business
    assert len({of("docs"), of("docs#2"), of("docs#2", seed=1), of("docs#3"), of("data")}) == 5


def test_the_fingerprint_does_not_depend_on_where_the_data_lies(here):
    base = examples(data("docs"), {}, 0)[0].fingerprint
    Path("docs").rename("elsewhere")
    assert examples(data("elsewhere"), {}, 0)[0].fingerprint == base
    assert examples(data(str(here / "elsewhere")), {}, 0)[0].fingerprint == base


# --- the hub -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["hub:org/name", "hub:org/name:test", "org/name", "org/name-v1.5:train[:10%]"])
def test_the_hub_without_its_extra(path, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"needs datasets; pip install 'didact\[hub\]'"):
        examples(data(path), {}, 0)


@pytest.fixture
def hub(monkeypatch):
    """The two names of ``datasets`` that we use."""

    class DatasetsError(Exception):
        pass

    def load_dataset(name, split):
        if name == "org/gone":
            raise FileNotFoundError("Dataset 'org/gone' doesn't exist\non the Hub")
        if split not in ("train", "empty"):
            raise ValueError(f'Unknown split "{split}"')
        return [{"text": f"{name} {i}", "other": None} for i in range(3 if split == "train" else 0)]

    module = ModuleType("datasets")
    vars(module).update(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=DatasetsError))
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_the_hub(hub, here):
    assert read("hub:org/name") == read("org/name") == ["org/name 0", "org/name 1", "org/name 2"]
    assert len(read("org/name:train#2")) == 2
    (source,) = examples(data("org/name"), {}, 0)
    assert next(iter(source)).where == "org/name:row 1"
    assert source.files == ()
    assert source.fingerprint == examples(data("org/name"), {}, 0)[0].fingerprint
    assert source.fingerprint != examples(data("org/other"), {}, 0)[0].fingerprint


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("org/gone", "org/gone: Dataset 'org/gone' doesn't exist on the Hub; check the name"),
        ("org/name:dev", 'org/name:dev: Unknown split "dev"'),
        ("org/name:empty", "org/name:empty: no examples"),
    ],
)
def test_the_hub_says_no(path, fragment, hub, here):
    with pytest.raises(DataProblem) as caught:
        read(path)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


# --- round trips -------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1), st.integers(0, 9))
def test_texts_survive_the_way_from_disk(tmp_path_factory, wanted, seed):
    path = write(tmp_path_factory.mktemp("source") / "a.jsonl", *wanted)
    assert read(str(path)) == wanted
    assert read(f"{path}#{len(wanted)}", seed=seed) == wanted
