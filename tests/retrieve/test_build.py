"""Building an index: what changed is read again and nothing else, what was finished survives, damage is seen."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from didact.data.settings import Source
from didact.data.source import SourceExamples
from didact.errors import DataProblem, ResourceProblem, UsageProblem
from didact.retrieve import folder
from didact.retrieve.build import build
from didact.retrieve.folder import Folder
from didact.retrieve.index import Index
from didact.retrieve.load.files import load
from didact.retrieve.settings import Indexing
from didact.retrieve.where import stored
from tests.retrieve.toy import Counting, index, toy


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.md", "b.md", "sub/c.txt"):
        (folder / name).write_text(f"# {name}\n\n" + f"{name} tells of itself. " * 20)
    records = [{"text": f"record {number} speaks " * 15, "id": f"r{number}"} for number in range(4)]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def content(place):
    """All that is stored, but the numbers that rows have."""
    base = stored(place).connect()
    rows = base.execute(
        "SELECT file, source, title, kind, text_sha256, sha256, seal, heading, about, text, start, stop, data "
        "FROM chunk JOIN document ON document.id = document LEFT JOIN vector USING (number)"
    ).fetchall()
    files = base.execute("SELECT path, sha256, size, problem FROM file").fetchall()
    words = base.words(["tells", "speaks"], "", (), 10**6)
    base.close()
    return sorted(rows, key=lambda row: (row[0], row[1], row[10])), sorted(files), sorted(words.values())


def test_what_is_stored_stands_where_it_says(docs, place):
    facts = index(docs, place, toy())
    rows, files, _ = content(place)
    assert facts["files"] == len(files) == 4
    assert facts["documents"] == 7
    assert facts["passages"] == facts["vectors"] == len(rows)
    texts = {
        found.source: found.text
        for path in docs.rglob("*.*")
        for found in load(path, path.relative_to(docs).as_posix())
    }
    for row in rows:
        assert texts[row[1]][row[10] : row[11]] == row[9]
        assert row[11] - row[10] <= 200


def test_only_what_changed_is_read_again(docs, place, places):
    index(docs, place, toy())
    (docs / "a.md").write_text("# a.md\n\nnow something else tells")
    lines = (docs / "records.jsonl").read_text().splitlines()
    lines[2] = json.dumps({"text": "a new record speaks", "id": "r2"})
    (docs / "records.jsonl").write_text("\n".join(lines))
    (docs / "new.md").write_text("new tells")
    os.utime(docs / "b.md")
    counting = Counting()
    facts = index(docs, place, toy(counting))
    assert sorted(text.splitlines()[-1] for text in counting.texts) == [
        "a new record speaks",
        "new tells",
        "now something else tells",
    ]
    assert facts["added"] == 3
    fresh = places()
    index(docs, fresh, toy())
    assert content(place) == content(fresh)


def test_nothing_changed_and_not_a_byte_is_written(docs, tmp_path):
    index(docs, tmp_path / "ix", toy())
    before = {path.name: path.read_bytes() for path in (tmp_path / "ix").iterdir()}
    counting = Counting()
    facts = index(docs, tmp_path / "ix", toy(counting))
    assert (counting.texts, facts["added"], facts["removed"]) == ([], 0, 0)
    after = {path.name: path.read_bytes() for path in (tmp_path / "ix").iterdir()}
    assert {name: after[name] for name in before} == before


def test_what_is_gone_is_removed(docs, place, places):
    index(docs, place, toy())
    (docs / "a.md").unlink()
    lines = (docs / "records.jsonl").read_text().splitlines()
    (docs / "records.jsonl").write_text("\n".join(lines[1:]))
    facts = index(docs, place, toy())
    assert (facts["removed"], facts["added"]) == (2, 0)
    fresh = places()
    index(docs, fresh, toy())
    assert content(place) == content(fresh)
    assert not Index.open(place).search("a.md", mode="words", where={"path": "a.md"})


def test_other_settings_or_another_model_build_it_anew(docs, place):
    index(docs, place, toy())
    for settings, embedding in (({"size": 150}, toy()), ({}, toy(content="toy-2")), ({}, None)):
        said = []
        index(docs, place, embedding, said, **settings)
        assert said == [f"{stored(place)}: made with other settings, so it is built anew"]


def test_files_that_cannot_be_read_are_said_once_each_and_left_out(docs, place):
    (docs / "bad.md").write_bytes(b"\xff\xfe")
    (docs / "bad.jsonl").write_text('{"text": "good speaks"}\n{"text": 3}\n')
    said = []
    facts = index(docs, place, toy(), said)
    assert len(said) == len(facts["left out"]) == 2
    assert f"left out: {docs / 'bad.jsonl'}:2: " in said[0]
    assert f"left out: {docs / 'bad.md'}: byte 0" in said[1]
    assert facts["documents"] == 7
    again = []
    index(docs, place, toy(), again)
    assert sorted(again) == sorted(said)


def test_a_file_that_breaks_takes_its_passages_with_it(docs, place):
    index(docs, place, toy())
    (docs / "a.md").write_bytes(b"a\0b")
    assert index(docs, place, toy())["removed"] == 1


def test_nothing_to_index_is_an_error(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xff")
    with pytest.raises(DataProblem, match=r"a\.md: byte 0 \(0xff\) is not valid UTF-8"):
        index(tmp_path / "a.md", tmp_path / "ix")
    (tmp_path / "b.md").write_text(" ")
    with pytest.raises(DataProblem, match="there is no text to index"):
        index(tmp_path / "b.md", tmp_path / "ix2")


def test_several_places_are_named_below_what_they_share(docs, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/z.md").write_text("z tells")
    index([docs, tmp_path / "more"], tmp_path / "ix")
    assert {file[0] for file in content(tmp_path / "ix")[1]} >= {"docs/a.md", "docs/sub/c.txt", "more/z.md"}


def test_data_of_the_hub(tmp_path, monkeypatch):
    rows = [("org/set:row 1", {"text": "one speaks"}), ("org/set:row 2", {"text": "two speaks"})]
    monkeypatch.setattr("didact.data.source._hub_records", lambda path: iter(rows))
    source = SourceExamples(Source(path="hub:org/set"), ())
    facts = build([source], tmp_path / "ix", Indexing(embedder="none"), None, print)
    assert (facts["files"], facts["documents"]) == (1, 2)
    assert Index.open(tmp_path / "ix").search("two")[0].source == "org/set:row 2"


# --- damage and interruption -------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_is_seen_and_mended(docs, tmp_path):
    index(docs, tmp_path / "ix", toy())
    whole = content(tmp_path / "ix")
    path = tmp_path / "ix" / folder.NAME
    data = path.read_bytes()
    for place in range(7, len(data), len(data) // 9):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DataProblem, match=r"the index is damaged .*; build it again"):
            Index.open(tmp_path / "ix")
    for spoil in (data[: len(data) // 2], b"", data + b"x"):
        path.write_bytes(spoil)
        said = []
        index(docs, tmp_path / "ix", toy(), said)
        assert "damaged" in said[0]
        assert said[0].endswith("it is built anew")
        assert len(said) == 1
        assert content(tmp_path / "ix") == whole


SPOILT = ("UPDATE chunk SET start = start + 1 WHERE number = 3", "DELETE FROM vector WHERE number = 4")


@pytest.mark.parametrize("spoil", SPOILT)
def test_damage_is_seen_in_an_unfinished_index_too(docs, place, spoil):
    index(docs, place, toy())
    whole = content(place)
    stored(place).unseal()
    spoilt(place, spoil)
    said = []
    index(docs, place, toy(), said)
    assert "the passages of" in said[0]
    assert content(place) == whole


@pytest.mark.parametrize("spoil", [*SPOILT, "UPDATE word SET count = count + 1 WHERE number = 2", "DROP TABLE vector"])
def test_damage_in_a_server_is_seen_and_mended(docs, server, spoil):
    place = f"{server}#d{uuid4().hex}"
    index(docs, place, toy())
    whole = content(place)
    spoilt(place, spoil)
    with pytest.raises(DataProblem, match=r"#d.*: the index is damaged .*; build it again"):
        Index.open(place)
    said = []
    index(docs, place, toy(), said)
    assert len(said) == 1
    assert said[0].endswith("it is built anew")
    assert content(place) == whole


def spoilt(place, statement):
    base = stored(place).connect(write=True)
    base.execute(statement)
    base.close()


def test_a_schema_that_is_not_ours_is_left_alone(docs, server):
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA theirs CREATE TABLE file (precious TEXT)")
        for use in (lambda: index(docs, f"{server}#theirs", toy()), lambda: Index.open(f"{server}#theirs")):
            with pytest.raises(UsageProblem, match="#theirs: this schema is no index; name a new one"):
                use()
        connection.execute("SELECT precious FROM theirs.file")


def test_a_server_that_is_not_there_is_one_line_without_the_password(docs):
    with pytest.raises(ResourceProblem, match=r"^postgresql://me@127.0.0.1:1/x#didact_index: the index: ") as caught:
        index(docs, "postgresql://me:secret@127.0.0.1:1/x", toy())
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_finished_is_not_opened(docs, place):
    with pytest.raises(DataProblem, match="no index here"):
        Index.open(place)
    index(docs, place, toy())
    stored(place).unseal()
    with pytest.raises(DataProblem, match="unfinished"):
        Index.open(place)
    counting = Counting()
    index(docs, place, toy(counting))
    assert counting.texts == []
    assert Index.open(place)


def test_a_full_disk_loses_nothing(docs, tmp_path, monkeypatch):
    index(docs, tmp_path / "ix", toy())
    whole, connect = content(tmp_path / "ix"), Folder.connect
    (docs / "big.txt").write_text("".join(f"line {number} tells\n\n" for number in range(3000)))

    def full(folder, write=False):
        base = connect(folder, write)
        base.execute(f"PRAGMA max_page_count = {base.execute('PRAGMA page_count').fetchone()[0] + 10}")
        return base

    monkeypatch.setattr(Folder, "connect", full)
    with pytest.raises(ResourceProblem, match="database or disk is full; check the disk"):
        index(docs, tmp_path / "ix", toy())
    monkeypatch.undo()
    (docs / "big.txt").unlink()
    index(docs, tmp_path / "ix", toy())
    assert content(tmp_path / "ix") == whole


def test_two_builds_at_once(docs, place):
    index(docs, place)
    with stored(place).locked(), pytest.raises(ResourceProblem, match="at work on this index"):
        index(docs, place)
    with stored(place).locked(), pytest.raises(ResourceProblem, match="is building this index"):
        Index.open(place)


KILLED = """
import os, signal, sys
from didact.retrieve import build, folder, server, store
from didact.retrieve.where import stored
from tests.retrieve.toy import index, toy
build.BATCH = 5
left = int(sys.argv[3])
def dying(module, *names):
    for name in names:
        alter(module, name, getattr(module, name))
