"""Linked pages from HTML to a trained head: drawn, learned, saved beside the model, loaded, measured."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from didact.engine.metrics import read
from didact.errors import DataProblem, UsageProblem
from didact.model.load import load
from didact.run.export import export
from tests.battery.base import SENTENCES
from tests.run.test_life import base, world  # noqa: F401 - fixtures

LINKS = "{links: {data: pages/, segment: 40, holdout: 0.3, passes: 2}}"
HEAD = "context: 64, batch_size: 4, max_steps: 4, learning_rate: 1e-2, objective: linked"
LEARN = f"{{pretrain: {{data: links/pairs, {HEAD}}}}}"
RELATION = "{loss: {data: links/pairs.heldout, objective: linked, term: relation, context: 64}}"
EVALUATE = f"{{evaluate: {{against: none, measures: {{relation: {RELATION}}}}}}}"


@pytest.fixture
def pages(world):  # noqa: F811
    (world.folder / "pages").mkdir()
    for i in range(24):
        text = "".join(f"<p>{SENTENCES[(i + n) % len(SENTENCES)]}</p>" for n in range(4))
        links = f'<a href="{(i + 1) % 24}.html">next</a> <a href="{(i + 7) % 24}.html">on</a> <a href="no.html">no</a>'
        (world.folder / f"pages/{i}.html").write_text(f"<main>{text}<p>{links}</p></main>")
    world.recipe(LINKS, LEARN, EVALUATE)
    return world


def heads(folder):
    return load_file(folder / "heads.safetensors")


def test_pairs_are_drawn_learned_and_measured(pages, tmp_path):
    assert pages.run() == []
    assert "24 documents with 48 links between them; 24 more are broken, 0 lead elsewhere" in pages.said
    saved = heads(pages.model)
    assert saved["relation.weight"].shape == (3, 16)
    assert saved["relation.weight"].dtype == torch.float32
    assert saved["relation.weight"].abs().max() > 0
    first, *_ = read(next(pages.stages("pretrain")[0].glob("metrics.jsonl")))
    assert first["loss/linked/relation"] == pytest.approx(math.log(3), abs=1e-5)
    relation = pages.facts("evaluate")["measures"]["relation"]
    assert 0 < relation["value"] < 3
    assert AutoModelForCausalLM.from_pretrained(pages.model).config.hidden_size == 16
    export(str(pages.folder / "runs/r"), tmp_path / "out", "fp32", lambda line: None)
    assert torch.equal(heads(tmp_path / "out")["relation.weight"], saved["relation.weight"])
    assert pages.run() == ["links", "pretrain", "evaluate"]


def test_a_later_stage_goes_on_with_the_same_head(pages):
    still = LEARN.replace("1e-2", "1e-12").replace("max_steps: 4", "max_steps: 1")
    plain = "{pretrain: {data: links/documents, context: 64, batch_size: 2, max_steps: 1}}"
    pages.recipe(LINKS, LEARN, still, plain)
    pages.run()
    one, two, three = (heads(path / "model") for path in pages.stages("pretrain"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-8, rtol=0)
        assert torch.equal(three[name], two[name]), "a stage without the head changes it"


def test_the_head_is_trained_beside_a_lora(pages):
    pages.recipe(LINKS, LEARN.replace("context: 64", "tune: {lora: {rank: 2}}, context: 64"))
    pages.run()
    assert heads(pages.model)["relation.weight"].abs().max() > 0
    assert not list(pages.model.glob("adapter*"))
    assert load(pages.model, torch.float32)


def spoiled(path, way):
    tensors = load_file(path)
    if way == "torn":
        path.write_bytes(path.read_bytes()[:-3])
    elif way == "nan":
        tensors["relation.bias"][0] = math.nan
        save_file(tensors, path)
    else:
        save_file({"relation.weight": torch.zeros(3, 7), "relation.bias": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("way", "words"),
    [("torn", "truncated"), ("nan", "not finite"), ("other", "these heads are not of this model; delete the file")],
)
def test_damaged_heads_are_refused(pages, way, words):
    pages.recipe(LINKS, LEARN)
    pages.run()
    pages.model.rename(pages.folder / "mine")
    spoiled(pages.folder / "mine/heads.safetensors", way)
    pages.recipe(LINKS, LEARN, base="./mine")
    with pytest.raises(DataProblem, match=words):
        pages.run("name=r2")


def test_a_model_without_the_head_is_not_measured_by_it(pages):
    pages.recipe(LINKS, EVALUATE)
    with pytest.raises(UsageProblem, match="no head 'relation'; train it with the objective that has it"):
        pages.run()


def test_documents_without_links_are_paired_without_them(pages):
    for path in (pages.folder / "pages").iterdir():
        path.write_text(path.read_text().replace("href", "name"))
    pages.recipe(LINKS, LEARN)
    pages.run()
    assert any("no document points at another, so pairs are contiguous and random only" in line for line in pages.said)
    lines = (pages.stages("links")[0] / "pairs.jsonl").read_text().splitlines()
    assert {json.loads(line)["relation"] for line in lines} == {"contiguous", "random"}


@pytest.mark.slow
def test_two_processes_save_the_head_that_one_does(pages):
    pages.recipe(LINKS, LEARN.replace("max_steps", "precision: fp32, max_steps"), more="device: cpu\n")
    found = []
    for runs, options in (("one", ()), ("two", ("--nproc", "2"))):
        command = [sys.executable, "-m", "didact", "run", "recipe.yaml", "--runs", runs, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(command, cwd=pages.folder, env=environment, check=True, capture_output=True, timeout=300)
        found.append(heads(next((pages.folder / runs).rglob("heads.safetensors")).parent))
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-5, rtol=1e-3)
