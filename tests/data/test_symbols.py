"""Prompts of symbol tuning: what they must hold, whatever is drawn (METHODS of the paper, section 3 and appendix)."""

import json
import re
from collections import Counter
from random import Random

import pytest

from didact.data.example import Completion, Document
from didact.data.formats import example
from didact.data.symbols import TEMPLATES, UNSEEN, Labelled, Plan, draw, gather, naming, parted, record, vocabulary
from didact.errors import DataProblem, UsageProblem
from didact.recipe import load
from didact.run.command import run_recipe

KINDS = ("integers", "letters", "words")
COLOURS = {"red": "cherry", "blue": "ocean", "green": "meadow", "white": "snow", "black": "coal"}
WORDS = ["".join((a, b, c)) for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgmnpt"]


def task(name="colours", count=30, labels=COLOURS):
    """Texts whose first word says the class."""
    rng = Random(name)
    texts = {
        label: [f"{first} {' '.join(rng.sample(WORDS, 3))} {i}" for i in range(count)]
        for label, first in labels.items()
    }
    return Labelled(name, texts, "Which one is it?")


def plan(tasks=None, **given):
    words = vocabulary(tasks or [task()], 0)
    return Plan(
        **{"shots": (2, 10), "classes": (2, 4), "kinds": KINDS, "instructed": 0.5, "words": words, "seed": 0} | given
    )


TEXT = rf"((?:{'|'.join(COLOURS.values())}) [a-z ]+ \d+)"
BETWEEN = "|".join(sorted((re.escape(between) for _, between, _ in TEMPLATES), key=len, reverse=True))


def shown(made):
    """(text, label) of every example in a prompt of ``task``, read back out of the prompt."""
    return re.findall(rf"{TEXT}(?:{BETWEEN})(\S+)\n", made["prompt"])


LEARNED = list(plan().train([task()], 600))
TRAIN = [one["train"] for one in LEARNED]
MEASURED = list(plan().measured([task()], 200, 4))


def test_no_label_of_the_task_is_in_a_prompt():
    named = naming(COLOURS)
    for made in [*TRAIN, *(one["unseen"] for one in MEASURED)]:
        assert not named(made["prompt"])
        assert not named(made["completion"])
    assert all(named(one["relevant"]["prompt"]) and named(one["flipped"]["prompt"]) for one in MEASURED)


def test_symbols_stand_for_one_class_each_and_classes_for_one_symbol():
    for made in TRAIN:
        first = {(text.split()[0], symbol) for text, symbol in shown(made)}
        assert len(first) == len(dict(first)) == len({symbol for _, symbol in first}) >= 2
        asked = next(word for word in re.findall(r"\w+", made["prompt"])[::-1] if word in COLOURS.values())
        assert dict(first)[asked] == made["completion"].strip()


def test_trained_symbols_are_never_measured():
    train = {symbol for made in TRAIN for _, symbol in shown(made)}
    unseen = {option.strip() for one in MEASURED for option in one["unseen"]["options"]}
    assert train & unseen == set()
    for kind in (str.isdigit, lambda s: s in plan().words, lambda s: s.isalpha() and s not in plan().words):
        assert any(map(kind, train))
        assert any(map(kind, unseen))
    assert len(train) > 500, "the symbols are hardly ever new"
    assert 0.3 < UNSEEN < 0.7


def test_examples_are_balanced_and_within_their_counts():
    counts = []
    for made in TRAIN:
        (each,) = set(Counter(symbol for _, symbol in shown(made)).values())
        counts.append((each, len({symbol for _, symbol in shown(made)})))
    assert {each for each, _ in counts} == set(range(2, 11))
    assert {classes for _, classes in counts} == {2, 3, 4}
    assert all(set(Counter(symbol for _, symbol in shown(one["flipped"])).values()) == {4} for one in MEASURED)
    assert all(len(one["unseen"]["options"]) == len(dict(map(reversed, shown(one["unseen"])))) for one in MEASURED)


def test_what_is_asked_is_not_among_the_examples():
    for made in TRAIN:
        asked = re.findall(TEXT, made["prompt"])
        assert asked[-1] not in asked[:-1]


def chi_square(counts, of):
    expected = sum(counts.values()) / of
    return sum((count - expected) ** 2 for count in counts.values()) / expected + (of - len(counts)) * expected


def test_templates_classes_and_instructions_are_drawn_evenly():
    draws = [draw([task()], (2, 10), (2, 4), 0.5, Random(f"{n}")) for n in range(2000)]
    # The 99.99th percentiles of chi-square with 9, 4, 8 and 1 degrees of freedom.
    assert chi_square(Counter(one.template for one in draws), len(TEMPLATES)) < 33.7
    assert chi_square(Counter(one.asked[1] for one in draws), len(COLOURS)) < 23.5
    assert chi_square(Counter(len(one.shown) // len(one.labels) for one in draws), 9) < 31.8
    assert chi_square(Counter(one.instructed for one in draws), 2) < 15.2
    places = Counter(sorted(one.labels).index(one.asked[1]) for one in draws if len(one.labels) == 2)
    assert chi_square(places, 2) < 15.2


def test_a_weight_is_how_often_a_task_is_drawn():
    tasks = [task("a"), Labelled("b", task("b").texts, weight=3.0)]
    drawn = Counter(draw(tasks, (2, 4), (2, 2), 0, Random(f"{n}")).task.name for n in range(1000))
    assert 0.7 < drawn["b"] / 1000 < 0.8


def oracle(made):
    """A model that reads the examples alone: the option that follows most texts with the asked one's first word."""
    asked = re.findall(rf"{'|'.join(COLOURS.values())}", made["prompt"])[-1]
    after = Counter(symbol for text, symbol in shown(made) if text.startswith(asked))
    return max(made["options"], key=lambda option: after[option.strip()])


def test_permuted_symbols_permute_the_predictions_of_who_reads_the_examples():
    for number in range(100):
        one = draw([task()], (2, 4), (2, 4), 0.5, Random(f"{number}"))
        symbols = ["foo", "bar", "17", "qx"][: len(one.labels)]
        first, turned = (dict(zip(one.labels, s, strict=True)) for s in (symbols, symbols[1:] + symbols[:1]))
        before, after = record(one, first), record(one, turned)
        named = {symbol: label for label, symbol in first.items()}
        assert oracle(after).strip() == turned[named[oracle(before).strip()]]
        assert oracle(before) == before["completion"]


def test_the_sets_to_measure_on_are_the_same_prompts():
    for one in MEASURED:
        assert oracle(one["unseen"]) == one["unseen"]["completion"]
        texts = [[text for text, _ in shown(made)] for made in one.values()]
        assert texts[0] == texts[1] == texts[2]
        labels = [one[name]["completion"].strip() for name in ("relevant", "flipped")]
        assert labels[0] != labels[1]
        assert set(one["relevant"]["options"]) == set(one["flipped"]["options"])
        for made in one.values():
            assert isinstance(example("f:1", made), Completion)


def test_the_same_seed_gives_the_same_prompts():
    assert list(plan().train([task()], 20)) == LEARNED[:20]
    assert list(plan(seed=1).train([task()], 20)) != LEARNED[:20]


def test_the_control_is_the_same_prompts_under_their_own_labels():
    for one in LEARNED:
        assert [text for text, _ in shown(one["plain"])] == [text for text, _ in shown(one["train"])]
        assert set(one["plain"]["options"]) <= {lead + label for label in COLOURS for lead in ("", " ")}


def test_a_space_belongs_to_the_completion():
    for made in TRAIN:
        assert made["prompt"] == made["prompt"].rstrip(" ")
        assert made["completion"].strip(" ") == made["completion"].strip()


def documents(**texts):
    return [Document(f"f:{i}", text, label) for label, all in texts.items() for i, text in enumerate(all)]


def test_texts_that_name_a_label_or_have_two_are_left_out():
    found, left = gather("f", documents(good=["a Good day", "sun", "rain"], bad=["goodness", "rain", "it is bad"]), 100)
    assert found.texts == {"bad": ["goodness"], "good": ["sun"]}
    assert left == 3


def test_a_long_text_is_cut_at_a_word():
    found, _ = gather("f", documents(a_=["one two three"], b_=["abcdefghij"]), 8)
    assert found.texts == {"a_": ["one two"], "b_": ["abcdefgh"]}


def test_labels_are_kept_apart_where_no_task_is():
    train, apart = parted([task(), task("two", labels={"x": "cherry", "y": "ocean"})], 0.3, 0)
    assert [one.name for one in train] == ["colours", "two"]
    assert [one.name for one in apart] == ["colours"]
    assert train[0].texts.keys() | apart[0].texts.keys() == COLOURS.keys()
    assert not train[0].texts.keys() & apart[0].texts.keys()
    assert len(apart[0].texts) == 2


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda: gather("f", documents(a=["x", "y"]), 9), "f: every record has the same label, 'a'; a task needs two"),
        (lambda: gather("f", [*documents(a=["x"]), Document("f:7", "y")], 9), "f:7: no label; symbols need records of"),
        (lambda: gather("f", [Completion("f:1", "a", "b")], 9), "f:1: no label"),
        (lambda: gather("f", documents(a=["x"], b=["y"]), 9, "Is it A?"), "f: the instruction names a label"),
        (lambda: draw([task(count=2)], (2, 4), (2, 2), 0, Random(0)), "colours: no task has 2 labels with more than 2"),
        (lambda: parted([task(labels={"x": "cherry", "y": "ocean"})], 0.3, 0), "no task has four labels"),
        (lambda: vocabulary([task(count=1)], 0), "words that could be symbols; leave 'words' out of kinds"),
    ],
)
def test_bad_data_gets_one_line(broken, says):
    with pytest.raises(DataProblem) as caught:
        broken()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


