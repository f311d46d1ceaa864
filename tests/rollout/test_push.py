"""Weights sent to an engine: what is written and posted, and that a stage with our own server trains as one without."""

import json
from http.server import BaseHTTPRequestHandler

import pytest
import torch
from safetensors.torch import load_file

from didact.engine.mesh import Mesh, pick_device
from didact.errors import ResourceProblem, UsageProblem
from didact.model import lora
from didact.model.load import load
from didact.model.settings import Lora
from didact.recipe import load as load_recipe
from didact.rollout.push import Push
from didact.rollout.remote import Engine
from didact.rollout.settings import Rollout
from didact.run.folder import run_folder
from didact.run.life import Life
from didact.run.named import open_model
from didact.serve.lane import lane
from didact.serve.served import Served
from tests.battery.base import lines, make_base
from tests.listening import listening
from tests.serve.running import running

MODEL = "base:mine"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("tiny") / "model")


def opened(base):
    return open_model(str(base), "cpu", lambda line: None, torch.float32)


@pytest.fixture
def engine():
    """A server that keeps what it is asked, and answers as it is told."""
    told = {"asked": [], "answers": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told["asked"].append((self.path, body))
            code, answer = told["answers"].get(self.path, (200, "Success"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(answer.encode())

    with listening(Handler) as address:
        told["url"] = f"{address}/v1"
        yield told


def push(url, kind, folder, renderer, model=MODEL, stage="stage"):
    return Push(Rollout(url=url, model=model, push=kind, folder=str(folder)), folder.parent / stage, renderer)


ADAPTER = {"lora_name": MODEL, "lora_path": "PATH", "load_inplace": True}
POSTED = {
    ("didact", True): [("/v1/load_lora_adapter", ADAPTER)],
    ("vllm", True): [("/v1/load_lora_adapter", ADAPTER)],
    ("sglang", True): [
        ("/unload_lora_adapter", {"lora_name": "mine"}),
        ("/load_lora_adapter", {"lora_name": "mine", "lora_path": "PATH"}),
    ],
    ("didact", False): [("/update_weights_from_disk", {"model_path": "PATH", "model": MODEL})],
    ("vllm", False): [
        ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": "PATH"}}),
        ("/reset_prefix_cache", {}),
    ],
    ("sglang", False): [("/update_weights_from_disk", {"model_path": "PATH"})],
}


@pytest.mark.parametrize(("kind", "adapter"), POSTED)
def test_what_is_posted_lies_there(engine, base, tmp_path, kind, adapter):
    named, shared = opened(base), tmp_path / "shared"
    if adapter:
        lora.add(named.model.net, Lora(rank=2))
    engine["answers"]["/unload_lora_adapter"] = (400, "it has none of that name")
    send = push(engine["url"], kind, shared, named.renderer)
    send(named.model, adapter, 0)
    (first,) = shared.iterdir()
    (shared / "policy-other").mkdir()
    other = push(engine["url"], kind, shared, named.renderer, stage="another")
    other(named.model, adapter, 0)
    send(named.model, adapter, 1)
    second = next(path for path in shared.glob(f"{send.mark}*"))
    assert first != second
    assert {path.name for path in shared.iterdir()} > {"policy-other", second.name}
    assert len([*shared.iterdir()]) == 3
    wanted = [*POSTED[kind, adapter]] * 3
    assert [at for at, _ in engine["asked"]] == [at for at, _ in wanted]
    told = json.loads(json.dumps(engine["asked"][-len(POSTED[kind, adapter]) :]).replace(str(second), "PATH"))
    assert [tuple(one) for one in told] == POSTED[kind, adapter]
    if adapter:
        fresh = opened(base).model.net
        lora.load_adapter(fresh, second)
    else:
        fresh = load(second, torch.float32)
    mine = named.model.net.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "adapter", "at", "answer", "says"),
    [
        ("vllm", True, "/v1/load_lora_adapter", (404, "Not Found"), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve"),
        ("vllm", False, "/collective_rpc", (404, "Not Found"), "VLLM_SERVER_DEV_MODE=1 vllm serve"),
        ("vllm", False, "/reset_prefix_cache", (200, '{"success": false}'), "did not load the weights"),
        ("didact", True, "/v1/load_lora_adapter", (405, "Method"), "start it with didact serve --weights /"),
        ("didact", False, "/update_weights_from_disk", (403, "no"), "DIDACT_ROLLOUT_KEY"),
        ("sglang", True, "/load_lora_adapter", (400, "no such path"), "no such path.*under this very path"),
    ],
)
def test_an_engine_that_does_not_load_them(engine, base, tmp_path, kind, adapter, at, answer, says):
    named = opened(base)
    if adapter:
        lora.add(named.model.net, Lora(rank=2))
    engine["answers"][at] = answer
    with pytest.raises(ResourceProblem, match=says) as raised:
        push(engine["url"], kind, tmp_path / "shared", named.renderer)(named.model, adapter, 0)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_sent(engine, base, tmp_path):
    named = opened(base)
    with pytest.raises(UsageProblem, match="write mine:policy"):
        push(engine["url"], "sglang", tmp_path / "shared", named.renderer, "mine")(named.model, True, 0)
    (tmp_path / "file").touch()
    with pytest.raises(ResourceProblem, match="cannot be written"):
        push(engine["url"], "vllm", tmp_path / "file" / "x", named.renderer)(named.model, False, 0)
    assert not engine["asked"]
    with pytest.raises(ResourceProblem, match="cannot be asked"):
        push("http://127.0.0.1:9/v1", "vllm", tmp_path / "shared", named.renderer)(named.model, False, 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"url": "http://x/v1", "model": "x", "push": "vllm"}, "belong together"),
        ({"url": "http://x/v1", "model": "x", "folder": "x"}, "belong together"),
        ({"push": "vllm", "folder": "x"}, "give its 'url'"),
    ],
)
def test_settings_that_belong_together(given, says):
    with pytest.raises(ValueError, match=says):
        Rollout(**given)


