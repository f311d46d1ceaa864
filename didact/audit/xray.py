"""The X-ray before the first step: which tokens are trained, which are only read, and what went missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from didact.data.corpus import Corpus
from didact.data.pieces import Counts, cut
from didact.data.sets import tokenized
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh, pick_device
from didact.engine.train import length
from didact.recipe import Learning, load
from didact.run.folder import replace, run_folder
from didact.run.life import Life
from didact.text.render import Renderer

SHOWN = 3  # examples of each task
LONGEST = 400  # tokens shown of one example


@dataclass(frozen=True)
class Example:
    """One example as the model meets it: each token's text and whether it is trained."""

    pieces: tuple[tuple[str, bool], ...]
    more: int


@dataclass(frozen=True)
class Xray:
    """What one task of a stage would train on."""

    stage: str
    task: str
    counts: Counts
    steps: int
    rows: int
    fill: float
    missing_end: int
    double_start: int
    untrained: int
    examples: tuple[Example, ...]

    def lines(self) -> list[str]:
        """The counts in words; what should worry a reader begins with a mark."""
        said = [*self.counts.lines(), f"{self.rows:,} rows, {self.fill:.1%} full; {self.steps:,} steps"]
        worries = [
            (self.untrained, "examples have no trained token at all"),
            (self.missing_end, "examples end without an end-of-sequence or end-of-turn token that is trained"),
            (self.double_start, "examples begin with two beginning-of-sequence tokens"),
        ]
        return said + [f"! {count:,} {what}" for count, what in worries if count]


def missing_end(corpus: Corpus, stops: Sequence[int]) -> int:
    """Examples whose last trained token is not a stop: such a model never learns to stop."""
    count = 0
    for start, end in zip(corpus.bound[:-1], corpus.bound[1:], strict=True):
        trained = np.flatnonzero(corpus.trained[start:end])
        count += int(len(trained) > 0 and corpus.token[start + trained[-1]] not in stops)
    return count


def double_start(corpus: Corpus, bos: int | None) -> int:
    """Examples that begin with two BOS tokens: template and tokenizer each added one."""
    if bos is None:
        return 0
    long = np.diff(corpus.bound) > 1
    first = corpus.bound[:-1][long]
    return int(((corpus.token[first] == bos) & (corpus.token[first + 1] == bos)).sum())


def untrained(corpus: Corpus) -> int:
    """Examples that teach nothing."""
    so_far = np.concatenate([[0], np.cumsum(corpus.trained)])
    return int((np.diff(so_far[corpus.bound]) == 0).sum())


def show(corpus: Corpus, number: int, renderer: Renderer) -> Example:
    """One example of a corpus, as text a token; neighbours of one kind are decoded together."""
    span = slice(corpus.bound[number], min(corpus.bound[number + 1], corpus.bound[number] + LONGEST))
    token, trained = corpus.token[span], corpus.trained[span]
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(token)]
    pieces = [(renderer.decode(token[a:b].tolist()), bool(trained[a])) for a, b in pairwise(edges) if b > a]
    return Example(tuple(pieces), int(corpus.bound[number + 1]) - span.stop)


def examine(stage: Learning, life: Life, renderer: Renderer) -> list[Xray]:
    """The X-ray of every task of a stage."""
    found = []
    for task in stage.task_list:
        corpora = tokenized(task.data, life.outputs, stage.seed, renderer, life.cache / "tokens")
        paths = ", ".join(source.path for source in task.data.sources)
        parts, counts = cut(corpora, stage.context, stage.overlong, paths)
        stream = TokenStream(parts, stage.context, stage.batch_size, stage.seed, pack=stage.pack, shuffle=stage.shuffle)
        rows = len(stream.epoch(0))
        bos = renderer.tokenizer.bos_token_id
        found.append(
            Xray(
                stage=stage.name,
                task=task.name,
                counts=counts,
                steps=length(stage, stream),
                rows=rows,
                fill=stream.tokens_per_epoch() / (rows * stage.context),
                missing_end=sum(missing_end(c, renderer.stops) for c in corpora),
                double_start=sum(double_start(c, bos) for c in corpora),
                untrained=sum(untrained(c) for c in corpora),
                examples=tuple(show(corpora[0], i, renderer) for i in range(min(SHOWN, len(corpora[0])))),
            )
        )
    return found


def inspect_recipe(path: Path, overrides: Sequence[str], runs: Path, say: Callable[[str], None]) -> list[Xray]:
    """Makes the data of a recipe without training anything, prints the X-ray and writes ``inspect.html``."""
    loaded = load(path, overrides)
    for line in loaded.said:
        say(line)
    folder = run_folder(runs, loaded.recipe.name)
    life = Life(loaded.recipe, folder, Mesh(pick_device("cpu")), say)
    found = [
        xray
        for stage in life.without_training()
        for xray in examine(stage, life, life.ground().renderer(stage.tune.tokens))
    ]
    console = Console()
    for xray in found:
        draw(xray, console)
    page = folder / "inspect.html"
    replace(page, html(loaded.recipe.name, found))
    say(f"the same as a page: {page}")
    return found


def draw(xray: Xray, console: Console) -> None:
    """Counts and coloured examples in the terminal: trained tokens green and underlined, the rest dim."""
    console.rule(f"{xray.stage} · {xray.task}")
    for line in xray.lines():
        console.print(Text(line, style="bold red" if line.startswith("!") else ""))
    for example in xray.examples:
        text = Text()
        for piece, trained in example.pieces:
            text.append(piece, style="green underline" if trained else "dim")
        if example.more:
            text.append(f" … {example.more} tokens more", style="italic")
        console.print()
        console.print(text)
    console.print(Text("\ntrained", style="green underline").append(" · ", "none").append("read only", style="dim"))


def html(name: str, xrays: Sequence[Xray]) -> str:
    """The X-ray as one self-contained page."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("didact", "audit"), autoescape=True)
    return pages.get_template("inspect.html.jinja").render(name=name, xrays=xrays)
