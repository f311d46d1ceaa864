"""The command line: one thin function a verb. Heavy imports stay inside, so that ``--help`` answers at once."""

import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from didact import __version__
from didact.cli_feedback import app as feedback
from didact.errors import GateFailed, Problem, UsageProblem


class ReaderGone(Exception):
    """Whoever read our stdout has closed it."""


class Verbs(TyperGroup):
    """The verbs; typer would end a broken pipe itself, with the exit code of a bug."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Runs the verb."""
        try:
            return super().invoke(ctx)  # type: ignore[arg-type]
        except BrokenPipeError as error:
            raise ReaderGone from error


app = typer.Typer(
    name="didact",
    cls=Verbs,
    help="Raises a generative model through its whole life, from documents to a model you can talk to.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(feedback, name="feedback")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides, as stage.key=value.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
ModelName = Annotated[str, typer.Argument(help="A run folder, a checkpoint folder, a .gguf file or a hub id.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")]
DEBUG = "DIDACT_DEBUG"


def say(line: str) -> None:
    """Talk goes to stderr; stdout is data. Where nobody can listen any more, work goes on."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (after a verb, too).")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
) -> None:
    """Runs a recipe; what is finished is skipped, what was stopped goes on where it stopped."""
    from didact.engine.stop import listening

    code, breaches = 0, []
    with listening():
        if nproc > 1 and "WORLD_SIZE" not in os.environ:
            from didact.engine.supervise import supervise

            code = supervise(["run", str(recipe), *(overrides or []), "--runs", str(runs)], nproc, say)
        else:
            from didact.run.command import run_recipe

            breaches = run_recipe(recipe, overrides or [], runs, say)
    if code:
        raise typer.Exit(code)
    if breaches:
        raise GateFailed("; ".join(breaches), where=str(recipe))


@app.command()
def inspect(recipe: RecipePath, overrides: Overrides = None, runs: Runs = Path("runs")) -> None:
    """Shows what would be trained before the first step: coloured tokens and counts."""
    from didact.audit.xray import inspect_recipe

    inspect_recipe(recipe, overrides or [], runs, say)


@app.command()
def chat(
    model: ModelName,
    prompt: Annotated[str | None, typer.Option(help="Answer this one prompt and end.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    document: Annotated[str | None, typer.Option(help="A document to talk about, read once and kept.")] = None,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    steps: Annotated[int, typer.Option(min=0, help="Text diffusion: passes of an answer; 0 for one a token.")] = 0,
    block: Annotated[int, typer.Option(min=0, help="Text diffusion: tokens written before the next.")] = 0,
    guidance: Annotated[float, typer.Option(min=0, help="Text diffusion: how much the prompt counts above 0.")] = 0.0,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = "auto",
) -> None:
    """Talks with a model in the terminal."""
    from didact.rollout.settings import Sampling
    from didact.run.chat import chat_with

    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        steps=steps,
        block=block,
        guidance=guidance,
        seed=seed,
    )
    chat_with(model, prompt, system, sampling, device, say, document)


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe whose laws to check at toy size.")] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
) -> None:
    """Looks at this machine, and holds the laws against a recipe's own model and data at toy size."""
    from didact.audit.doctor import examine

    examine(recipe, overrides or [], runs, say)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder with documents or conversations.")] = Path("."),
) -> None:
    """Writes a commented starter recipe, recipe.yaml, for the documents in a folder."""
    from didact.run.init import init as write_recipe

    write_recipe(folder, say)


