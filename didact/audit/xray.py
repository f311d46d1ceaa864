"""The X-ray before the first step: which tokens are trained, which are only read, and what went missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from didact.data.corpus import Corpus
from didact.data.pieces import Counts, cut
from didact.data.sets import tokenized
from didact.data.stream import TokenStream
from didact.engine.mesh import Mesh, pick_device
from didact.engine.progress import plain
from didact.engine.train import length
from didact.objective import resolve
from didact.recipe import Learning, load
from didact.run.folder import replace, run_folder
from didact.run.life import Life
from didact.text.render import Renderer

SHOWN = 3  # examples of each task
LONGEST = 400  # tokens shown of one example, half of them its first and half its last
MARKS = ("[[", "]]")  # around what is trained where there is no colour
BROKEN = "\ufffd"  # what half a character decodes to

Pieces = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Example:
    """One example as the model meets it: text and whether it is trained, its beginning and its end.

    ``hidden`` tokens between the two are not shown, ``hidden_trained`` of them are trained.
    """

    head: Pieces
    tail: Pieces = ()
    hidden: int = 0
    hidden_trained: int = 0

    def spans(self) -> Pieces:
        """All of it in order, with a note in place of what is not shown."""
        if not self.hidden:
            return self.head
        return (
            *self.head,
            (f" … {self.hidden:,} tokens, {self.hidden_trained:,} of them trained … ", False),
            *self.tail,
        )


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


def first(corpora: Sequence[Corpus], count: int) -> list[tuple[Corpus, int]]:
    """The first examples, each source in turn."""
    turns = [(corpus, i) for i in range(count) for corpus in corpora if i < len(corpus)]
    return turns[:count]


def show(corpus: Corpus, number: int, renderer: Renderer) -> Example:
    """One example of a corpus."""
    span = slice(corpus.bound[number], corpus.bound[number + 1])
    token, trained = corpus.token[span], corpus.trained[span]
    if len(token) <= LONGEST:
        return Example(spans(token, trained, renderer))
    half = LONGEST // 2
    return Example(
        spans(token[:half], trained[:half], renderer),
        spans(token[-half:], trained[-half:], renderer),
        len(token) - LONGEST,
        int(trained[half:-half].sum()),
    )


def spans(token: np.ndarray, trained: np.ndarray, renderer: Renderer) -> Pieces:
    """Text by runs of trained and untrained tokens.

    A run's text is what decoding all up to its end adds, since decoders drop the space before a text that begins; a
    character split between two runs belongs to the later one.
    """
    edges = [*(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(token)]
    so_far, found, start = "", [], 0
    for end in edges:
        whole = renderer.decode(token[:end].tolist())
        whole = whole.rstrip(BROKEN) if end < len(token) else whole
        found.append((whole[len(so_far) :], bool(trained[start])))
        so_far, start = whole, end
    return tuple(found)


def examine(stage: Learning, life: Life, renderer: Renderer) -> list[Xray]:
    """The X-ray of every task of a stage."""
    found = []
    for task in stage.task_list:
        objective = resolve(task.objective.name, task.objective.options)
        if objective.acts:
            life.say(f"{stage.name}: answers are given while it learns; there is nothing to look at before")
            continue
        corpora = tokenized(task.data, life.outputs, stage.seed, renderer, life.cache / "tokens", objective)
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
                examples=tuple(show(corpus, i, renderer) for corpus, i in first(corpora, SHOWN)),
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
        for xray in examine(stage, life, life.ground().renderer(tuple(stage.tune.tokens)))
    ]
    console = Console()
    for xray in found:
        draw(xray, console)
    page = folder / "inspect.html"
    replace(page, html(loaded.recipe.name, found))
    say(f"the same as a page: {page}")
    return found


def draw(xray: Xray, console: Console) -> None:
    """Counts and examples: trained tokens green, the rest dim; between marks where there is no colour."""
    console.print(Text(f"{xray.stage} · {xray.task}", style="bold"))
    for line in xray.lines():
        console.print(Text(line, style="bold red" if line.startswith("!") else ""))
    coloured = console.color_system is not None
    for example in xray.examples:
        console.print()
        console.print(_coloured(example) if coloured else Text(_marked(example)), soft_wrap=True)
    legend = _coloured(Example((("trained", True), (" · read only", False))))
    console.print(Text("\n").append(legend) if coloured else f"\n{MARKS[0]}trained{MARKS[1]} · read only", markup=False)
    console.print()


def _coloured(example: Example) -> Text:
    text = Text()
    for piece, trained in example.spans():
        text.append(plain(piece), style="green" if trained else "dim")
    return text


def _marked(example: Example) -> str:
    return plain("".join(f"{MARKS[0]}{text}{MARKS[1]}" if trained else text for text, trained in example.spans()))


def html(name: str, xrays: Sequence[Xray]) -> str:
    """The X-ray as one self-contained page."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("didact", "audit"), autoescape=True)
    return pages.get_template("inspect.html.jinja").render(name=name, xrays=xrays)
