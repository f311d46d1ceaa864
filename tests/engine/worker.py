"""Trains toy models in processes that may be killed: as a server of forks, or as the program of a supervisor.

``python -m tests.engine.worker`` reads a JSON line an attempt, ``{"job", "folder", "harm"}``, forks the job's
processes, harms them, and prints their exit codes. It imports torch once, so that an attempt takes a fraction of a
second. ``python -m tests.engine.worker JOB FOLDER`` trains in this process, one of WORLD_SIZE.

Each step leaves a line in ``trail``, also steps that a resumed run takes again: these must be equal, bit for bit.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import psutil
import torch
from torch.distributed.tensor import DTensor

from didact import recipe as recipes
from didact.batch import Batch
from didact.engine import meter, supervise
from didact.engine.evaluate import evaluate
from didact.engine.mesh import join
from didact.engine.settings import Training, Turn
from didact.engine.step import Source
from didact.engine.stop import SIGNALS, listening
from didact.engine.train import Loop
from didact.errors import Problem
from didact.model import lora
from didact.model.model import Model
from didact.model.settings import Lora
from didact.objective.contrast import Contrast
from didact.objective.diffusion import Diffusion
from didact.objective.distil import Distil
from didact.objective.linked import Linked
from didact.objective.masked import Masked
from didact.objective.policy import Dapo, Ppo
from didact.objective.tokens import Causal, Prefix
from didact.run import learn, reward
from didact.run.folder import run_folder
from didact.run.life import Life
from tests.engine.chaos import Counter, Killer, events
from tests.rollout.scene import toy_critic, toy_experience
from tests.toy import toy_model, toy_pairs, toy_parts, toy_stream, toy_vocabulary

REPOSITORY = Path(__file__).parents[2]
BOUND = 200  # seconds after which an attempt counts as hung


class Traced(Loop):
    """Leaves a trail: everything that must be the same however often the run was killed, as hex."""

    kept: ClassVar[Path | None] = None  # where, if not in the loop's own folder

    def _record(self, metrics, progress, step, norm, rate, reading):
        super()._record(metrics, progress, step, norm, rate, reading)
        if self.mesh.main:
            line = {"name": self.name, "step": self.place.step, "rows": step.rows, "tokens": self.place.tokens}
            line |= {"loss": self.place.loss.hex(), "norm": norm.hex(), "rate": rate.hex()}
            line |= {f"loss/{task}/{term}": value.hex() for (task, term), value in step.loss.items()}
            write((self.kept or self.folder) / "trail", json.dumps(line))


class Poisoned(Causal):
    """Some rows have a loss that is no number."""

    rows: tuple[int, ...] = ()

    def loss(self, model, batch: Batch):
        bad = torch.isin(batch.row, torch.tensor(self.rows, dtype=torch.int64))
        return {"token": torch.where(bad[:, None], torch.nan, super().loss(model, batch)["token"])}


def write(path: Path, line: str) -> None:
    """Appends a line of its own, also after one that a killed writer tore."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"\n{line}\n".encode())
    os.close(handle)


