import hashlib
import subprocess
import sys

import pytest
from pydantic import ValidationError

from didact.data.settings import Data
from didact.engine.settings import Training
from didact.model.settings import Scratch
from didact.recipe import Corpus, Evaluate, Finetune, ObjectiveSpec, Pretrain, Recipe, TaskSpec, Tokenizer, stage_digest


def life(*stages, **more) -> Recipe:
    return Recipe(**{"name": "x", "base": "some/model", "stages": stages, **more})


def test_yaml_and_python_give_the_same_objects(reads, quickstart):
    same = Recipe(
        name="quickstart",
        base="smollm2-135m-instruct",
        stages=[
            Corpus(domain="python-stdlib", holdout=0.1),
            Tokenizer(data="corpus/documents", vocab_size=8192),
            Pretrain(data="corpus/documents", objective="causal", tokens=100_000, context=1024),
            Finetune(data="corpus/questions", epochs=1, tune={"lora": {"rank": 16}}),
            Evaluate(
                data={"documents": "corpus/documents.heldout", "answers": "corpus/questions.heldout"},
                samples=("What does os.path.join do?",),
                gate={"answers": 2.0},
            ),
        ],
    )
    assert reads(quickstart).recipe == same
    assert [type(stage) for stage in same.stages] == [Corpus, Tokenizer, Pretrain, Finetune, Evaluate]


def test_reading_imports_neither_torch_nor_transformers():
    code = "import sys, didact.recipe; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stages_are_named_by_kind_and_numbered():
    stages = life(
        Pretrain(data="a"), Pretrain(data="b"), Finetune(data="c", name="pretrain-2"), Pretrain(data="d")
    ).stages
    assert [stage.name for stage in stages] == ["pretrain", "pretrain-3", "pretrain-2", "pretrain-4"]


def test_the_seed_is_handed_down_unless_given():
    stages = life(Pretrain(data="a"), Pretrain(data="b", seed=5), Corpus(domain="d"), seed=3).stages
    assert [stage.seed for stage in stages] == [3, 5, 3]


@pytest.mark.parametrize(
    ("tune", "rate"), [("all", 1e-5), ("head", 1e-5), ("lora", 2e-4), ({"lora": {"rank": 4}}, 2e-4)]
)
def test_finetune_has_defaults_of_its_own(tune, rate):
    stage = Finetune(data="a", tune=tune)
    assert (stage.learning_rate, stage.overlong, stage.objective) == (rate, "drop", ObjectiveSpec(name="sft"))
    assert Finetune(data="a", tune=tune, learning_rate=3e-3).learning_rate == 3e-3


def test_pretrain_keeps_the_defaults_of_training():
    stage = Pretrain(data="a")
    assert {name: getattr(stage, name) for name in Training.model_fields} == Training().model_dump() | {
        "tune": Training().tune
    }


def test_one_objective_is_a_mixture_of_one():
    stage = Pretrain(data="a", objective={"masked": {"share": 0.3}})
    spec = ObjectiveSpec(name="masked", options={"share": 0.3})
    assert stage.task_list == (TaskSpec(name="masked", data=Data(sources=["a"]), objective=spec),)


def test_a_mixture_names_its_tasks():
    stage = Pretrain(
        tasks=[{"data": "a", "objective": "causal", "weight": 0.5}, {"data": "b", "objective": "my.mod:Mine"}]
    )
    assert [(task.name, task.weight) for task in stage.task_list] == [("causal", 0.5), ("Mine", 1.0)]
    assert stage.objective is None
    assert set(stage.inputs()) == {("tasks", 0, "data"), ("tasks", 1, "data")}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"data": "a", "tasks": [{"data": "a", "objective": "causal"}]},
        {"objective": "causal", "tasks": [{"data": "a", "objective": "causal"}]},
        {"tasks": [{"data": "a", "objective": "causal"}, {"data": "b", "objective": "causal"}]},
    ],
)
def test_data_is_given_in_exactly_one_way(more):
    with pytest.raises(ValidationError):
        Pretrain(**more)


