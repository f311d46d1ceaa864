"""The laws on a recipe's own terms: a toy network of its architecture, its tokenizer, data, objectives and tuning."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from didact.audit import laws
from didact.audit.acted import acted
from didact.audit.scored import save_scorers, scored_as_trained
from didact.audit.toy import toy_network, toy_teacher
from didact.data.corpus import Corpus, encode
from didact.data.example import Answers, Conversation, Document, Example, Said, Texts
from didact.data.pieces import Pieces, cut
from didact.data.sets import arranged
from didact.data.settings import Data
from didact.data.source import examples
from didact.data.stream import TokenStream
from didact.engine import checkpoint
from didact.engine.mesh import Mesh, pick_device
from didact.engine.precision import pick_dtype
from didact.engine.progress import Progress
from didact.engine.step import Source
from didact.engine.train import Loop
from didact.errors import Problem
from didact.model.load import load as load_network
from didact.model.model import Model
from didact.model.save import save_model
from didact.model.settings import Scratch
from didact.objective import resolve
from didact.objective.base import Objective
from didact.objective.diffusion import Diffusion
from didact.objective.policy import Policy
from didact.objective.reward import Reward
from didact.recipe import Learning, load
from didact.recipe.learning import TaskSpec
from didact.recipe.rewarding import RewardModel
from didact.rollout.cast import read
from didact.rollout.diffusion import Unmasker
from didact.rollout.experience import Experience
from didact.rollout.sampler import Sampler
from didact.rollout.settings import Sampling
from didact.run.folder import run_folder
from didact.run.learn import bound, tokenizer_for
from didact.run.life import Life
from didact.text.render import Renderer

EXAMPLES = 24  # of each source
CONTEXT = 64  # tokens in a row
ANSWERED = 256  # the same of a prompt with its answers, which cannot be cut
LETTERS = 24  # of a prompt and of an answer
PIECE = 20  # tokens of a document, so that rows hold several
ROWS = 4
STEPS = 4  # of the run that is stopped in its middle
GRADIENT = {"cpu": 1e-5}  # bounds: fp32 sums in another order stay a tenth below
LOGPROB = {"cpu": 1e-4}
ELSEWHERE = 1e-3  # devices whose fp32 products are not quite
LOGITS = 2e-2
SAVED = 1e-5


@dataclass(frozen=True)
class Measured:
    """How far one law is from holding; ``note`` says it where a number does not. A bound of 0 means equal."""

    stage: str
    law: str
    distance: float
    bound: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the law holds."""
        return self.distance <= self.bound


@dataclass(frozen=True)
class Pattern:
    """The model the toys stand for: its architecture's name and the fields of its configuration."""

    architecture: str
    fields: Mapping[str, Any]


def trials(recipe: Path, overrides: Sequence[str], runs: Path, say: Callable[[str], None]) -> Iterator[Measured]:
    """Makes the data of a recipe and measures every law on each of its training stages, without training the base."""
    loaded = load(recipe, overrides)
    for line in loaded.said:
        say(line)
    mesh = Mesh(pick_device(loaded.recipe.device))
    life = Life(loaded.recipe, run_folder(runs, loaded.recipe.name), mesh, say)
    base = loaded.recipe.base
    pattern = Pattern(base.architecture, base.config) if isinstance(base, Scratch) else None
    for stage in life.without_training():
        if pattern is None:
            pattern, measured = check_base(life, mesh)
            yield measured
        with tempfile.TemporaryDirectory(prefix="didact-doctor-") as temporary, one_thread():
            yield from Trial(stage, life, pattern, mesh, Path(temporary)).run()


@contextmanager
def one_thread() -> Iterator[None]:
    """Toys are too small to share: on a busy machine, threads that wait for each other take several times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_base(life: Life, mesh: Mesh) -> tuple[Pattern, Measured]:
    """The real base: its configuration, and our attention and head against the network's own."""
    assert life.base is not None
    net = load_network(life.base, pick_dtype("auto", mesh.device))
    model = Model(net).to(mesh.device)
    config = net.config.get_text_config()
    measured = passed("base", "0 the network's own log-probabilities", LOGITS, model.check)
    return Pattern(net.config.model_type, config.to_dict() | _common(config)), measured


def _common(config: PreTrainedConfig) -> dict[str, Any]:
    """Fields under their common names: ``hidden_size`` for GPT-2's ``n_embd``."""
    return {name: getattr(config, name) for name in config.attribute_map}


def passed(stage: str, law: str, bound: float, check: Callable[[], None]) -> Measured:
    """A check that raises when it fails."""
    try:
        check()
    except Problem as problem:
        return Measured(stage, law, float("inf"), bound, problem.what)
    return Measured(stage, law, 0.0, bound, "within the bound")