def train(job: dict[str, Any], folder: Path) -> None:
    """One process of a job, from wherever the last attempt left it."""
    mesh = join("cpu")
    dtype = getattr(torch, job.get("dtype", "float32"))

    def fresh() -> Model:
        model = toy_model(dtype=dtype if mesh.size == 1 else torch.float32, **job.get("model", {}))
        if job.get("lora"):
            lora.add(model.net, Lora(rank=4, dropout=job.get("dropout", 0.0)))
        model.add_heads(Linked.heads if job.get("linked") else Ppo.heads if job.get("policy") else {})
        if job.get("policy") == "critic":
            model.add_critic(toy_critic())
        return model

    model = fresh()
    model.train()
    if model.critic:
        mesh.shard(model.critic, model.critic.layers, dtype)
    mesh.shard(model, model.layers, dtype)
    settings = Training(**{"context": 32, "micro_batch_size": 1, **job.get("training", {})})
    causal = Poisoned()
    object.__setattr__(causal, "rows", tuple(job.get("poison", ())))
    place = {"rank": mesh.rank, "world": mesh.size}
    streams = [toy_stream(batch_size=settings.batch_size, seed=i, documents=24, **place) for i in range(2)]
    turn = Turn(**job.get("turn", {"weight": 0.3}))
    sources = [
        Source("causal", causal, streams[0], Turn(**job.get("first", {}))),
        Source("prefix", Prefix(), streams[1], turn),
    ]
    if job.get("masked"):
        masked = Masked(rate=[0.5, 0.3], span=[1, 3]).bind(toy_vocabulary())
        sources[1] = Source("masked", masked, streams[1], turn)
    if job.get("pairs"):
        pairs = toy_pairs(batch_size=settings.batch_size, negatives=2, **place)
        sources[1] = Source("contrast", Contrast(symmetric=True), pairs, turn)
    if job.get("diffusion"):
        sources[1] = Source("diffusion", Diffusion(block=4, vocabulary=toy_vocabulary()), streams[1], turn)
    if job.get("distil"):
        taught = toy_stream(batch_size=settings.batch_size, seed=1, documents=24, top=3, **place)
        sources[1] = Source("distil", Distil(teacher="self", top=3, temperature=2.0), taught, turn)
    if job.get("linked"):
        pairs = toy_pairs(batch_size=settings.batch_size, scored=3, **place)
        sources[1] = Source("linked", Linked(), pairs, turn)
    if job.get("policy"):
        how: dict[str, Any] = {"prompts_a_phase": 8, "epochs": 2, "batch_size": settings.batch_size}
        refill = job["policy"] == "refill"
        objective = Dapo(baseline="none", drop_unfinished=False) if refill else Ppo(target_kl=0.01)
        how["reward"] = "half" if refill else "even"
        acts = toy_experience(folder, objective, model, mesh=mesh, whole=fresh, **how)
        sources[1] = Source("policy", acts.objective, acts, turn)
    wait = job.get("wait", 0.0)

    def say(line: str) -> None:
        if mesh.main:
            write(folder / "said", line)

    def score() -> str:
        heldout = toy_parts(32, documents=9, seed=7)
        return evaluate(model, Causal(), heldout, 32, mesh, rows=2).nats.hex()

    before = score()
    loop = Traced(model, sources[: job.get("tasks", 2)], settings, job["steps"], folder, mesh, say)
    if wait:
        take, loop._gradient = loop._gradient, lambda *given: (time.sleep(wait), take(*given))[1]  # type: ignore
    done = loop.run()
    after = score()
    state = {name: digest(tensor) for name, tensor in loop.optimizer.tensors().items()}
    state |= {f"net.{name}": digest(tensor) for name, tensor in model.net.state_dict().items()}
    if mesh.main:
        closing = {"steps": done.steps, "tokens": done.tokens, "loss": done.loss.hex(), "state": state}
        closing |= {"before": before, "after": after}
        (folder / "closing.json").write_text(json.dumps(closing))
    mesh.barrier()


