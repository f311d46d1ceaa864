"""The command line: one thin function a verb. Heavy imports stay inside, so that ``--help`` answers at once."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from didact import __version__
from didact.errors import GateFailed, Problem

app = typer.Typer(
    name="didact",
    help="Raises a generative model through its whole life, from documents to a model you can talk to.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides, as stage.key=value.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the runs.")]


def say(line: str) -> None:
    """Talk goes to stderr; stdout is data."""
    print(line, file=sys.stderr, flush=True)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
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
    model: Annotated[str, typer.Argument(help="A run folder, a checkpoint folder, a .gguf file or a hub id.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this one prompt and end.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Talks with a model in the terminal."""
    from didact.rollout.settings import Sampling
    from didact.run.chat import chat_with

    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    chat_with(model, prompt, system, sampling, device, say)


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
def schema() -> None:
    """Prints the JSON schema of recipes, for editors."""
    import json

    from didact.recipe import json_schema

    print(json.dumps(json_schema(), indent=2))


def main() -> NoReturn:
    """Runs the command line; a foreseen mistake is one line and an exit code, never a traceback."""
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=True)
    except Problem as problem:
        if debug:
            raise
        say(f"didact: {problem}")
        sys.exit(problem.code)
    except KeyboardInterrupt:
        say("didact: interrupted")
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our data has gone
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if debug:
            raise
        say(f"didact: {type(error).__name__}: {error}; this is a bug in Didact, run with --debug to see where")
        sys.exit(1)
    sys.exit(0)
