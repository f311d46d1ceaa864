"""The verbs of ``didact feedback``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="What people thought of answers: lists, exports, imports, reports, forgets it; asks for more.")

Where = Annotated[
    str | None,
    typer.Option(
        help="A file or a database's URL; else DIDACT_FEEDBACK, else runs/feedback.sqlite.", show_default=False
    ),
]
Form = Literal["records", "preferences", "kto", "ratings", "rankings", "sft", "good"]


@app.command("list")
def show(
    store: Where = None,
    kind: Annotated[str | None, typer.Option(help="Only these: exchange, thumb, rating, ranking, edit ...")] = None,
    last: Annotated[int, typer.Option(min=1, help="So many of the newest.")] = 20,
) -> None:
    """Prints records, the newest last: a line each."""
    from didact.run.feedback import show as print_records

    print_records(store, kind, last)


@app.command()
def export(
    store: Where = None,
    form: Annotated[
        Form, typer.Option("--format", help="records lose nothing; the others are for training.")
    ] = "records",
    output: Annotated[Path | None, typer.Option(help="A new file instead of stdout.")] = None,
) -> None:
    """Writes feedback as JSON lines."""
    from didact.run.feedback import export as write_lines

    write_lines(store, form, output)


@app.command("import")
def load(
    files: Annotated[list[Path], typer.Argument(help="Files of JSON lines as export writes them, of any format.")],
    store: Where = None,
    annotator: Annotated[
        str, typer.Option(help="Whose judgements these are, where the file does not say.")
    ] = "imported",
) -> None:
    """Reads feedback from files; lines that are there already are passed over."""
    from didact.run.feedback import load as read_lines

    read_lines(files, store, annotator)


@app.command()
def report(
    store: Where = None,
    json: Annotated[bool, typer.Option("--json", help="All of it, as JSON.")] = False,
) -> None:
    """Prints volume, agreement, the annotators' quality and biases, and which model wins."""
    from didact.run.feedback import report as print_report

    print_report(store, json)


@app.command()
def forget(
    annotator: Annotated[str, typer.Argument(help="The id of the person.")],
    store: Where = None,
) -> None:
    """Removes one person's feedback for good, and what rests on it; only the number of records is kept."""
    from didact.run.feedback import forget as remove

    remove(annotator, store)


@app.command()
def enqueue(
    files: Annotated[list[Path] | None, typer.Argument(help="Files of records with a prompt, or messages.")] = None,
    exchange: Annotated[
        list[str] | None, typer.Option(help="The id of an exchange; may be given several times.")
    ] = None,
    wanted: Annotated[int, typer.Option(min=1, max=1000, help="How many people are to judge each.")] = 1,
    store: Where = None,
) -> None:
    """Puts prompts and exchanges into the review queue."""
    from didact.run.feedback import enqueue as put

    put(files or [], exchange or [], wanted, store)
