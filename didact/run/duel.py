"""``didact eval A B --prompts FILE``: two models answer the same prompts; who judges knows not whose is whose."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from didact.data.fetch import cache_dir
from didact.data.pieces import cut
from didact.data.settings import Data
from didact.data.source import examples
from didact.engine.evaluate import evaluate, scorer
from didact.engine.mesh import Mesh, pick_device
from didact.errors import UsageProblem
from didact.measure.duel import Judge, Said, by_rewards, facts, judged, said
from didact.measure.pairwise import RUBRIC, Pairwise
from didact.measure.wins import win_rate
from didact.recipe.rewarding import Rewards
from didact.rollout.prompts import Prompt, prompt
from didact.rollout.settings import Sampling
from didact.run.forgetting import general_text
from didact.run.ground import Ground
from didact.run.named import Named, locate, open_model
from didact.run.rewards import Shelf

if TYPE_CHECKING:
    from didact.feedback.store import Kept

READ: TypeAdapter[Any] = TypeAdapter(Rewards)
CONTEXT = 1024  # tokens of general text in a row


@dataclass(frozen=True)
class Duel:
    """What is asked and who judges: rewards as a recipe says them, the model ``judge``, or people."""

    prompts: str
    rewards: tuple[str, ...] = ()
    judge: str | None = None
    rubric: str = RUBRIC
    people: int = 0
    store: str | None = None
    limit: int | None = None
    temperature: float = 0.7
    max_new_tokens: int = 128
    seed: int = 0
    device: str = "auto"


def duel(ours: str, theirs: str, options: Duel, say: Callable[[str], None]) -> dict[str, Any]:
    """Prints one JSON object: the win rate of ``ours``, its intervals, and what each model forgot of general text."""
    specs = _specs(options)
    records = [
        one for each in examples(Data.model_validate(options.prompts), {}, options.seed) for one in each.records()
    ]
    if options.limit and options.limit < len(records):
        records = random.Random(options.seed).sample(records, options.limit)
    mesh = Mesh(pick_device(options.device))
    way = Sampling(temperature=options.temperature, top_p=1, max_new_tokens=options.max_new_tokens, seed=options.seed)
    found: list[tuple[list[Prompt], Said, float | None]] = []
    for name in (ours, theirs):
        model = open_model(name, options.device, say)
        say(f"{name}: answers {len(records):,} prompts")
        asked = [prompt(where, record, model.renderer) for where, record in records]
        found.append((asked, said(model.model.eval(), model.renderer, asked, way), _general(model, mesh)))
    (asked, mine, knows), (_, other, knew) = found
    told: dict[str, Any] = {"model": ours, "against": theirs}
    if options.people:
        told |= _people((ours, theirs), asked, mine, other, options)
        say(_result(told, options.store))
    else:
        ground = Ground(locate(theirs, say), None, None, None, {}, cache_dir(), mesh, say)
        judge = _judge(options, specs, ground, say)
        told |= facts(judged(mine, other, asked, judge, options.seed), mine, other)
        if isinstance(judge, Pairwise):
            told["decided_by_place"] = judge.swayed
    if knows is not None and knew is not None:
        told["general_bits_per_byte"] = [knows, knew]
    print(json.dumps(told), flush=True)
    return told


def _specs(options: Duel) -> Sequence[Any]:
    """The rewards as typed values. Raises UsageProblem where not exactly one way of judging is given."""
    if sum(map(bool, (options.rewards, options.judge, options.people))) != 1:
        raise UsageProblem("who judges?", remedy="give one of --reward, --judge and --people")
    try:
        return READ.validate_python([yaml.safe_load(text) for text in options.rewards])
    except (ValidationError, yaml.YAMLError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise UsageProblem(first, where="--reward", remedy="as in --reward 'regex: {pattern: yes}'") from error


def _judge(options: Duel, specs: Sequence[Any], ground: Ground, say: Callable[[str], None]) -> Judge:
    if options.judge:
        found = open_model(options.judge, options.device, say)
        return Pairwise(found.model.eval(), found.renderer, options.rubric)
    shelf = Shelf(ground)
    return by_rewards([(spec.open(shelf), spec.weight) for spec in specs])


def _general(found: Named, mesh: Mesh) -> float | None:
    """Bits per byte of general text: what one model forgot of it beside the other."""
    if found.model.encoder:
        return None
    parts = cut([general_text(found.renderer)], CONTEXT, "window")[0]
    return evaluate(found.model, scorer(found.model), parts, CONTEXT, mesh).bits_per_byte


@dataclass(frozen=True)
class _Pair:
    """Two answers to one prompt in the store, and the number that the first model's has there."""

    kept: "Kept"
    ours: int
    lengths: tuple[int, int]

    def win(self, ranking: Sequence[Sequence[int]]) -> float:
        """1 where a person found ours better, 0.5 for a tie, 0."""
        (mine,) = (place for place, group in enumerate(ranking) if self.ours in group)
        return 0.5 if len(ranking) == 1 else float(mine == 0)