def test_an_engine_that_kept_older_weights_is_found_out(base):
    rollout = Rollout(url="http://x/v1", model="x", push="vllm", folder="x")
    named, said = opened(base), []
    one = Engine(rollout, named.renderer.decode, named.renderer.stops, 64)
    one.compare(0.05, said.append)
    assert "it gets each phase's weights" in said[0]
    with pytest.raises(UsageProblem, match=r"more than 0\.1; it was sent these very weights"):
        one.compare(0.2, said.append)


def test_an_engine_that_kept_a_part_of_its_weights_is_found_out(base):
    """As vLLM on a CPU, whose tied head stays: 6.5e-7 nats in the first phase, 0.059 in the second."""
    rollout = Rollout(url="http://x/v1", model="x", push="vllm", folder="x")
    named = opened(base)
    one = Engine(rollout, named.renderer.decode, named.renderer.stops, 64)
    one.compare(6.5e-7, lambda line: None)
    one.compare(0.009, lambda line: None)
    with pytest.raises(UsageProblem, match=r"more than 0\.01; .* serves all of them"):
        one.compare(0.059, lambda line: None)


# --- a whole stage -------------------------------------------------------------------------------------------------

RECIPE = """
name: r
base: ./base
stages:
  - reinforce:
      data: asked.jsonl
      context: 64
      batch_size: 2
      micro_batch_size: 2
      max_steps: 6
      precision: fp32
      forgetting: false
      tune: TUNE
      learning_rate: 0.03
      rollout: {group: 4, max_new_tokens: 8, epochs: 2, ENGINE}
      rewards:
        - regex: {pattern: e}
"""
WHAT = {"lora": "{lora: {rank: 2}}", "all": "all"}


def train(folder, tune, engine="slots: 32", steps=6):
    """The stage's metrics, all its answers and its weights."""
    recipe = RECIPE.replace("TUNE", WHAT[tune]).replace("ENGINE", engine).replace("max_steps: 6", f"max_steps: {steps}")
    (folder / "recipe.yaml").write_text(recipe)
    life = Life(
        load_recipe(folder / "recipe.yaml", []).recipe,
        run_folder(folder / "runs", "r"),
        Mesh(pick_device("cpu")),
        lambda line: None,
        folder / "cache",
    )
    (stage,) = life.run()
    steps = [json.loads(line) for line in (stage.folder.path / "metrics.jsonl").read_text().splitlines()]
    phases = sorted(stage.folder.path.glob("rollouts/phase-*"))
    said = [json.loads(line)["answer"] for path in phases for line in (path / "said.jsonl").open()]
    tokens = [load_file(path / "columns.safetensors")["token"] for path in phases]
    return steps, said, tokens, load_file(stage.artifact.model / "model.safetensors")


@pytest.fixture
def place(tmp_path, monkeypatch):
    def made(name):
        folder = tmp_path / name
        folder.mkdir()
        make_base(folder / "base")
        asked = [{"prompt": f"The {colour} {thing}"} for colour in ("red", "blue") for thing in "abc"]
        (folder / "asked.jsonl").write_text(lines(asked))
        monkeypatch.chdir(folder)
        return folder

    return made


@pytest.fixture
def serving(base, tmp_path):
    """Our own server, with the base and a folder for other weights."""
    (tmp_path / "shared").mkdir()
    named = opened(base)
    with running(Served("tiny", named, lane(named)), weights=tmp_path / "shared") as up:
        yield up


def engine_at(up, tune):
    name = {"lora": "policy", "all": "tiny"}[tune]
    return f"url: '{up.url}/v1', model: {name}, push: didact, folder: '{up.state.weights}', slots: 1"


@pytest.mark.parametrize("tune", WHAT)
def test_with_our_server_it_learns_what_it_learns_alone(place, serving, tune):
    """Three phases of the same seeds: equal tokens, and losses apart by no more than rounding."""
    steps, said, tokens, weights = train(place("here"), tune)
    far, told, tokens_far, weights_far = train(place("there"), tune, engine_at(serving, tune))
    assert len(steps) == len(far) == 6
    assert said == told
    assert all(torch.equal(one, other) for one, other in zip(tokens, tokens_far, strict=True))
    assert len(tokens) == 3
    for one, other in zip(steps, far, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["gauge/grpo/mismatch"] < 1e-4
    start = load_file(place("start") / "base" / "model.safetensors")
    assert max(float((weights[name] - start[name]).abs().max()) for name in start) > 0.05
    for name, value in weights.items():
        torch.testing.assert_close(weights_far[name], value, rtol=0, atol=1e-3)
    assert len([*serving.state.weights.iterdir()]) == 1


def test_cut_off_in_a_phase_it_ends_as_if_it_had_not_been(place, serving, monkeypatch):
    whole = train(place("whole"), "lora", engine_at(serving, "lora"), 4)
    right, left = Engine._one, [12]

    def dies(self, *given):
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("killed")
        return right(self, *given)

    folder = place("cut")
    monkeypatch.setattr(Engine, "_one", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train(folder, "lora", engine_at(serving, "lora"), 4)
    again = train(folder, "lora", engine_at(serving, "lora"), 4)
    assert left[0] < 0
    assert again[1] == whole[1]
    assert all(torch.equal(again[3][name], value) for name, value in whole[3].items())
