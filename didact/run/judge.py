"""``didact search --questions``: recall and nDCG of each way of searching, on questions whose sources are known."""

from collections.abc import Callable
from pathlib import Path

from didact.data.example import Texts
from didact.data.files import read
from didact.data.formats import example
from didact.errors import DataProblem
from didact.retrieve.index import Index, Mode
from didact.retrieve.quality import Quality, quality

DEPTH = 10  # sources that count
PASSAGES = 50  # read to find that many sources


def judge(index: Index, questions: str, say: Callable[[str], None]) -> dict[Mode, Quality]:
    """Prints a line for each way of searching; the questions are records of ``anchor`` and ``positive``.

    A question's sources are the documents whose text is its positive, or that have a passage which holds it. One whose
    source is not in the index is left out and counted. Raises DataProblem where that is so of all.
    """
    asked, wanted, lost = list[str](), list[set[str]](), 0
    for where, record in read(Path(questions)):
        one = example(where, record)
        if not isinstance(one, Texts) or one.roles[:2] != ("query", "document"):
            raise DataProblem("this is no question with its text", where=where, remedy="give anchor and positive")
        sources = index.sources_of(one.texts[1])
        lost += not sources
        asked += [one.texts[0]] if sources else []
        wanted += [sources] if sources else []
    if not asked:
        remedy = "index the documents that its positives are of"
        raise DataProblem("no question has its source in the index", where=questions, remedy=remedy)
    if lost:
        say(f"{lost:,} questions left out: their sources are not in the index")
    modes: tuple[Mode, ...] = ("words", "dense", "hybrid") if index.dense else ("words",)
    print(f"{len(asked):,} questions, {index.facts['documents']:,} documents, {index.facts['passages']:,} passages")
    print(f"{'':8} recall@{DEPTH}  nDCG@{DEPTH}")
    found = dict[Mode, Quality]()
    for mode in modes:
        ranked = [[passage.source for passage in index.search(query, PASSAGES, mode=mode)] for query in asked]
        found[mode] = quality(ranked, wanted, DEPTH)
        print(f"{mode:8} {found[mode].recall:9.3f}  {found[mode].ndcg:7.3f}")
    return found