def live(job: dict[str, Any], folder: Path) -> None:
    """One process of the life that a recipe tells of, from wherever the last attempt left it."""
    mesh = join("cpu")
    Traced.kept, learn.Loop, reward.Loop = folder, Traced, Traced  # in this process alone

    def say(line: str) -> None:
        if mesh.main:
            write(folder / "said", line)

    recipe = recipes.load(Path(job["recipe"]), []).recipe
    runs = run_folder(folder / "runs", recipe.name)
    Life(recipe, runs, mesh, say, folder / "cache").run()
    if mesh.main:
        files = sorted(
            path for path in runs.rglob("model/**/*") if path.suffix == ".safetensors" or path.name == "config.json"
        )
        state = {str(path.relative_to(runs)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        (folder / "closing.json").write_text(json.dumps({"state": state}))
    mesh.barrier()


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the bytes of the whole tensor."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return hashlib.sha256(whole.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def guarded(job: dict[str, Any], folder: Path) -> int:
    """The exit code of ``train``, as the command line would give it."""
    try:
        with listening():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            (live if "recipe" in job else train)(job, folder)
    except Problem as problem:
        write(folder / "said", f"{problem.code}: {problem}")
        return problem.code
    except Exception as error:
        write(folder / "said", f"{type(error).__name__}: {error}")
        return 1
    return 0


def start(job: dict[str, Any], folder: Path, rank: int, world: int, port: int, act: Counter | None) -> int:
    """Forks one process of an attempt."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child listens
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return child
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_PORT": str(port)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    with events(act) if act else nullcontext():
        code = guarded(job, folder)
    if act and code == 0:
        write(folder / "events", str(len(act.seen)))
    os._exit(code)


def attempt(job: dict[str, Any], folder: Path, harm: dict[str, Any]) -> dict[str, Any]:
    """The exit codes of all processes of one attempt, None for one that hung, and the first's processor seconds.

    ``harm``: {"rank", "event", "when"} kills a process at a file event; {"rank", "after", "signal"} sends a signal to
    a process (to all where the rank is None) once it has worked for so many processor seconds, which a busy machine
    does not change, or with "step" instead once that step is taken, with "lines" once the trail has so many;
    {"count": true} counts the events of the first.
    """
    world, port = job.get("world", 1), supervise._free_port()
    acts: dict[int, Counter] = {0: Counter()} if harm.get("count") else {}
    if "event" in harm:
        acts[harm["rank"]] = Killer(harm["event"], harm["when"])
    children = [start(job, folder, rank, world, port, acts.get(rank)) for rank in range(world)]
    codes: dict[int, int | None] = {}
    seconds, broken, began, pending = 0.0, None, time.monotonic(), "signal" in harm
    while len(codes) < world:
        if pending and due(harm, children, folder):
            pending = False
            for child in children if harm["rank"] is None else [children[harm["rank"]]]:
                if child not in codes:
                    os.kill(child, harm["signal"])
        done, status, usage = os.wait4(-1, os.WNOHANG)
        now = time.monotonic()
        if done:
            codes[done] = os.waitstatus_to_exitcode(status)
            broken = broken or (now if codes[done] not in (0, 75) else None)
            seconds = usage.ru_utime + usage.ru_stime if done == children[0] else seconds
        elif (broken and now - broken > 1) or now - began > BOUND:  # ended as the supervisor would
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                codes[child] = None if broken is None else -signal.SIGKILL
        time.sleep(0.002)
    return {"codes": [codes[child] for child in children], "seconds": seconds}


def due(harm: dict[str, Any], children: list[int], folder: Path) -> bool:
    """Whether the moment of the harm has come."""
    if "step" in harm:
        return (folder / "trail").exists() and max(trail(folder), default=0) >= harm["step"]
    if "lines" in harm:
        return (folder / "trail").exists() and (folder / "trail").read_text().count("}\n") >= harm["lines"]
    return worked(children[harm["rank"] or 0]) >= harm["after"]


def worked(child: int) -> float:
    """Processor seconds of a process that may have ended."""
    try:
        times = psutil.Process(child).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def serve() -> None:
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        meter.measure_peak(torch.device("cpu"), dtype)  # once, for all that are forked
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(attempt(asked["job"], Path(asked["folder"]), asked["harm"])), flush=True)


class Server:
    """The other end of the pipe, in the tests' process."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.engine.worker"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, **pipes)
        self.seconds = 0.0
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def attempt(self, job: dict[str, Any], folder: Path, **harm: Any) -> list[int | None]:
        """The exit codes; see the function of that name. ``seconds`` is what the first process worked."""
        folder.mkdir(parents=True, exist_ok=True)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"job": job, "folder": str(folder), "harm": harm}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the server of forks is gone"
        told = json.loads(answer)
        self.seconds = told["seconds"]
        return told["codes"]


def left(folder: Path) -> set[str]:
    """Every line of the trail, once however often its step was taken."""
    return {raw for raw in (folder / "trail").read_text().split("\n") if raw.endswith("}")}


def trail(folder: Path) -> dict[int, dict[str, Any]]:
    """Every step's line, the latest."""
    lines = [json.loads(raw) for raw in (folder / "trail").read_text().split("\n") if raw.endswith("}")]
    return {line["step"]: line for line in lines}


def closing(folder: Path) -> dict[str, Any]:
    """What a finished run ended with."""
    return json.loads((folder / "closing.json").read_text())


def said(folder: Path) -> str:
    """What was said, all attempts together."""
    path = folder / "said"
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        sys.exit(guarded(json.loads(sys.argv[1]), Path(sys.argv[2])))
    serve()
