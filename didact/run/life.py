"""A recipe, stage by stage: what is finished is skipped, what changed and all that follows runs again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from didact import measure, objective
from didact.data.fetch import cache_dir
from didact.data.settings import Data
from didact.data.source import examples, fingerprint
from didact.data.words import listed
from didact.engine.durable import on_disk
from didact.engine.mesh import Mesh
from didact.engine.train import rows_per_process
from didact.errors import UsageProblem
from didact.model.load import check_folder
from didact.model.settings import Scratch
from didact.recipe.aligning import Align
from didact.recipe.crowding import Crowd
from didact.recipe.judging import Evaluate
from didact.recipe.learning import Finetune, Learning, Pretrain, TaskSpec
from didact.recipe.making import Answer, Corpus, Index, Links, Mine, Raft, Symbols, Tokenizer
from didact.recipe.reinforcing import Reinforce
from didact.recipe.rewarding import RewardModel
from didact.recipe.schema import Compare, Recipe
from didact.recipe.stage import Stage, stage_digest
from didact.recipe.write import dump
from didact.retrieve.where import POINTER
from didact.run import make
from didact.run.align import align
from didact.run.answer import answer
from didact.run.compare import compare
from didact.run.crowd import crowd
from didact.run.evaluate import evaluate_stage
from didact.run.find import find_model
from didact.run.folder import Artifact, StageFolder, content, identity, replace, stage_folder
from didact.run.ground import Ground
from didact.run.index import index
from didact.run.learn import learn
from didact.run.mine import mine
from didact.run.raft import raft
from didact.run.reward import reward
from didact.run.symbols import write_symbols
from didact.run.teach import SELF


@dataclass(frozen=True)
class Finished:
    """One stage of a finished run."""

    stage: Stage
    folder: StageFolder
    artifact: Artifact
    skipped: bool


@dataclass
class Life:
    """A recipe under way in its run folder."""

    recipe: Recipe
    folder: Path
    mesh: Mesh
    say: Callable[[str], None]
    cache: Path = field(default_factory=cache_dir)
    model: Path | None = None
    tokenizer: Path | None = None
    base: Path | None = None
    parent: str = ""
    outputs: dict[str, Path] = field(default_factory=dict)

    def run(self) -> list[Finished]:
        """Runs every stage that is not finished; returns all of them in order."""
        self._start()
        return [self.stage(number, stage) for number, stage in enumerate(self.recipe.stages)]

    def without_training(self) -> Iterator[Learning]:
        """Makes data and tokenizers, and yields each training stage in its place instead of running it.

        One that reads what only a trained model leaves is passed over, which is said.
        """
        self._start()
        learned = isinstance(self.recipe.base, Scratch)  # then the model that a stage would ask is not there
        unmade: set[str] = set()
        for number, stage in enumerate(self.recipe.stages):
            learned = learned or bool(_learning(stage))
            if _independent(stage) or (isinstance(stage, Answer | Crowd | Index | Mine) and not learned):
                self.stage(number, stage)
            elif isinstance(stage, Mine):
                self.say(f"{stage.name}: needs the trained model; the pairs it reads stand in for those it leaves")
                path = stage.data.sources[0].path
                self.outputs[f"{stage.name}/pairs"] = self.outputs.get(path, Path(path))
            else:
                unmade |= {f"{stage.name}/{output}" for output in stage.outputs}
            yield from (one for one in _named(stage) if self._readable(one, unmade))

    def _readable(self, stage: Learning, unmade: set[str]) -> bool:
        """Whether what a stage learns from is there before anything is trained."""
        missing = [source.path for data in stage.inputs().values() for source in data.sources if source.path in unmade]
        if missing:
            self.say(f"{stage.name}: reads {listed(missing)}, which needs the trained model; passed over")
        return not missing

    def _start(self) -> None:
        self._foresee()
        if isinstance(self.recipe.base, Scratch):
            self.parent = identity("scratch", self.recipe.base.model_dump_json())
            return
        if not self.mesh.main:
            self.mesh.barrier()
        self.base = self.model = find_model(self.recipe.base, self.cache, self.say)
        check_folder(self.base)
        if self.mesh.main:
            self.mesh.barrier()
        self.parent = identity("base", content(self.model))

    def _foresee(self) -> None:
        """Raises now what would else end the run hours later, after the stages before it."""
        scratch, has_model = isinstance(self.recipe.base, Scratch), not isinstance(self.recipe.base, Scratch)
        outputs: dict[str, Path] = {}
        first: Learning | None = None
        for stage in self.recipe.stages:
            for data in stage.inputs().values():
                given = [source for source in data.sources if source.path not in outputs]
                for found in examples(Data(sources=tuple(given)), outputs, stage.seed, stage.also) if given else ():
                    if found.skipped:
                        names = listed(path.name for path in found.skipped)
                        self.say(f"{found.source.path}: left out, of a kind that is not read: {names}")
            if isinstance(stage, Compare) and not has_model and not all(stage.arms.values()):
                what = "an arm without stages is the model as it is, and there is none yet"
                raise UsageProblem(what, where=stage.name, remedy="put it after a stage that trains one")
            for one in _learning(stage):
                for task in one.task_list:
                    if _acts(task) and not isinstance(one, Reinforce):
                        what = f"{task.objective.name} learns from the model's own answers"
                        raise UsageProblem(what, where=one.name, remedy="make this stage a reinforce, with rewards")
                if isinstance(one, Reinforce) and not any(_acts(task) for task in one.task_list):
                    what = f"{one.task_list[0].objective.name} does not learn from the model's own answers"
                    raise UsageProblem(what, where=one.name, remedy="choose grpo, ppo or their like")
                rows_per_process(one, self.mesh)
                first, has_model = first or one, has_model or not isinstance(one, RewardModel)
                if scratch:
                    self._check_positions(one, first)
            if isinstance(stage, Evaluate | Compare):
                for spec in stage.measures.values():
                    measure.resolve(spec.kind, spec.options)
            if isinstance(stage, Tokenizer) and has_model:
                what = "the model has a tokenizer already, and its weights mean the tokens of that one"
                raise UsageProblem(what, where=stage.name, remedy="train a tokenizer only before a model from scratch")
            elif isinstance(stage, Evaluate | Answer | Crowd | Index | Mine) and not (has_model or _independent(stage)):
                what = f"there is no model to {stage.kind} {'with ' if isinstance(stage, Index | Mine) else ''}yet"
                raise UsageProblem(what, where=stage.name, remedy="put it after a stage that trains one")
            outputs |= {f"{stage.name}/{output}": Path() for output in stage.outputs}

    def _check_positions(self, stage: Learning, first: Learning) -> None:
        """A model from scratch gets as many positions as its first stage has context."""
        assert isinstance(self.recipe.base, Scratch)
        if stage.context > first.context and "max_position_embeddings" not in self.recipe.base.config:
            raise UsageProblem(
                f"context {stage.context} is more than the {first.context} of {first.name}, which makes the model",
                where=stage.name,
                remedy=f"give base.config max_position_embeddings: {stage.context}, or lower context",
            )

    def stage(self, number: int, stage: Stage) -> Finished:
        """Runs one stage in its folder, or finds it finished; what it leaves is what the next stands on."""
        inputs = [fingerprint(data, self.outputs, stage.also) for data in stage.inputs().values()]
        parent = "" if _independent(stage) else self.parent
        name = identity(stage_digest(stage), parent, *inputs, *self._others(stage))
        folder = stage_folder(self.folder, number, stage.name, name)
        artifact = folder.finished()
        skipped = artifact is not None
        if artifact is None:
            with on_disk(folder.path, "make this folder"):
                folder.path.mkdir(parents=True, exist_ok=True)
            if isinstance(stage, Compare):
                artifact = compare(stage, self, folder)
            else:
                artifact = DO[type(stage)](stage, self.ground(), folder)
            if self.mesh.main:
                folder.finish(artifact)
            self.mesh.barrier()
        else:
            self.say(f"{stage.name}: finished before, skipped")
        self._adopt(stage, artifact, name)
        return Finished(stage, folder, artifact, skipped)

    def _others(self, stage: Stage) -> list[str]:
        """The content of the models that a stage learns from or embeds with, besides the one it starts from."""
        tasks = [task.objective for one in _learning(stage) for task in one.task_list]
        found = [objective.resolve(each.name, each.options).taught_by() for each in tasks]
        names = sorted({teacher.name for teacher in found if teacher and teacher.name != SELF})
        if isinstance(stage, Evaluate | Compare):
            asked = {name for spec in stage.measures.values() for name in spec.models() if name not in self.outputs}
            names += sorted(asked - {"base"})
        names += [stage.embedder] if isinstance(stage, Index) and stage.embedder not in ("none", "model") else []
        return [content(find_model(name, self.cache, self.say)) for name in names]

    def ground(self) -> Ground:
        """What the next stage stands on."""
        scratch = self.recipe.base if isinstance(self.recipe.base, Scratch) else None
        return Ground(
            self.model,
            scratch,
            self.tokenizer,
            self.base,
            dict(self.outputs),
            self.cache,
            self.mesh,
            self.say,
            dump(self.recipe),
            self.parent,
        )

    def _adopt(self, stage: Stage, artifact: Artifact, name: str) -> None:
        self.outputs |= {f"{stage.name}/{output}": path for output, path in artifact.outputs.items()}
        if artifact.model:
            self.outputs[f"{stage.name}/model"] = artifact.model
            self.model, self.tokenizer, self.parent = artifact.model, None, name
            if self.mesh.main:
                replace(self.folder / "model.path", str(artifact.model.relative_to(self.folder)) + "\n")
        if isinstance(stage, Index) and self.mesh.main:
            replace(self.folder / POINTER, str(artifact.outputs["index"].relative_to(self.folder)) + "\n")
        if artifact.tokenizer:
            self.tokenizer, self.parent = artifact.tokenizer, name


def _acts(task: TaskSpec) -> bool:
    return objective.resolve(task.objective.name, task.objective.options).acts


def _learning(stage: Stage) -> list[Learning]:
    """The training stages in a stage: itself, or those of its arms."""
    stages = [one for arm in stage.arms.values() for one in arm] if isinstance(stage, Compare) else [stage]
    return [one for one in stages if isinstance(one, Learning)]


def _named(stage: Stage) -> list[Learning]:
    """The same, each under a name that says its arm."""
    if not isinstance(stage, Compare):
        return _learning(stage)
    pairs = [(arm, one) for arm, stages in stage.arms.items() for one in stages if isinstance(one, Learning)]
    return [one.model_copy(update={"name": f"{arm}/{one.name}"}) for arm, one in pairs]


def _independent(stage: Stage) -> bool:
    """Whether what it leaves does not depend on the model so far."""
    if isinstance(stage, Index):
        return stage.embedder != "model"
    return isinstance(stage, Corpus | Tokenizer | Links | Symbols | Raft)


DO: dict[type[Stage], Callable[..., Artifact]] = {
    Corpus: make.corpus,
    Tokenizer: make.tokenizer,
    Links: make.links,
    Symbols: write_symbols,
    Index: index,
    Raft: raft,
    Mine: mine,
    Pretrain: learn,
    Finetune: learn,
    RewardModel: reward,
    Align: align,
    Reinforce: learn,
    Answer: answer,
    Crowd: crowd,
    Evaluate: evaluate_stage,
}