class Trial:
    """One stage at toy size."""

    def __init__(self, stage: Learning, life: Life, pattern: Pattern, mesh: Mesh, folder: Path):
        self.stage, self.life, self.pattern, self.mesh, self.folder = stage, life, pattern, mesh, folder
        self.gradient = GRADIENT.get(mesh.device.type, ELSEWHERE)
        self.logprob = LOGPROB.get(mesh.device.type, ELSEWHERE)
        judged = any(resolve(task.objective.name, task.objective.options).judged for task in stage.task_list)
        self.context = ANSWERED if judged else CONTEXT

    def run(self) -> Iterator[Measured]:
        """Every law; each objective of a mixture by itself."""
        for number, task in enumerate(self.stage.task_list):
            name = self.stage.name if len(self.stage.task_list) == 1 else f"{self.stage.name}/{task.name}"
            yield from self._task(name, task, number)
        yield passed(self.stage.name, "6 saved as trained", SAVED, self._save)
        yield Measured(self.stage.name, "4 stopped and resumed", self._resume(), 0.0)

    def _task(self, name: str, task: TaskSpec, number: int) -> Iterator[Measured]:
        renderer, model = self._model()
        objective = bound(self.stage, renderer.tokenizer)[number]
        if isinstance(objective, Policy):
            yield from self._acted(name, task, objective, renderer, model)
            return
        found = self._examples(task.data)
        parts = self._parts(found, renderer, f"{number}", objective)
        packed, loose = (next(self._stream(parts, pack).start(0))[0].to(self.mesh.device) for pack in (True, False))
        model.eval()  # dropout is meant to differ from one cut of a step to the next
        yield Measured(name, "1 any micro-batches", laws.micro_batches(model, objective, packed), self.gradient)
        yield Measured(name, "2 packed as unpacked", laws.packing(model, objective, packed), self.gradient)
        yield Measured(name, "3 weight zero is nothing", laws.weight_zero(model, objective, loose), self.gradient)
        if objective.generates or isinstance(objective, Diffusion):
            yield Measured(name, "5 sampled as trained", self._sampled(model, objective, renderer, found), self.logprob)
        if isinstance(objective, Reward):
            yield Measured(name, "5 scored as trained", self._scored(model, objective, renderer, found), self.logprob)
        if any(isinstance(example, Conversation) for example in found):
            yield self._joint(name, renderer, found)

    def _acted(
        self, name: str, task: TaskSpec, objective: Policy, renderer: Renderer, model: Model
    ) -> Iterator[Measured]:
        """The laws on answers that the toy gives; law 5 in what the sampler and training say of these."""
        stream = self._acting(task, objective, renderer, model, self.folder / "acted", ROWS)
        acts = stream.objective
        batch = next(stream.start(0))[0].to(self.mesh.device)
        model.eval()
        yield Measured(name, "1 any micro-batches", laws.micro_batches(model, acts, batch), self.gradient)
        yield Measured(name, "2 packed as unpacked", laws.packing(model, acts, batch), self.gradient)
        yield Measured(name, "3 weight zero is nothing", laws.weight_zero(model, acts, batch), self.gradient)
        apart = (read(model, batch, 1.0, ROWS) - batch.behaviour.cpu()).abs().max()
        yield Measured(name, "5 sampled as trained", float(apart), self.logprob)

    def _acting(
        self, task: TaskSpec, objective: Policy, renderer: Renderer, model: Model, folder: Path, size: int
    ) -> Experience:
        given = (self.life, renderer, model, self.mesh, folder, size, self.stage.seed)
        return acted(objective, task.name, task.data, *given)

    def _model(self, seed: int = 1) -> tuple[Renderer, Model]:
        """A fresh toy, tuned as the stage says, every trainable number moved: a LoRA's B begins at zero."""
        ground, stage, pattern = self.life.ground(), self.stage, self.pattern
        tokenizer = tokenizer_for(bound(stage, ground.tokens()), ground)
        model = toy_network(pattern.architecture, pattern.fields, stage.tune, tokenizer, self.context, stage.seed)
        for objective in bound(stage, tokenizer):
            model.add_heads(objective.heads)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
        return Renderer(tokenizer), model.to(self.mesh.device)

    def _examples(self, data: Data) -> list[Example]:
        found = examples(data, self.life.outputs, self.stage.seed)
        return [_short(example) for source in found for example in islice(source, EXAMPLES)]

    def _parts(self, found: Sequence[Example], renderer: Renderer, name: str, objective: Objective) -> list[Pieces]:
        corpus: Corpus = encode(arranged(found, objective), renderer, self.folder / "tokens", name)
        if teacher := objective.taught_by():
            corpus = toy_teacher(corpus, teacher.top, max(renderer.tokenizer.get_vocab().values()) + 1)
        return cut([corpus], self.context if objective.judged else PIECE, "window")[0]

    def _stream(self, parts: Sequence[Pieces], pack: bool) -> TokenStream:
        return TokenStream(parts, self.context, ROWS, self.stage.seed, pack=pack)

    def _sampled(self, model: Model, objective: Objective, renderer: Renderer, found: Sequence[Example]) -> float:
        """Law 5: the sampler's log-probabilities against those of the training path, with the objective's own reach."""
        prompts = [_prompt(example, renderer)[-self.context // 2 :] for example in found[:ROWS]]
        way = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=12, seed=self.stage.seed)
        model.served = objective.served()
        if isinstance(objective, Diffusion):
            unmasker = Unmasker(model, renderer.decode, (), self.context)
            return max(
                laws.unmasked_as_trained(model, objective, prompt, unmasker.stream([prompt], way), way.max_new_tokens)
                for prompt in prompts
            )
        outs = Sampler(model, renderer.decode, (), slots=2, longest=self.context).generate(prompts, way)
        return max(
            laws.sampled_as_trained(model, objective, prompt, out.tokens, out.logprobs)
            for prompt, out in zip(prompts, outs, strict=True)
        )

    def _joint(self, name: str, renderer: Renderer, found: Sequence[Example]) -> Measured:
        """Law 5 in the text: a conversation is trained in the tokens it is served in."""
        talks = [example for example in found if isinstance(example, Conversation)]
        said = [why for talk in talks if (why := renderer.joint(talk.messages, talk.tools))]
        note = f"{len(said)} of {len(talks)} conversations differ" + (f": {said[0]}" if said else "")
        return Measured(name, "5 rendered as served", float(len(said)), 0.0, note)

    def _save(self) -> None:
        if isinstance(self.stage, RewardModel):
            save_scorers(self._model, self.stage.ensemble, self.folder)
            return
        renderer, model = self._model()
        heads = model.heads.state_dict()
        save_model(model.net, renderer.tokenizer, self.folder / "saved", stops=renderer.stops, heads=heads)

    def _scored(self, model: Model, objective: Objective, renderer: Renderer, found: Sequence[Example]) -> float:
        """Law 5 of a reward model."""
        few = [one for one in arranged(found, objective) if isinstance(one, Answers)][:ROWS]
        parts = self._parts(few, renderer, "scored", objective)
        stream = TokenStream(parts, self.context, len(few), self.stage.seed, pack=False, shuffle=False)
        batch = next(stream.start(0))[0].to(self.mesh.device)
        return scored_as_trained(model, renderer, laws.prepared(model, objective, batch), few)

    def _resume(self) -> float:
        """Law 4: a run of four steps, and one that goes on from the second's checkpoint; their largest difference."""
        through = self._trained()
        saved = self.folder / "run" / "checkpoints"
        newest = checkpoint.latest(saved, _unsaid)
        assert newest is not None
        shutil.rmtree(newest)  # the one after the last step
        if checkpoint.latest(saved, _unsaid) is None:
            return float("inf")
        resumed = self._trained()
        if all(torch.equal(through[name], resumed[name]) for name in through):
            return 0.0
        return max(float((through[name].double() - resumed[name].double()).abs().max()) for name in through)

    def _trained(self) -> dict[str, torch.Tensor]:
        """Parameters after the run, which begins at the newest checkpoint there is."""
        renderer, model = self._model()
        model.train()
        small = {"context": self.context, "batch_size": 2, "micro_batch_size": 1, "save_every": STEPS // 2}
        small |= {"keep_checkpoints": 2, "compile": "off"}
        settings = self.stage.model_copy(update=small)
        sources = []
        for number, task in enumerate(self.stage.task_list):
            objective = bound(self.stage, renderer.tokenizer)[number]
            if isinstance(objective, Policy):
                acting = self._acting(task, objective, renderer, model, self.folder / "run", 2)
                sources.append(Source(task.name, acting.objective, acting, task))
                continue
            parts = self._parts(self._examples(task.data), renderer, f"{number}", objective)
            stream = TokenStream(
                parts, self.context, 2, self.stage.seed, pack=self.stage.pack, shuffle=self.stage.shuffle
            )
            sources.append(Source(task.name, objective, stream, task))
        _Silent(model, sources, settings, STEPS, self.folder / "run", self.mesh, _unsaid).run()
        return {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}


def _unsaid(line: str) -> None:
    """What the run at toy size says."""


class _Silent(Loop):
    """The loop without its progress lines."""

    def _progress(self) -> Progress:
        return Progress(self.name, self.steps, quiet=True)


def _short(example: Example) -> Example:
    """A prompt with answers of a few letters each, as it has to fit whole; other examples as they are."""
    if not isinstance(example, Answers):
        return example
    return replace(example, prompt=_cut(example.prompt), answers=tuple(map(_cut, example.answers)))


def _cut(said: Said) -> Said:
    if isinstance(said, str):
        return said[:LETTERS]
    return tuple({**turn, "content": turn["content"][:LETTERS]} for turn in said)


def _prompt(example: Example, renderer: Renderer) -> list[int]:
    """What serving would start from."""
    if isinstance(example, Conversation):
        first = next(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
        if first:
            return renderer.prompt(example.messages[:first], example.tools)
        return renderer.conversation(example.messages, example.tools).tokens[:PIECE]
    if isinstance(example, Texts):
        return renderer.document(example.texts[0]).tokens[:PIECE]
    if isinstance(example, Answers):
        said = example.prompt
        return renderer.beginning(said) if isinstance(said, str) else renderer.prompt(said)
    rendered = renderer.document(example.text if isinstance(example, Document) else example.prompt)
    return rendered.tokens[:PIECE]
