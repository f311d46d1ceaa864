"""A simulated crowd: members with known tastes and errors, who judge answers as people do, into the same store.

What each member wants of an answer is a weighted sum of things that can be checked, so that afterwards everything is
known: who was wrong how often, what a reward model should have found, and whether a model got better for people that
it never heard.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import orjson

from didact.feedback.records import Candidate, Exchange, Judgement, Message, Ranking, Rating, Thumb
from didact.feedback.tastes import feature

if TYPE_CHECKING:
    from didact.feedback.store import Kept, Store

BATCH = 500  # records written in one transaction
TIE = 0.1  # deviations between two answers that a member calls equally good
BEGAN = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Member:
    """One of the crowd.

    ``error`` is the share of their judgements made at random, ``first`` what the answer shown first is worth to them
    besides, ``lenient`` by how many deviations they judge more kindly than they compare.
    """

    name: str
    tastes: Mapping[str, float]
    error: float = 0.0
    first: float = 0.0
    lenient: float = 0.0

    def worth(self, answer: str, reference: str = "") -> float:
        """What an answer is worth to them, before any error."""
        return sum(weight * feature(taste, answer, reference) for taste, weight in self.tastes.items())


@dataclass(frozen=True)
class Asked:
    """A prompt, the answers to it, and the answer that would be right, empty where nobody knows.

    Where a model is to answer, ``answers`` are empty and ``seed`` is that of its first answer, the next one's of its
    second.
    """

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    reference: str = ""
    seed: int = 0

    def answered(self, texts: Sequence[str]) -> Asked:
        """With what a model wrote, as people read it: without the space around it."""
        return replace(self, answers=tuple(text.strip() or "..." for text in texts))


def people(
    count: int, tastes: Mapping[str, float], spread: float, error: float, first: float, seed: int, prefix: str = "m"
) -> list[Member]:
    """So many members, whose tastes lie around ``tastes`` with ``spread`` as deviation, errors between 0 and twice."""
    found = []
    for number in range(count):
        r = random.Random(f"{seed}:{prefix}{number}")
        own = {taste: r.gauss(weight, spread) for taste, weight in sorted(tastes.items())}
        rate = min(r.uniform(0, 2 * error), 1.0)
        found.append(Member(f"{prefix}{number:02d}", own, rate, r.uniform(0, 2 * first), r.gauss(0, 0.3)))
    return found


def written(members: Sequence[Member]) -> bytes:
    """Members as JSON lines."""
    return b"".join(orjson.dumps(asdict(member)) + b"\n" for member in members)


def member(record: Mapping[str, Any]) -> Member:
    """A member as ``written`` wrote it."""
    return Member(**record)


def judge(
    store: Store, members: Sequence[Member], asked: Sequence[Asked], each: int, kinds: Sequence[str], seed: int
) -> int:
    """Lets ``each`` members judge the answers to each prompt in all ``kinds``; returns how many judgements that were.

    All that is written is a pure function of the arguments, ids and times included, so the same again adds nothing.
    """
    count = 0
    batch: list[Kept] = []
    for number, (exchange, said) in enumerate(rounds(members, asked, each, kinds, seed)):
        batch.append(exchange)
        for one in said:
            batch.append(_kept(one, f"{exchange.id}:{one.annotator}:{one.kind}:{len(batch)}", number))
        count += len(said)
        if len(batch) >= BATCH:
            store.put(batch)
            batch = []
    store.put(batch)
    return count


def rounds(
    members: Sequence[Member], asked: Sequence[Asked], each: int, kinds: Sequence[str], seed: int
) -> Iterator[tuple[Kept, list[Thumb | Rating | Ranking]]]:
    """Each prompt with its answers as they are shown, and all that is said of them."""
    usual = {one.name: _usual(one, asked) for one in members}
    for number, one in enumerate(asked):
        exchange = shown(number, one, seed)
        who = judges(members, exchange.id, each, seed)
        yield exchange, [said for w in who for said in _judged(w, exchange, one, usual[w.name], kinds, seed)]


def judges(members: Sequence[Member], exchange: str, each: int, seed: int) -> list[Member]:
    """Who judges an exchange."""
    return random.Random(f"{seed}:{exchange}").sample(list(members), min(each, len(members)))


def _usual(who: Member, asked: Sequence[Asked]) -> tuple[float, float]:
    """What answers are worth to a member, their mean and deviation: what thumbs and stars are held against."""
    worth = [who.worth(answer, one.reference) for one in asked for answer in one.answers]
    return fmean(worth), pstdev(worth) or 1.0


def shown(number: int, one: Asked, seed: int) -> Kept:
    """A prompt with its answers, in the order in which all see them."""
    key = hashlib.sha256(orjson.dumps([seed, number, [turn.content for turn in one.prompt], one.answers])).hexdigest()
    order = list(range(len(one.answers)))
    random.Random(key).shuffle(order)
    candidates = tuple(Candidate(text=answer) for answer in one.answers)
    return _kept(Exchange(prompt=one.prompt, candidates=candidates, shown=tuple(order)), key, number, "x")


def _kept(record: Exchange | Judgement, key: str, number: int, mark: str = "j") -> Kept:
    """A record under an id and a time that are always the same."""
    from didact.feedback.store import Kept  # whose packages are an extra; the crowd itself is known without them

    time = f"{BEGAN + timedelta(minutes=number):%Y-%m-%dT%H:%M:%S.%fZ}"
    return Kept(mark + hashlib.sha256(key.encode()).hexdigest()[:32], time, record)


def _judged(
    who: Member, exchange: Kept, one: Asked, usual: tuple[float, float], kinds: Sequence[str], seed: int
) -> Iterator[Thumb | Rating | Ranking]:
    """What one member says of one exchange."""
    r = random.Random(f"{seed}:{exchange.id}:{who.name}")
    mean, deviation = usual
    assert isinstance(exchange.record, Exchange)
    about = {"exchange": exchange.id, "annotator": who.name}
    worth = [(who.worth(answer, one.reference) - mean) / deviation for answer in one.answers]
    for kind in kinds:
        if kind == "ranking":
            seen = list(worth)
            seen[exchange.record.shown[0]] += who.first
            order = _groups(r.sample(range(len(seen)), len(seen)) if r.random() < who.error else seen, r)
            yield Ranking(**about, ranking=order)
            continue
        number = r.randrange(len(worth))
        kind_value, lost = worth[number] + who.lenient, r.random() < who.error
        if kind == "thumb":
            yield Thumb(**about, candidate=number, up=r.random() < 0.5 if lost else kind_value > 0)
        else:
            stars = r.randint(1, 5) if lost else min(max(round(3 + 1.2 * kind_value), 1), 5)
            yield Rating(**about, candidate=number, rating=stars)


def _groups(worth: Sequence[float], r: random.Random) -> tuple[tuple[int, ...], ...]:
    """Numbers from the best to the worst, those that differ by little in one group."""
    order = sorted(range(len(worth)), key=lambda number: (-worth[number], r.random()))
    groups: list[list[int]] = []
    for number in order:
        if groups and worth[groups[-1][0]] - worth[number] < TIE:
            groups[-1].append(number)
        else:
            groups.append([number])
    return tuple(map(tuple, groups))