def test_a_ratio_sets_the_weight():
    task = {"data": "a", "objective": "causal", "ratio": 4.1}
    assert TaskSpec(**task).ratio == 4.1
    with pytest.raises(ValidationError, match="'weight' or 'ratio'"):
        TaskSpec(**task, weight=2.0)


@pytest.mark.parametrize("short", ["causal", {"causal": None}, {"causal": {}}, {"name": "causal"}])
def test_short_forms_of_an_objective(short):
    assert ObjectiveSpec.model_validate(short) == ObjectiveSpec(name="causal", options={})


@pytest.mark.parametrize("name", ["a b", "", "x:", ":x", "a:b:c", "9", "x\n"])
def test_objective_names(name):
    with pytest.raises(ValidationError):
        ObjectiveSpec(name=name)


def test_base_from_scratch():
    base = life(Corpus(domain="d"), base={"architecture": "qwen3", "size": 12_000_000}).base
    assert base == Scratch(architecture="qwen3", size="12000000")


@pytest.mark.parametrize(("text", "value"), [("100k", 100_000), ("1M", 10**6), ("1.5B", 1_500_000_000), ("64", 64)])
def test_humane_numbers(text, value):
    assert Pretrain(data="a", tokens=text).tokens == value
    assert Tokenizer(data="a", vocab_size=max(value, 257)).vocab_size == max(value, 257)


@pytest.mark.parametrize("text", ["1.2345k", "k", "1kk", "-1k", "1 k k", "1T", "9999999999999999999B", True, 2**63])
def test_numbers_that_are_none(text):
    with pytest.raises(ValidationError):
        Pretrain(data="a", tokens=text)


@pytest.mark.parametrize("tune", [{"last": 4, "lora": {}}, {"what": "head", "tokens": ["a"]}, "last", {"lra": {}}])
def test_tune_makes_one_choice(tune):
    with pytest.raises(ValidationError):
        Pretrain(data="a", tune=tune)


def test_frozen():
    with pytest.raises(ValidationError):
        life(Corpus(domain="d")).seed = 2


class TestDigest:
    def test_incidental_fields_and_names_do_not_count(self):
        plain = stage_digest(Pretrain(data="a"))
        values = {"log_every": 9, "save_every": 9, "keep_checkpoints": 9, "micro_batch_size": 2, "compile": "off"}
        for change in [*({k: v} for k, v in values.items()), {"name": "other"}, {"activation_checkpointing": True}]:
            assert stage_digest(Pretrain(data="a", **change)) == plain, change

    def test_every_other_field_counts(self):
        changes = {
            "data": "b", "objective": "prefix", "heldout": "h", "epochs": 2, "max_steps": 3, "tokens": 4, "context": 8,
            "batch_size": 2, "pack": False, "overlong": "drop", "shuffle": False, "tune": "head", "optimizer": "muon",
            "learning_rate": 1, "muon_learning_rate": 1, "betas": (0, 0), "eps": 1, "weight_decay": 1,
            "layer_decay": 0.5, "unfreeze": 0.5, "schedule": "wsd", "warmup_ratio": 1, "decay_ratio": 1, "min_ratio": 1,
            "grad_clip": 2, "precision": "fp32", "seed": 1, "forgetting": True, "general": "g",
            "stop_when": ("loss < 1",),
        }  # fmt: skip
        fields = set(Pretrain.model_fields) - Pretrain.incidental - {"tasks"}
        assert fields == set(changes)
        digests = {stage_digest(Pretrain(**{"data": "a", name: value})) for name, value in changes.items()}
        assert len(digests | {stage_digest(Pretrain(data="a"))}) == len(changes) + 1

    def test_the_kind_counts_and_spelling_does_not(self):
        assert stage_digest(Pretrain(data="a")) != stage_digest(Finetune(data="a"))
        assert stage_digest(Pretrain(data=["a"], tokens="1k")) == stage_digest(Pretrain(data="a", tokens=1000))

    def test_it_is_the_sha256_of_canonical_json(self):
        text = '{"corpus":{"domain":"d","holdout":0.1,"only":[],"seed":0}}'
        assert stage_digest(Corpus(domain="d")) == hashlib.sha256(text.encode()).hexdigest()