def _people(names: tuple[str, str], asked: Sequence[Prompt], mine: Said, other: Said, options: Duel) -> dict[str, Any]:
    """Puts each pair into the review queue, what is there already not twice; and what people said of them so far."""
    from didact.feedback.records import Ranking, Review
    from didact.feedback.review import enqueue
    from didact.feedback.standing import standing
    from didact.feedback.store import Store

    both = zip(asked, mine.answers, other.answers, strict=True)
    pairs = {pair.kept.id: pair for pair in (_pair(names, one, a.text, b.text) for one, a, b in both) if pair}
    wins: dict[str, list[float]] = {}
    who = set()
    with Store.open(options.store) as store:
        store.put([pair.kept for pair in pairs.values()])
        enqueue(store, [Review(exchange=id, wanted=options.people) for id in pairs])
        for one in standing(store):
            if one.exchange_id in pairs and isinstance(one.judgement, Ranking):
                wins.setdefault(one.exchange_id, []).append(pairs[one.exchange_id].win(one.judgement.ranking))
                who.add(one.judgement.annotator)
    told = {"prompts": len(asked), "alike": len(asked) - len(pairs), "queued": len(pairs), "judged": len(wins)}
    if wins:
        found = win_rate([fmean(wins[id]) for id in wins], [pairs[id].lengths for id in wins], options.seed)
        told |= {"people": len(who), **facts(found, mine, other), "prompts": len(asked)}
    return told


def _pair(names: tuple[str, str], one: Prompt, *texts: str) -> "_Pair | None":
    """A pair as it is kept, where the answers differ: neither its numbers nor its order say whose is whose."""
    from didact.feedback.records import Candidate, Exchange, Message
    from didact.feedback.store import Kept

    ours, theirs = (text.strip() for text in texts)
    if ours == theirs:
        return None
    turns = tuple(Message(role=turn["role"], content=str(turn.get("content", ""))) for turn in one.messages)
    pair = [Candidate(text=text, model=name) for text, name in zip((ours, theirs), names, strict=True)]
    about = [*names, *((turn.role, turn.content) for turn in turns), ours, theirs]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    chance = random.Random(key)
    order, shown = chance.sample(range(2), 2), chance.sample(range(2), 2)
    exchange = Exchange(prompt=turns, candidates=tuple(pair[i] for i in order), shown=tuple(shown))
    return _Pair(Kept(f"x{key[:32]}", Kept.now(exchange).time, exchange), order.index(0), (len(ours), len(theirs)))


def _result(told: Mapping[str, Any], store: str | None) -> str:
    """What people said, and what is to be done for more."""
    said = f"{told['judged']:,} of {told['queued']:,} pairs are judged"
    if told["judged"]:
        low, high = told["interval"]
        said += f" by {told['people']:,}: {told['model']} wins {told['win_rate']:.1%} ({low:.1%} to {high:.1%})"
        said += f", {told['ties']:,} ties"
    where = f" --feedback {store}" if store else ""
    more = f"; judge on the page of `didact serve {told['model']}{where}`, under Review, and ask again who wins"
    return said + (more if told["judged"] < told["queued"] else "")