@app.command("eval")
def evaluate(
    model: ModelName,
    other: Annotated[str | None, typer.Argument(help="With --prompts: the model whose answers are compared.")] = None,
    data: Annotated[str | None, typer.Option(help="Data as a recipe names it: a file, a folder, a pattern.")] = None,
    against: Annotated[str | None, typer.Option(help="A second model, measured on the same data.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompts that both models answer, as data.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="Who judges: a reward, as a recipe says it.")] = None,
    judge: Annotated[str | None, typer.Option(help="Who judges: a model, which reads both orders.")] = None,
    rubric: Annotated[str | None, typer.Option(help="What the judge is to look at.")] = None,
    people: Annotated[int, typer.Option(min=0, help="Who judges: so many people each pair, on the page.")] = 0,
    store: Annotated[str | None, typer.Option(help="The feedback store, for --people.")] = None,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples to measure, chosen by chance.")] = None,
    context: Annotated[int, typer.Option(min=8, help="Tokens in a row.")] = 1024,
    device: Device = "auto",
) -> None:
    """Measures bits per byte of a model on any data, or whose answers to the same prompts are better."""
    if (data is None) == (prompts is None) or (other is None) != (prompts is None):
        remedy = "give --data FILE for bits per byte, or two models and --prompts FILE to compare answers"
        raise UsageProblem("what is to be measured?", remedy=remedy)
    if data is not None:
        from didact.run.measure import measure

        measure(model, data, against, limit, context, device, say)
        return
    from didact.run.duel import RUBRIC, Duel, duel

    assert other is not None
    assert prompts is not None
    asked = Duel(
        prompts=prompts,
        rewards=tuple(reward or ()),
        judge=judge,
        rubric=rubric or RUBRIC,
        people=people,
        store=store,
        limit=limit,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        device=device,
    )
    duel(model, other, asked, say)


@app.command()
def embed(
    model: ModelName,
    text: Annotated[list[str] | None, typer.Option(help="A text to embed; may be given several times.")] = None,
    data: Annotated[str | None, typer.Option(help="Data as a recipe names it: a file, a folder, a pattern.")] = None,
    role: Annotated[Literal["query", "document"], typer.Option(help="Whose prompt stands before a text.")] = "document",
    dimensions: Annotated[int | None, typer.Option(min=1, help="Keep so many numbers of each vector.")] = None,
    output: Annotated[Path | None, typer.Option(help="A .npy file for the vectors instead of JSON lines.")] = None,
    device: Device = "auto",
) -> None:
    """Makes a vector of each text: one JSON line a text, or one array."""
    from didact.run.embed import embed as write_vectors

    write_vectors(model, data, text or [], role, dimensions, output, device, say)


@app.command()
def index(
    paths: Annotated[list[str], typer.Argument(help="Files and folders with documents.")],
    out: Annotated[Path, typer.Option(help="The index's folder, brought up to date if it is there.")] = Path("index"),
    embedder: Annotated[str, typer.Option(help="A model that embeds, or none.")] = "all-minilm-l6-v2",
    store: Annotated[str | None, typer.Option(help="The URL of a PostgreSQL server, instead of a folder.")] = None,
    size: Annotated[int, typer.Option(min=80, max=100_000, help="Characters of a passage, at most.")] = 1200,
    overlap: Annotated[int, typer.Option(min=0, help="Characters it repeats of the one before it.")] = 150,
    device: Device = "auto",
) -> None:
    """Makes documents searchable, by words and by meaning; reads again only what has changed."""
    from didact.run.search import index_files

    index_files(paths, store or str(out), embedder, size, overlap, device, say)


@app.command()
def search(
    index: Annotated[str, typer.Argument(help="An index's folder, runs/NAME/index, or a server's URL.")],
    query: Annotated[str | None, typer.Argument(help="A question.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Passages to find.")] = 8,
    mode: Annotated[Literal["hybrid", "dense", "words"], typer.Option(help="Vectors, words or both.")] = "hybrid",
    where: Annotated[list[str] | None, typer.Option(help="key=value: kind, path, source, title or heading.")] = None,
    rerank: Annotated[str | None, typer.Option(help="A model that reads the best again and orders them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a passage.")] = False,
    questions: Annotated[
        str | None, typer.Option(help="Records of anchor and positive: measures the search instead.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Finds passages in an index, or measures how well it finds them."""
    from didact.run.search import search as find

    find(index, query, questions, k, mode, where or [], rerank, as_json, device, say)


@app.command()
def export(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    dtype: Annotated[Literal["as-saved", "bf16", "fp32"], typer.Option(help="The type of the weights.")] = "as-saved",
) -> None:
    """Writes a model as the standard folder, and proves it by reading it back."""
    from didact.run.export import export as write_model

    write_model(model, folder, dtype, say)


@app.command()
def serve(
    model: ModelName,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's own need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any.")] = 8321,
    name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER of a LoRA of this model.")] = None,
    also: Annotated[list[str] | None, typer.Option("--model", help="NAME=MODEL, another model.")] = None,
    slots: Annotated[int, typer.Option(min=1, max=1024, help="Answers written at once.")] = 16,
    queue: Annotated[int, typer.Option(min=8, max=100_000, help="Answers that may wait.")] = 64,
    context: Annotated[int, typer.Option(min=8, help="Tokens of prompt and answer, at most the model's own.")] = 8192,
    key_file: Annotated[Path | None, typer.Option(help="File of API keys' hashes; every request needs one.")] = None,
    new_key: Annotated[str | None, typer.Option(help="Print a new key for this person, and end.")] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Listen beyond this machine without keys.")] = False,
    cors: Annotated[list[str] | None, typer.Option(help="Origin whose pages may ask, as https://a.example.")] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts and answers to the log.")] = False,
    feedback: Annotated[str | None, typer.Option(help="Path or URL of the feedback store.")] = None,
    index: Annotated[str | None, typer.Option(help="An index whose passages answers stand on.")] = None,
    passages: Annotated[int, typer.Option(min=1, max=64, help="Passages of an answer, at most.")] = 4,
    relevance: Annotated[float, typer.Option(min=-1, max=1, help="Least cosine of a passage and the question.")] = 0.25,
    no_guard: Annotated[bool, typer.Option("--no-guard", help="Quote passages as they are.")] = False,
    quantize: Annotated[
        Literal["int8", "int4"] | None, typer.Option(help="Weights of few bits, on CPU; its cost is printed.")
    ] = None,
    embedder: Annotated[str, typer.Option(help="What embeds where the model does not.")] = "all-minilm-l6-v2",
    weights: Annotated[
        Path | None, typer.Option(help="A folder; weights in it may be loaded while the server runs.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Serves a model over OpenAI's interface, and a page to talk with it."""
    if new_key is not None:
        from didact.serve.keys import create

        print(create(key_file, new_key))
        return
    from didact.serve.command import Serving
    from didact.serve.command import serve as serve_model

    options = Serving(
        host=host,
        port=port,
        device=device,
        name=name,
        adapters=adapter or (),
        models=also or (),
        slots=slots,
        queue=queue,
        context=context,
        key_file=key_file,
        no_key=no_key,
        cors=cors or (),
        log_prompts=log_prompts,
        feedback=feedback,
        index=index,
        passages=passages,
        relevance=relevance,
        guard=not no_guard,
        embedder=embedder,
        quantize=quantize,
        weights=weights,
    )
    serve_model(model, options, say)


@app.command()
def schema() -> None:
    """Prints the JSON schema of recipes, for editors."""
    import json

    from didact.recipe import json_schema

    print(json.dumps(json_schema(), indent=2))


def main() -> NoReturn:
    """Runs the command line; a foreseen mistake is one line and an exit code, never a traceback."""
    arguments, debug = _without_debug(sys.argv[1:])
    if debug:
        os.environ[DEBUG] = "1"  # processes started from here show theirs too
    try:
        code = app(arguments or ["--help"], prog_name="didact", standalone_mode=False)
        sys.stdout.flush()
    except Problem as problem:
        _end(str(problem), problem.code, debug)
    except typer.TyperException as error:  # the command line itself is wrong
        what = " ".join(error.format_message().split()).rstrip(".")
        _end(f"{what}; see {_verb(arguments)} --help", UsageProblem.code, debug)
    except (ReaderGone, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes nowhere
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        _end(_bug(error), 1, debug)
    if code == 128 + signal.SIGINT:
        say("didact: interrupted")
    sys.exit(code or 0)


def _end(line: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    if place := os.environ.get("DIDACT_COMPLAINT"):  # one of several processes: the supervisor says it once for all
        Path(place).write_text(f"didact: {line}")
    else:
        say(f"didact: {line}")
    sys.exit(code)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """``--debug`` may stand anywhere before ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"] + arguments[end:]
    return kept, len(kept) < len(arguments) or DEBUG in os.environ


def _verb(arguments: list[str]) -> str:
    """The verb that was meant, if it is one."""
    known = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    known += [group.name for group in app.registered_groups if group.name]
    return " ".join(["didact", *(argument for argument in arguments[:1] if argument in known)])


def _bug(error: BaseException) -> str:
    """What no code of ours foresaw, in one line; one cause of such errors is known and has a remedy."""
    from didact.audit.machine import MISFIT, MISFIT_REMEDY

    cause: BaseException | None = error
    while cause is not None:
        if MISFIT in str(cause):
            return f"torchvision does not fit this torch; {MISFIT_REMEDY}"
        cause = cause.__cause__ or cause.__context__
    what = " ".join(str(error).split())
    return f"{type(error).__name__}: {what}; this is a bug in Didact, run with --debug to see where"
