from collections import Counter

import numpy as np
import pytest

from didact.data.example import RELATIONS
from didact.data.formats import example
from didact.data.links.graph import Links, linked, nearest
from didact.data.links.pages import Page
from didact.data.links.pairs import Drawing, exchanged, segments

# Five documents: 0 points at all others, 1 and 2 at 3 as well, 4 at nobody; in-degrees 0, 1, 1, 3, 1.
OUT = [[1, 2, 3, 4], [3], [3], [], []]


def page(name: str, text: str = "text", links=()) -> Page:
    return Page(f"{name}:1", name, name, text, tuple(links))


def five(size: int = 3) -> Drawing:
    graph = linked([page(str(i), links=[str(j) for j in out]) for i, out in enumerate(OUT)])
    return Drawing(graph, [[f"{i}.{n}" for n in range(size)] for i in range(5)])


def chi_square(seen: np.ndarray, expected: np.ndarray) -> float:
    return float(((seen - expected) ** 2 / expected).sum())


def test_linked_documents_are_drawn_by_in_degree():
    drawing = five()
    exact = np.array([1, 1, 1 / 3, 1]) / (10 / 3)
    np.testing.assert_allclose(drawing.links.chances()[0], exact)
    pairs = [pair for pair in drawing.pairs(["linked"], 2000, 0) if pair.pages[0] == "0"]
    count = Counter(pair.pages[1] for pair in pairs)
    seen = np.array([count[name] for name in "1234"])
    assert seen.sum() == len(pairs) == 6000
    assert chi_square(seen, exact * len(pairs)) < 16.27  # 3 degrees of freedom, p = 0.001
    assert chi_square(seen, np.full(4, 0.25) * len(pairs)) > 100, "the test cannot tell it from a uniform draw"


def test_each_segment_of_the_other_is_as_likely():
    pairs = [pair for pair in five().pairs(["linked"], 2000, 1) if pair.pages[1] == "3"]
    seen = np.array(list(Counter(pair.second for pair in pairs).values()))
    assert len(seen) == 3
    assert chi_square(seen, np.full(3, len(pairs) / 3)) < 13.82  # 2 degrees of freedom


def test_random_documents_are_uniform_and_not_linked():
    pairs = list(five().pairs(["random"], 2000, 2))
    of = {name: Counter(pair.pages[1] for pair in pairs if pair.pages[0] == name) for name in "01234"}
    assert not of["0"]  # it points at all others, so nothing is random to it
    assert set(of["1"]) == {"0", "2", "4"}
    assert set(of["3"]) == {"0", "1", "2", "4"}
    seen = np.array(list(of["3"].values()))
    assert chi_square(seen, np.full(4, seen.sum() / 4)) < 16.27


def test_relations_are_balanced_and_the_first_text_does_not_tell_them():
    pairs = list(five().pairs(["contiguous", "random", "linked"], 900, 3))
    count = Counter(pair.relation for pair in pairs)
    assert max(count.values()) - min(count.values()) <= 1
    firsts = {relation: Counter(p.first for p in pairs if p.relation == relation) for relation in count}
    assert set(firsts["linked"]) == set(firsts["random"]) == set(firsts["contiguous"]) == {"1.0", "1.1", "2.0", "2.1"}
    table = np.array([[firsts[relation][first] for first in firsts["linked"]] for relation in count])
    assert chi_square(table, table.sum(0) * table.sum(1)[:, None] / table.sum()) < 22.46  # 6 degrees of freedom
    for pair in pairs:
        if pair.relation == "contiguous":
            assert pair.pages[0] == pair.pages[1]
            assert float(pair.second) == pytest.approx(float(pair.first) + 0.1)


def test_the_same_seed_draws_the_same_pairs():
    assert list(five().pairs(["linked"], 5, 7)) == list(five().pairs(["linked"], 5, 7))
    assert list(five().pairs(["linked"], 5, 7)) != list(five().pairs(["linked"], 5, 8))


