"""``didact eval A B --prompts FILE``: two models answer the same prompts; who judges knows not whose is whose."""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from didact.recipe.rewarding import Rewards
from didact.rollout.prompts import Prompt, prompt
from didact.rollout.settings import Sampling
from didact.run.forgetting import general_text
from didact.run.ground import Ground
from didact.run.named import Named, locate, open_model
from didact.run.rewards import Shelf

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
        told |= {"prompts": len(asked), "queued": _queue(ours, theirs, asked, mine, other, options)}
        say(f"{told['queued']:,} pairs wait to be judged; `didact feedback report` shows who wins once they are")
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


def _queue(ours: str, theirs: str, asked: Sequence[Prompt], mine: Said, other: Said, options: Duel) -> int:
    """Puts each pair into the review queue, the two in an order of chance; the same pairs again are not put twice."""
    from didact.feedback.records import Candidate, Exchange, Message, Review
    from didact.feedback.review import enqueue
    from didact.feedback.store import Kept, Store

    kept = []
    for one, a, b in zip(asked, mine.answers, other.answers, strict=True):
        turns = tuple(Message(role=turn["role"], content=str(turn.get("content", ""))) for turn in one.messages)
        texts = a.text.strip(), b.text.strip()
        if texts[0] == texts[1]:
            continue
        pair = [Candidate(text=text, model=name) for text, name in zip(texts, (ours, theirs), strict=True)]
        key = hashlib.sha256(json.dumps([ours, theirs, [turn.content for turn in turns], texts]).encode()).hexdigest()
        shown = random.Random(key).sample(range(2), 2)
        exchange = Exchange(prompt=turns, candidates=tuple(pair), shown=tuple(shown))
        kept.append(Kept(f"x{key[:32]}", Kept.now(exchange).time, exchange))
    with Store.open(options.store) as store:
        store.put(kept)
        enqueue(store, [Review(exchange=one.id, wanted=options.people) for one in kept])
    return len(kept)
