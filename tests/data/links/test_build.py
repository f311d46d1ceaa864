import json

import pytest

from didact.data.links.build import build
from didact.data.settings import Data, Pairing
from didact.data.source import examples
from didact.errors import DataProblem


def ring(folder, count=40, links=True):
    """Documents of three segments, each pointing at the next."""
    lines = (
        {"id": f"p{i}", "text": " ".join(f"p{i}w{n:04}" for n in range(12)), "links": [f"p{(i + 1) % count}"] * links}
        for i in range(count)
    )
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return examples(Data.model_validate(str(folder / "a.jsonl")), {}, 0)


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_no_document_is_on_both_sides(tmp_path):
    said = []
    build(ring(tmp_path), Pairing(segment=32, holdout=0.5), 0, tmp_path / "out", said.append)
    sides = [{line["id"] for line in lines(tmp_path / "out", f"documents{s}.jsonl")} for s in ("", ".heldout")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    for side, suffix in zip(sides, ("", ".heldout"), strict=True):
        pairs = lines(tmp_path / "out", f"pairs{suffix}.jsonl")
        assert pairs
        assert {name for pair in pairs for name in pair["pages"]} <= side
        assert {pair["relation"] for pair in pairs} == {"contiguous", "random", "linked"}
    assert said[0] == "40 documents with 40 links between them; 0 more are broken, 0 lead elsewhere"
    assert "segments cannot be first in each" in said[1]


def test_the_same_bytes_every_time(tmp_path):
    one, two = (
        build(ring(tmp_path), Pairing(segment=32, holdout=0.5), 3, tmp_path / name, lambda line: None)
        for name in ("a", "b")
    )
    assert one == two
    assert one["counts"]["pairs.jsonl"] > 0


def test_without_links_it_says_so_and_goes_on(tmp_path):
    said = []
    build(ring(tmp_path, links=False), Pairing(segment=32), 0, tmp_path / "out", said.append)
    pairs = [pair["relation"] for pair in lines(tmp_path / "out", "pairs.jsonl")]
    assert abs(pairs.count("contiguous") - pairs.count("random")) <= 1
    assert "linked" not in pairs
    assert "no document points at another, so pairs are contiguous and random only; or set graph: neighbours" in said[1]


def test_only_linked_without_links_is_refused(tmp_path):
    with pytest.raises(DataProblem, match=r"a\.jsonl: no document points at another; set graph: neighbours"):
        build(ring(tmp_path, links=False), Pairing(relations=("linked",)), 0, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out/pairs.jsonl").exists()


def test_documents_of_one_segment_have_nothing_contiguous(tmp_path):
    with pytest.raises(DataProblem, match=r"no segment of the .* can be first in a pair of every relation .*; lower"):
        build(ring(tmp_path), Pairing(segment=1000), 0, tmp_path / "out", lambda line: None)
    plan = Pairing(segment=1000, relations=("random", "linked"), holdout=0.5)
    build(ring(tmp_path), plan, 0, tmp_path / "out", lambda line: None)


def test_too_little_held_out_is_refused(tmp_path):
    with pytest.raises(DataProblem, match=r"held-out documents can be first .*; raise holdout, or set it to 0"):
        build(ring(tmp_path, 10), Pairing(segment=32, holdout=0.01), 0, tmp_path / "out", lambda line: None)


def test_anchored_needs_to_know_where_links_stand(tmp_path):
    with pytest.raises(DataProblem, match="no link has a place in its text"):
        build(ring(tmp_path), Pairing(segment=32, holdout=0.5, anchored=True), 0, tmp_path / "out", print)


def test_neighbours_need_no_links(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"topic{i % 10} has rare{i % 10} words\n" * 3)
    sources = examples(Data.model_validate(str(tmp_path)), {}, 0)
    plan = Pairing(graph="neighbours", neighbours=3, segment=30, holdout=0)
    build(sources, plan, 0, tmp_path / "out", lambda line: None)
    same = [pair["first"].split()[0] == pair["second"].split()[0] for pair in lines(tmp_path / "out", "pairs.jsonl")]
    linked = [pair["relation"] == "linked" for pair in lines(tmp_path / "out", "pairs.jsonl")]
    assert all(alike for alike, near in zip(same, linked, strict=True) if near)
    assert not all(same)