RECIPE = """
name: r
base: {architecture: llama, size: 60k}
stages:
  - symbols: {data: [colours.jsonl, shades.jsonl], examples: 30, evaluations: 5, MORE}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("colours", "shades"):
        lines = [{"text": text, "label": label} for label, texts in task(name).texts.items() for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_the_stage_leaves_its_sets(folder):
    (folder / "r.yaml").write_text(RECIPE.replace("MORE", "shots: [2, 3], instructions: {shades.jsonl: Which?}"))
    said = []
    run_recipe(folder / "r.yaml", [], folder / "runs", said.append)
    (left,) = (folder / "runs/r/stages").iterdir()
    sets = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in left.glob("*.jsonl")}
    assert {name: len(lines) for name, lines in sets.items()} == {
        "train": 30,
        "plain": 30,
        "unseen": 5,
        "flipped": 5,
        "relevant": 5,
    }
    assert "symbols: colours.jsonl: 5 labels, 150 texts" in said
    assert any("Which?" in one["prompt"] for one in sets["train"])
    facts = json.loads((left / "done.json").read_text())["facts"]["symbols"]
    assert facts["measured"][0]["texts"].keys() < COLOURS.keys()


def test_whole_prompts_are_documents(folder):
    (folder / "r.yaml").write_text(RECIPE.replace("MORE", "whole: true"))
    run_recipe(folder / "r.yaml", [], folder / "runs", print)
    (left,) = (folder / "runs/r/stages").iterdir()
    for name, fields in (("train", {"text"}), ("plain", {"text"}), ("unseen", {"prompt", "completion", "options"})):
        assert {frozenset(json.loads(line)) for line in (left / f"{name}.jsonl").open()} == {frozenset(fields)}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("shots: [4, 2]", "the fewest come first"),
        ("classes: [1, 2]", "classes"),
        ("kinds: []", "kinds"),
        ("instructions: {colour.jsonl: a}", "no source is called 'colour.jsonl'; there are colours.jsonl"),
    ],
)
def test_a_wrong_setting_is_one_line(folder, more, says):
    (folder / "r.yaml").write_text(RECIPE.replace("MORE", more))
    with pytest.raises(UsageProblem, match=re.escape(says)):
        load(folder / "r.yaml")