def anchored() -> Drawing:
    """Page 0 has a link to 1 in its second segment and links to 2 and 3 in its third; 1 has one to 3 in its first."""
    texts = ["aaaa bbbb cccc", "dddd eeee", "ffff", "gggg hhhh"]
    led = [[(6, "1"), (10, "2"), (12, "3")], [(2, "3")], [], []]
    found = [
        Page(f"{i}:1", str(i), str(i), text, tuple(to for _, to in led[i]), 0, tuple(at for at, _ in led[i]))
        for i, text in enumerate(texts)
    ]
    return Drawing(linked(found), [text.split() for text in texts], anchored=True)


def test_anchored_pairs_go_from_a_link_to_how_its_page_begins():
    pairs = Counter((p.first, p.second) for p in anchored().pairs(["linked"], 600, 0))
    assert set(pairs) == {("bbbb", "dddd"), ("cccc", "ffff"), ("cccc", "gggg"), ("dddd", "gggg")}
    seen = np.array([pairs["cccc", "ffff"], pairs["cccc", "gggg"]])
    assert chi_square(seen, np.array([400, 200])) < 10.83  # 3 is pointed at by two, 2 by one


def test_anchored_strangers_begin_too():
    pairs = list(anchored().pairs(["random"], 50, 0))
    assert {p.first for p in pairs} <= {"bbbb", "cccc", "dddd"}
    assert {p.second for p in pairs} <= {"aaaa", "dddd", "ffff", "gggg"}


def test_exchanged_pairs_are_the_same_texts():
    pairs = list(five().pairs(["linked"], 5, 7))
    other = exchanged(pairs)
    assert [p.first for p in other] == [p.first for p in pairs]
    assert Counter(p.second for p in other) == Counter(p.second for p in pairs)
    assert all(p.relation == "random" for p in other)
    assert sum(a.second != b.second for a, b in zip(pairs, other, strict=True)) > len(pairs) / 2
    assert all(p.second.partition(".")[0] == p.pages[1] for p in other)


def test_links_across_the_split_are_gone():
    part = five().links.among({0, 1, 3})
    assert [out.tolist() for out in part.out] == [[1, 2], [2], []]
    np.testing.assert_allclose(part.chances()[0], [2 / 3, 1 / 3])


def test_segments_are_the_text():
    text = "One line of words.\n" + "word " * 30 + "\n" + "x" * 100 + "\n\nThe end."
    for size in (16, 20, 50, 1000):
        cut = segments(text, size)
        assert all(0 < len(part) <= size and part == part.strip() for part in cut)
        assert "".join("".join(cut).split()) == "".join(text.split())
    assert segments("a b\nc d", 4) == ["a b", "c d"]


def test_neighbours_are_the_most_alike():
    texts = ["cats purr and sleep", "cats purr and hunt", "stocks fall and rise", "stocks fall and crash", "and"]
    found = nearest([page(str(i), text) for i, text in enumerate(texts)], 1)
    assert [out.tolist() for out in found.out] == [[1], [0], [3], [2], []]


def test_neighbours_equal_a_plain_product():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.zipf(1.5, 40) if word < 50) for _ in range(30)]
    vocabulary = sorted({word for text in texts for word in text.split()})
    tf = np.array([[text.split().count(word) for word in vocabulary] for text in texts])
    df = (tf > 0).sum(0)
    kept = (df > 1) & (df <= 6)
    vectors = (np.where(tf > 0, 1 + np.log(np.maximum(tf, 1)), 0) * np.log(30 / df))[:, kept]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, 0)
    for i, out in enumerate(nearest([page(str(i), text) for i, text in enumerate(texts)], 3).out):
        np.testing.assert_allclose(np.sort(cosine[i][out]), [s for s in np.sort(cosine[i])[-3:] if s > 0], atol=1e-12)


def test_a_pair_is_an_example():
    pair = next(five().pairs(["linked"], 1, 0))
    read = example("a:1", pair.record())
    assert read.texts == (pair.first, pair.second)
    assert read.roles == ("text", "text")
    assert RELATIONS[int(read.value)] == "linked"


def test_an_empty_graph_has_no_chances():
    assert [len(chance) for chance in Links([page("a")], [np.zeros(0, int)]).chances()] == [0]
