"""``didact embed`` and the stage ``mine``, from a folder on the disk."""

import json
import os

import numpy as np
import pytest
import torch

from didact.engine.mesh import Mesh
from didact.errors import DataProblem, UsageProblem
from didact.model.save import save_model
from didact.recipe.making import Mine
from didact.run.command import run_recipe
from didact.run.embed import embed
from didact.run.folder import StageFolder
from didact.run.ground import Ground
from didact.run.mine import mine, nearest
from tests.model.folders import tiny, tiny_tokenizer

PAIRS = [{"anchor": f"what is {n}?", "positive": f"the number {n * n} of {n}"} for n in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed") / "model"
    net = tiny("llama")
    net.config.didact = {"embedding": {"pool": "mean", "bidirectional": True, "prompts": {"query": "ask: "}}}
    save_model(net, tiny_tokenizer(), folder)
    return folder


def ask(model, capsys, **given):
    usual = {"data": None, "texts": [], "role": "document", "dimensions": None, "output": None}
    embed(str(model), **usual | given, device="cpu", say=lambda line: None)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_a_text(model, capsys):
    lines = ask(model, capsys, texts=["a cat", "a mat"])
    assert [line["text"] for line in lines] == ["a cat", "a mat"]
    assert np.linalg.norm(lines[0]["vector"]) == pytest.approx(1, abs=1e-5)
    query = ask(model, capsys, texts=["a cat"], role="query")[0]
    assert query["role"] == "query"
    assert query["vector"] != lines[0]["vector"]
    assert len(ask(model, capsys, texts=["a cat"], dimensions=5)[0]["vector"]) == 5


def test_pairs_in_their_roles_and_into_an_array(model, capsys, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in PAIRS))
    lines = ask(model, capsys, data=str(data))
    assert [line["role"] for line in lines[:2]] == ["query", "document"]
    assert ask(model, capsys, data=str(data), output=tmp_path / "v.npy") == []
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), [line["vector"] for line in lines], atol=1e-6)


def test_what_cannot_be_embedded_is_said(model, capsys, tmp_path):
    with pytest.raises(UsageProblem, match="nothing to embed"):
        ask(model, capsys)
    with pytest.raises(UsageProblem, match=r"\.npy"):
        ask(model, capsys, texts=["a"], output=tmp_path / "v.txt")
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    with pytest.raises(DataProblem, match="no text to embed"):
        ask(model, capsys, data=str(tmp_path / "a.jsonl"))


def test_mined_negatives_are_near_and_wrong(model, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in PAIRS))
    said: list[str] = []
    ground = Ground(model, None, None, model, {}, tmp_path, Mesh(torch.device("cpu")), said.append)
    stage = Mine(name="mine", data=str(data), negatives=2, margin=99.0)
    (tmp_path / "mine").mkdir()
    artifact = mine(stage, ground, StageFolder(tmp_path / "mine"))
    lines = [json.loads(line) for line in artifact.outputs["pairs"].read_text().splitlines()]
    assert [line["anchor"] for line in lines] == [line["anchor"] for line in PAIRS]
    for line in lines:
        assert len(line["negatives"]) == 2
        assert line["positive"] not in line["negatives"]
    assert said == ["mine: 24 hard negatives for 12 anchors among 12 texts"]


def test_what_may_be_right_is_passed_over():
    score = torch.tensor([[0.80, 0.79, 0.70, 0.60, 0.50], [0.1, 0.2, 0.3, 0.9, 0.8]])
    right = torch.tensor([[True, False, False, False, False], [False, False, True, False, False]])
    positive = torch.tensor([0.80, 0.30])
    stage = {"name": "mine", "data": "a", "margin": 0.95}
    assert nearest(score, positive, right, Mine(negatives=2, **stage)) == [[2, 3], [1, 0]]
    assert nearest(score, positive, right, Mine(negatives=2, skip_top=1, **stage)) == [[3, 4], [0]]
    assert nearest(score, positive, right, Mine(negatives=9, skip_top=4, **stage)) == [[], []]


def test_a_life_with_mined_negatives(model, tmp_path):
    """Prompts and pooling of the base are kept; the model that was trained mines, and is measured."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in PAIRS))
    training = "max_steps: 2, context: 32, batch_size: 4, micro_batch_size: 2, precision: fp32"
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: life
base: {model}
device: cpu
stages:
  - finetune: {{name: first, data: pairs.jsonl, objective: contrast, {training}}}
  - mine: {{data: pairs.jsonl, negatives: 1, margin: 99}}
  - finetune: {{name: second, data: mine/pairs, objective: {{contrast: {{form: triplet}}}}, {training}}}
  - evaluate: {{measures: {{found: {{recall: {{data: pairs.jsonl, k: 12}}}}}}}}
"""
    )
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert run_recipe(tmp_path / "recipe.yaml", [], tmp_path / "runs", lambda line: None) == []
    finally:
        os.chdir(here)
    run = tmp_path / "runs" / "life"
    saved = json.loads((run / (run / "model.path").read_text().strip() / "config.json").read_text())
    assert saved["didact"]["embedding"]["prompts"] == {"query": "ask: "}
    done = json.loads(next((run / "stages").glob("3-*/done.json")).read_text())
    assert done["facts"]["measures"]["found"]["value"] == 1.0
