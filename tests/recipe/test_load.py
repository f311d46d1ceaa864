import math
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from didact.errors import UsageProblem
from didact.model.settings import Lora, Scratch, Tune
from didact.recipe import load
from didact.recipe.tree import parse

HEAD = "name: x\nbase: y\n"
FT = HEAD + "stages:\n- finetune:\n    data: a\n"  # further keys start on line 6
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefghij", "bcdefghijk", strict=True)
)

MALFORMED: list[tuple[str | bytes, int | None, str]] = [
    # not YAML
    ("", None, "an empty recipe"),
    ("# only this\n", None, "an empty recipe"),
    ("- a\n- b\n", 1, "a recipe is a mapping, got ['a', 'b']"),
    ("hello", 1, "a recipe is a mapping, got 'hello'"),
    (HEAD + "stages:\n\t- corpus: {domain: d}\n", 4, "indent with spaces, not tabs"),
    (HEAD + "stages: [\n", 3, "close the bracket or quote"),
    (HEAD + "stages: 'a\n", 3, "close the bracket or quote"),
    ("name: x: y\n", 1, "mapping values are not allowed here"),
    (HEAD + "stages: *undefined\n", 3, "undefined alias"),
    (HEAD + "---\n" + HEAD, 3, "one recipe"),
    (HEAD + "stages: @x\n", 3, "cannot start any token"),
    ('name: "\\U00110000"\n', 1, "not YAML"),
    ('a: 1\nname: "\\ud800"\n', 2, "surrogate"),
    ("%YAML 3.0\n---\na: 1\n", 1, "not YAML"),
    (HEAD + "  indented: z\n", 3, "not YAML"),
    (b"\x89PNG\r\n\x1a\n\x00\x00", 1, "not UTF-8 text"),
    ("name: x\n".encode("utf-16"), 1, "not UTF-8 text"),
    (b"name: x\nbase: \xff\n", 2, "not UTF-8 text"),
    (b"GGUF\x03\x00\x00\x00", 1, "control characters"),
    ("name: x\nbase: \x1b[31m\n", 2, "control characters"),
    ("name: x\nbase: \x9b\n", 2, "control characters"),
    # not a recipe's YAML
    ("name: x\nbase: y\nname: z\n", 3, "key 'name' is there twice; it is already on line 1"),
    (FT + "    epochs: 1\n    epochs: 2\n", 7, "key 'epochs' is there twice"),
    ("name: !!python/object:os.system x\n", 1, "has no meaning"),
    ("base: y\nname: !x y\n", 2, "has no meaning"),
    ("base: !!binary aGk=\n", 1, "has no meaning"),
    ("base: !!set {a, b}\n", 1, "has no meaning"),
    ("x: &x {a: 1}\nbase:\n  <<: *x\n", 3, "write the keys out"),
    ("? [a]\n: 1\n", 1, "a key must be a word"),
    (HEAD + "seed: " + "9" * 5000 + "\n", 3, "is no number that can be read"),
    # bombs
    (BOMB, None, "too much for a recipe"),
    ("a: &a [*a]\n", 1, "nested deeper than 32"),
    ("a: &a {b: *a, c: *a}\n", 1, "nested deeper than 32"),
    ("a: &a " + "x" * 40_000 + "\nb: [" + "*a," * 5000 + "]\n", 1, "too much for a recipe"),
    ("a: " + "[" * 50_000, 1, "maximum depth"),
    ("a: " + "{b: " * 40 + "1" + "}" * 40, 1, "maximum depth"),
    ("- " * 25_000, 1, "maximum depth"),
    ("? " * 25_000, 1, "maximum depth"),
    ("x" * 300_000, None, "larger than 64 KiB"),
    # keys
    (HEAD + "sed: 1\nstages:\n- corpus: {domain: d}\n", 3, "unknown key 'sed' in the recipe; did you mean 'seed'?"),
    (FT + "    learning_rte: 1\n", 6, "unknown key 'learning_rte' in stage 'finetune'; did you mean 'learning_rate'?"),
    (FT + "    learning-rate: 1\n", 6, "did you mean 'learning_rate'?"),
    (FT + "    name: mine\n    zzz: 1\n", 7, "unknown key 'zzz' in stage 'mine'; 'didact schema' lists the keys"),
    (
        FT + "    tune:\n      lora:\n        rnk: 1\n",
        8,
        "unknown key 'rnk' in 'tune.lora' of stage 'finetune'; did you",
    ),
    (FT + "    tune:\n      lra: {}\n", 7, "unknown key 'lra' in 'tune' of stage 'finetune'; did you mean 'lora'?"),
    (FT + "    heldout:\n    - a\n    - path: b\n      wieght: 2\n", 9, "did you mean 'weight'?"),
    (HEAD + "learning_rate: 1\nstages:\n- corpus: {domain: d}\n", 3, "it belongs in a stage"),
    (HEAD + "stages:\n- corpus:\n    domain: d\n    zzz: 1\n", 6, "it takes name, seed, domain, holdout"),
    ("name: x\nstages:\n- corpus: {domain: d}\n", 1, "missing key 'base' in the recipe; add 'base: ...'"),
    (HEAD, 1, "missing key 'stages' in the recipe"),
    (HEAD + "stages:\n- tokenizer:\n    vocab_size: 300\n", 4, "missing key 'data' in stage 'tokenizer'"),
    (HEAD + "stages:\n- pretrain:\n", 4, "stage 'pretrain': missing key 'data'"),
    (HEAD + "stages:\n- evaluate: {}\n", 4, "evaluate needs 'data' or 'measures' to measure, or 'samples' to answer"),
    ("name: x\nbase:\n  size: 3M\nstages:\n- corpus: {domain: d}\n", 2, "missing key 'architecture' in 'base'"),
    (
        "name: x\nbase:\n  architecture: a\n  sise: 3M\nstages: []\n",
        4,
        "unknown key 'sise' in 'base'; did you mean 'size'?",
    ),
    # values
    (FT + "    learning_rate: abc\n", 6, "'learning_rate' in stage 'finetune': wanted a number, got 'abc'"),
    (FT + "    learning_rate: true\n", 6, "wanted a number, got true"),
    (FT + "    learning_rate: .nan\n", 6, "wanted a finite number, got nan"),
    (FT + "    learning_rate: 1e999\n", 6, "wanted a finite number, got inf"),
    (FT + "    learning_rate: -1\n", 6, "wanted a number above 0, got -1"),
    (FT + "    learning_rate:\n", 6, "wanted a number, got nothing"),
    (FT + "    context: 4\n", 6, "wanted a number of at least 8, got 4"),
    (FT + "    warmup_ratio: 1.5\n", 6, "wanted a number of at most 1, got 1.5"),
    (FT + "    tokens: 100x\n", 6, "wanted a whole number, got '100x'; as in 100000, 100k or 1.5M"),
    (FT + "    tokens: 1.5\n", 6, "wanted a whole number, got 1.5"),
    (FT + "    tokens: 1.2345k\n", 6, "wanted a whole number"),
    (FT + "    tokens: 99999999999999999999\n", 6, "this number is too large"),
    (FT + "    pack: perhaps\n", 6, "wanted true or false, got 'perhaps'"),
    (FT + "    schedule: cosin\n", 6, "got 'cosin'; did you mean 'cosine'?"),
    (FT + "    betas: [0.9]\n", 6, "'betas' in stage 'finetune': wanted another value after 1"),
    (FT + "    betas:\n    - 0.9\n    - 1.0\n", 8, "'betas.1' in stage 'finetune': wanted a number below 1"),
    (FT + "    betas: 0.9\n", 6, "wanted a list, got 0.9"),
    (FT + "    heldout: 3\n", 6, "wanted a mapping, got 3"),
    (FT + "    heldout: []\n", 6, "wanted at least 1, got none"),
    (FT + "    heldout: ''\n", 6, "wanted text that is not empty"),
    (FT + "    heldout: a#0\n", 6, "wanted a number above 0, got 0"),
    (FT + "    tune: last\n", 6, "last needs the number of layers"),
    (FT + "    tune:\n      last: 2\n      lora: {}\n", 6, "give one of them"),
    (FT + "    objective: a b\n", 6, "an objective is a name or an import path"),
    (FT + "    objective: {a: 1}\n", 6, "wanted a mapping, got 1"),
    (FT + "    objective: {a: 1, b: 2}\n", 6, "unknown key 'a' in 'objective'"),
    (FT + "    tasks: [{data: a, objective: sft}]\n", 6, "not both"),
    (FT + "    name: a/b\n", 6, "a name is up to 64 letters"),
    (FT + "    name: seed\n", 6, "may not be named 'seed'"),
    ("name: 3\nbase: y\nstages:\n- corpus: {domain: d}\n", 1, "'name': wanted text, got 3; put it in quotes"),
    ("name: x\nbase: [a]\nstages:\n- corpus: {domain: d}\n", 2, "'base': wanted text, got ['a']"),
    (HEAD + "device: gpu\nstages:\n- corpus: {domain: d}\n", 3, "wanted 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
    (HEAD + "stages:\n- corpus:\n    domain: d\n    holdout: 1\n", 6, "wanted a number below 1, got 1"),
    # stages
    (HEAD + "stages: []\n", 3, "'stages': wanted at least 1, got none"),
    (HEAD + "stages:\n", 3, "'stages': wanted a list, got nothing"),
    (HEAD + "stages:\n  corpus: {domain: d}\n", 3, "wanted a list"),
    (HEAD + "stages:\n- finetun: {data: a}\n", 4, "unknown stage 'finetun'; did you mean 'finetune'?"),
    (HEAD + "stages:\n- serve: {}\n", 4, "unknown stage 'serve'; there are corpus, tokenizer"),
    (HEAD + "stages:\n- evaluate\n", 4, "write - evaluate: {...}"),
    (HEAD + "stages:\n- corpus: {domain: d}\n- pretrain:\n  data: a\n", 5, "indent what follows 'pretrain:' under it"),
    (HEAD + "stages:\n- {}\n", 4, "a stage is a mapping of one key"),
    (HEAD + "stages:\n- pretrain: docs/\n", 4, "'docs/'"),
    (
        FT + "- corpus: {domain: d, name: finetune}\n- corpus:\n    domain: d\n    name: Finetune\n",
        9,
        "two stages are named",
    ),
    (FT + "- evaluate:\n    data: {a: b}\n    gate:\n      c: 1.0\n", 9, "names no set of 'data'; the sets are: a"),
    (FT + "- evaluate: {data: docs/}\n", 6, "'data' in stage 'evaluate': wanted a mapping, got 'docs/'"),
    (FT + "    heldout: corpus/documents\n- corpus: {domain: d}\n", 6, "has not run yet; move 'corpus' before it"),
    (
        HEAD + "stages:\n- corpus: {domain: d}\n- pretrain:\n    data: corpus/document\n",
        6,
        "it leaves corpus/documents",
    ),
    (HEAD + "stages:\n- corpus: {domain: d}\n- pretrain:\n    data: [a, corpus/x]\n", 6, "'corpus/x' is nothing that"),
    (HEAD + "stages:\n- pretrain: {data: a}\n- finetune: {data: pretrain/x}\n", 5, "write ./pretrain/x"),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("text", "line", "fragment"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_recipe_is_told_in_one_line(reads, text, line, fragment):
    with pytest.raises(UsageProblem) as caught:
        reads(text)
    message = str(caught.value)
    assert fragment in message
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 700
    assert caught.value.code == 2
    name, _, number = caught.value.where.partition("r.yaml")
    assert name
    if line is not None:
        assert number == f":{line}"


def test_files_that_cannot_be_read(tmp_path):
    for path, fragment in ((tmp_path / "none.yaml", "no such recipe"), (tmp_path, "this is not")):
        with pytest.raises(UsageProblem, match=fragment):
            load(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageProblem, match="this is not"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_byte_order_mark_and_line_endings(reads, quickstart, ending):
    plain = reads(quickstart).recipe
    assert reads(("\ufeff" + quickstart).replace("\n", ending).encode()).recipe == plain
    with pytest.raises(UsageProblem) as caught:
        reads((quickstart + "zzz: 1\n").replace("\n", ending).encode())
    assert caught.value.where.endswith(":14")


def test_yaml_1_2_values():
    text = "[1e-4, no, on, 012, 0o17, 0x1F, 1_000, .5, ~, True, 2020-01-01, 'true', =, .inf, 1:30, null, -3]"
    values = [
        1e-4,
        "no",
        "on",
        12,
        15,
        31,
        1000,
        0.5,
        None,
        True,
        "2020-01-01",
        "true",
        "=",
        math.inf,
        "1:30",
        None,
        -3,
    ]
    read = parse(text, "x").data
    assert [(type(a), a) for a in read] == [(type(b), b) for b in values]


def test_a_word_stays_text_where_text_is_wanted(reads):
    recipe = reads(
        "name: no\nbase: on\nstages:\n- corpus: {domain: off}\n- pretrain: {data: 2020-01-01, pack: no}\n"
    ).recipe
    assert (recipe.name, recipe.base, recipe.stages[0].domain) == ("no", "on", "off")
    assert recipe.stages[1].data.sources[0].path == "2020-01-01"
    assert recipe.stages[1].pack is False


def test_anchors_are_expanded(reads):
    text = HEAD + "stages:\n- finetune: {data: a, tune: &t {lora: {rank: 3}}}\n- finetune: {data: b, tune: *t}\n"
    assert [stage.tune.lora.rank for stage in reads(text).recipe.stages] == [3, 3]


OVERRIDES = {
    "finetune.learning_rate=1e-4": lambda r: r.stages[3].learning_rate == 1e-4,
    "finetune.tune.lora.rank=8": lambda r: r.stages[3].tune.lora.rank == 8,
    "finetune.tune=head": lambda r: r.stages[3].tune.what == "head",
    "pretrain.tune.lora.rank=8": lambda r: r.stages[2].tune == Tune(what="lora", lora=Lora(rank=8)),
    "seed=3": lambda r: {r.seed, *(stage.seed for stage in r.stages)} == {3},
    "base=org/model": lambda r: r.base == "org/model",
    "base={architecture: qwen3, size: 12M}": lambda r: r.base == Scratch(architecture="qwen3"),
    "stages.2.tokens=1M": lambda r: r.stages[2].tokens == 10**6,
    "stages.2.pretrain.tokens=7": lambda r: r.stages[2].tokens == 7,
    "pretrain.tokens=": lambda r: r.stages[2].tokens is None,
    "pretrain.objective={prefix: {a: [1]}}": lambda r: r.stages[2].objective.options == {"a": [1]},
    "evaluate.samples.0=why = so": lambda r: r.stages[4].samples == ("why = so",),
    "evaluate.samples=[a, b]": lambda r: r.stages[4].samples == ("a", "b"),
    "evaluate.gate.answers=1.5": lambda r: r.stages[4].gate == {"answers": 1.5},
    "finetune.name=sft": lambda r: r.stages[3].name == "sft",
    " device = cpu": lambda r: r.device == "cpu",
    "model_name_or_path=z": lambda r: r.base == "z",
    "finetune.lora_r=9": lambda r: r.stages[3].tune.lora.rank == 9,
    "finetune.optim=muon": lambda r: r.stages[3].optimizer == "muon",
    "corpus={domain: other}": lambda r: r.stages[0].domain == "other",
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_overrides(reads, quickstart, text):
    assert not OVERRIDES[text](reads(quickstart).recipe)
    assert OVERRIDES[text](reads(quickstart, text).recipe)


def test_overrides_apply_in_order_and_together(reads, quickstart):
    assert reads(quickstart, "seed=1", "seed=2").recipe.seed == 2
    pair = ("finetune.gradient_accumulation_steps=8", "finetune.per_device_train_batch_size=4")
    for order in (pair, pair[::-1]):
        loaded = reads(quickstart, *order)
        assert (loaded.recipe.stages[3].batch_size, loaded.recipe.stages[3].micro_batch_size) == (32, 4)
        assert len(loaded.said) == 1
    tuned = reads(quickstart, "pretrain.tune=lora", "pretrain.tune.lora.rank=2").recipe.stages[2].tune
    assert tuned.lora.rank == 2


def test_an_override_reaches_stages_by_their_own_and_numbered_names(reads):
    text = HEAD + "stages:\n- pretrain: {data: a}\n- pretrain: {data: b}\n- finetune: {data: c, name: v1.0}\n"
    stages = reads(text, "pretrain-2.tokens=2", "v1.0.tokens=3").recipe.stages
    assert [stage.tokens for stage in stages] == [None, 2, 3]


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("finetune.learning_rte=1", "unknown key 'learning_rte' in stage 'finetune'; did you mean 'learning_rate'?"),
        ("finetune.learning_rate=x", "wanted a number, got 'x'"),
        ("finetune.tune.lora.rnk=1", "unknown key 'rnk' in 'tune.lora' of stage 'finetune'; did you mean 'rank'?"),
        ("fintune.epochs=1", "no stage or key 'fintune.epochs'; did you mean 'finetune'?"),
        ("zzz=1", "there are corpus, tokenizer, pretrain"),
        ("stages.9.tokens=1", "no stage or key 'stages.9.tokens'"),
        ("finetune", "an override is key=value"),
        ("=1", "an override is key=value"),
        ("pretrain.tokens=[1", "close the bracket"),
        ("pretrain.tokens=a: b: c", "mapping values"),
        ("evaluate.samples.4=x", "no place in the list 'evaluate.samples'; it has 1 entries"),
        ("base.size=3M", "'base' is 'smollm2-135m-instruct' here; set 'base' as a whole"),
        ("finetune.optim=sgd", "'sgd' is not offered"),
        ("tokenizer.data=finetune/x", "move 'finetune' before it"),
        ("finetune.lora_alpha=x", "'tune.lora.alpha' in stage 'finetune': wanted a number, got 'x'"),
        ("finetune..x=1", "unknown key ''"),
        ("finetune.x=&a [*a]", "nested deeper"),
        ("seed=\x00", "control characters"),
        ("stages=3", "'stages': wanted a list, got 3"),
    ],
)
def test_an_override_is_the_place_of_its_mistake(reads, quickstart, override, fragment):
    with pytest.raises(UsageProblem) as caught:
        reads(quickstart, "seed=1", override)
    assert caught.value.where == f"--override {override!r}"
    assert fragment in caught.value.what + "; " + caught.value.remedy


def problem_of(act: Callable[[], object]) -> UsageProblem | None:
    try:
        act()
    except UsageProblem as problem:
        return problem
    return None


@pytest.mark.timeout(120)
@given(st.lists(st.sampled_from([*"[]{}:,-?&*!|>'\"#%@ \n\t\\ax1~<=", "&a ", "*a", "!!int ", "stages:", "- "])))
@settings(max_examples=300, deadline=None)
def test_no_text_gets_past_as_anything_but_a_problem(parts):
    problem = problem_of(lambda: parse("".join(parts), "x"))
    assert problem is None or "\n" not in str(problem)


@pytest.mark.timeout(120)
@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recipe_with_one_stroke_changed_loads_or_is_told(tmp_path, quickstart, data):
    at = data.draw(st.integers(0, len(quickstart) - 1))
    stroke = data.draw(st.sampled_from(["", " ", "\n", ":", "x", "{", "[", "0", "'", "\t", "-", "\x00", "é"]))
    path = tmp_path / "r.yaml"
    path.write_text(quickstart[:at] + stroke + quickstart[at + 1 :], encoding="utf-8")
    problem = problem_of(lambda: load(path))
    assert problem is None or (str(problem).isprintable() and problem.where.startswith(str(path)))