def alter(module, name, before):
    def after(*given, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*given, **named)
    setattr(module, name, after)
dying(store.Base, "delete", "step", "write")
dying(store.Store, "create")
dying(folder, "write_manifest", "sync_folder")
dying(os, "replace")
dying(build, "cut")
for kind in (folder.File, server.Session):
    dying(kind, "execute")
for kind in (folder.Folder, server.Server):
    dying(kind, "seal", "unseal")
index(sys.argv[1], sys.argv[2], toy())
print("done", left)
"""


def killed(docs, place, moment):
    command = [sys.executable, "-c", KILLED, str(docs), str(place), str(moment)]
    root = str(Path(__file__).parents[2])
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False)


def resumed(docs, place, moment, whole):
    done = killed(docs, place, moment)
    if done.returncode == 0:
        return False
    assert done.returncode == -signal.SIGKILL, done.stderr
    said = []
    index(docs, place, toy(), said)
    assert said == []
    assert content(place) == whole
    assert Index.open(place).facts["passages"] == len(whole[0])
    stored(place).remove()
    return True


def test_killed_and_resumed_is_as_never_killed(docs, places):
    whole, calls = as_never_killed(docs, places)
    for moment in (2, calls // 3, calls - 30, calls - 2):
        assert resumed(docs, places(), moment, whole)


def as_never_killed(docs, places):
    """What a build comes to, and at how many moments it may be killed."""
    place = places()
    done = killed(docs, place, 10**6)
    assert done.returncode == 0, done.stderr
    return content(place), 10**6 - int(done.stdout.split()[1])


@pytest.mark.slow
def test_killed_at_any_moment(docs, places):
    whole, _ = as_never_killed(docs, places)
    place, moments = places(), 0
    while resumed(docs, place, 1 + moments, whole):
        moments += 1
    assert moments > 120


def test_what_was_finished_before_the_kill_is_not_embedded_again(docs, places):
    _, calls = as_never_killed(docs, places)
    place = places()
    killed(docs, place, calls * 2 // 3)
    base = stored(place).connect()
    kept = base.counts()["vectors"]
    base.close()
    counting = Counting()
    facts = index(docs, place, toy(counting))
    assert kept > 0
    assert len(counting.texts) == facts["vectors"] - kept
