import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from didact.recipe import Corpus, Evaluate, Finetune, Pretrain, Recipe, Tokenizer, dump, load

# what YAML is apt to take for something else, and any other text
TEXT = st.one_of(
    st.sampled_from(
        [
            "no",
            "1e-4",
            "100k",
            "012",
            "~",
            "a#3",
            "a: b",
            "- x",
            "*a",
            "<<",
            "=",
            "",
            " x ",
            "a\nb\n",
            "\x85",
            "\u2028",
            "\ufeff",
            "\r",
            "\0",
            "x" * 300 + " y",
        ]
    ),
    st.text(max_size=12),
)
WORD = TEXT.filter(bool)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True)
SOURCE = st.fixed_dictionaries(
    {"path": WORD.filter(lambda path: "/" not in path)},
    optional={"weight": st.floats(0.01, 9), "sample": st.none() | st.integers(1, 10**9)},
)
DATA = st.lists(SOURCE, min_size=1, max_size=3).map(lambda sources: {"sources": sources})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTIVE = st.fixed_dictionaries(
    {"name": st.sampled_from(["causal", "sft", "name", "options", "my.mod:Mine", "no"])},
    optional={"options": st.dictionaries(TEXT, JSON, max_size=3)},
)
TUNE = st.one_of(
    st.sampled_from(["all", "head", "lora"]),
    st.integers(1, 9).map(lambda n: {"last": n}),
    st.lists(TEXT, min_size=1, max_size=3).map(lambda tokens: {"tokens": tokens}),
    st.tuples(
        st.sampled_from([{"what": "all"}, {"last": 1}, {"lora": None}, {}]), st.dictionaries(TEXT, TEXT, min_size=1)
    ).map(lambda pair: {**pair[0], "tokens": pair[1]}),
    st.fixed_dictionaries(
        {"rank": st.integers(1, 99)},
        optional={"alpha": st.none() | st.floats(0.1, 99), "targets": st.lists(TEXT, max_size=3)},
    ).map(lambda lora: {"lora": lora}),
)
TASKS = st.lists(
    st.fixed_dictionaries({"data": DATA, "objective": OBJECTIVE}, optional={"weight": st.floats(0.01, 9)})
    | st.fixed_dictionaries({"data": DATA, "objective": OBJECTIVE, "ratio": st.floats(0.01, 9)}),
    min_size=1,
    max_size=3,
).map(lambda tasks: [{**task, "name": f"t{i}"} for i, task in enumerate(tasks)])
WAY = st.one_of(
    st.fixed_dictionaries({"data": DATA}, optional={"objective": OBJECTIVE}), st.fixed_dictionaries({"tasks": TASKS})
)
HOW = st.fixed_dictionaries(
    {},
    optional={
        "tune": TUNE, "seed": st.integers(0, 9), "tokens": st.none() | st.integers(1, 2**62), "heldout": DATA,
        "epochs": st.none() | st.floats(0.1, 9), "learning_rate": st.floats(1e-12, 9), "pack": st.booleans(),
        "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), "precision": st.sampled_from(["auto", "bf16"]),
    },
)  # fmt: skip
EVALUATE = st.fixed_dictionaries(
    {"data": st.dictionaries(NAME, DATA, max_size=2), "samples": st.lists(TEXT, min_size=1, max_size=3)},
    optional={"limit": st.none() | st.integers(1, 99), "against": st.just("none")},
)
STAGE = st.one_of(
    st.builds(lambda way, how: Pretrain(**way, **how), WAY, HOW),
    st.builds(lambda way, how: Finetune(**way, **how), WAY, HOW),
    st.builds(lambda data: Tokenizer(data=data), DATA),
    st.builds(lambda domain, holdout: Corpus(domain=domain, holdout=holdout), WORD, st.floats(0, 0.9)),
    EVALUATE.map(lambda more: Evaluate(**more, gate=dict.fromkeys(more["data"], 2.5))),
)
BASE = WORD | st.builds(
    lambda size, config: {"architecture": "qwen3", "size": size, "config": config},
    st.sampled_from(["12M", 9]),
    st.dictionaries(TEXT, JSON, max_size=3),
)
RECIPE = st.builds(
    lambda name, base, seed, stages: Recipe(name=name, base=base, seed=seed, stages=stages),
    NAME,
    BASE,
    st.integers(0, 9),
    st.lists(STAGE, min_size=1, max_size=3),
)


@pytest.mark.timeout(250)
@given(RECIPE)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_written_reads_back_equal(tmp_path, recipe):
    path = tmp_path / "r.yaml"
    path.write_bytes(dump(recipe).encode())
    loaded = load(path)
    assert loaded.recipe == recipe
    assert loaded.said == []
    assert dump(loaded.recipe) == dump(recipe)


def test_every_default_is_written_out(reads, quickstart):
    text = dump(reads(quickstart).recipe)
    assert "learning_rate: 0.0002\n" in text
    assert "overlong: drop\n" in text
    assert "tokens: 100000\n" in text
    assert "data: corpus/questions\n" in text
    assert text.startswith("name: quickstart\nbase: smollm2-135m-instruct\n")


def test_an_override_of_the_seed_still_reaches_a_written_recipe(reads, quickstart):
    recipe = reads(dump(reads(quickstart, "pretrain.seed=7").recipe), "seed=3").recipe
    assert [stage.seed for stage in recipe.stages] == [3, 3, 7, 3, 3]
