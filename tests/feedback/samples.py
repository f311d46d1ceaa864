"""Exchanges and judgements to keep."""

from didact.feedback.records import Candidate, Exchange, Message, Passage, Ranking, Rating, Thumb

ANN, BOB, EVE = "ann", "bob", "eve"


def exchange(*answers: str, prompt: str = "Why?", **fields) -> Exchange:
    """An exchange with these answers by models a, b, ..., shown in this order unless said otherwise."""
    answers = answers or ("Because.", "I do not know.")
    known = {"model_hash": "m1", "adapter_hash": "l1", "sampling": {"seed": 1, "top_p": 0.9}, "tokens": 3}
    candidates = [Candidate(text=text, model="abcdef"[i % 6], **known) for i, text in enumerate(answers)]
    given = {"prompt": [Message(role="user", content=prompt)], "shown": range(len(answers)), **fields}
    return Exchange(candidates=candidates, **given)


def full() -> Exchange:
    """An exchange in which everything is said."""
    return exchange(
        "Ü \U0001f600\u0000\n",
        "b",
        shown=[1, 0],
        passages=[Passage(text="a page", source="docs/a.md", heading="A > B", score=0.25)],
        conversation="c1",
        annotator=ANN,
        page="1.2",
    )


def thumb(kept, annotator=ANN, up=True, **fields) -> Thumb:
    return Thumb(exchange=kept.id, annotator=annotator, up=up, **fields)


def rating(kept, annotator=ANN, stars=4, **fields) -> Rating:
    return Rating(exchange=kept.id, annotator=annotator, rating=stars, **fields)


def ranking(kept, *groups, annotator=ANN, **fields) -> Ranking:
    return Ranking(exchange=kept.id, annotator=annotator, ranking=groups, **fields)
