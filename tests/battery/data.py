"""Data that is wrong, and data that only looks so."""

import gzip
import io
import json
import os
from pathlib import Path

from tests.battery.base import chats, documents, lines
from tests.battery.case import Case, Spoil, both, drop, edit, nothing, recipe, write

RUN, TALK = "run recipe.yaml", "run talk.yaml"


def docs(content: str | bytes, name: str = "docs.jsonl") -> Spoil:
    """Other documents, under their usual name or in a file of another kind."""
    stage = "{pretrain: {data: " + name + ", context: 32, batch_size: 2, max_steps: 1}}"
    return both(write(name, content), recipe(stage))


def talk(*messages: dict, **more) -> Spoil:
    """A good conversation, then this one."""
    return write("chats.jsonl", chats(1) + lines([{"messages": list(messages), **more}]))


def user(content: object = "Hi?") -> dict:
    return {"role": "user", "content": content}


def said(content: object = "Yes.") -> dict:
    return {"role": "assistant", "content": content}


def parquet(table: dict, keep: float = 1.0) -> Spoil:
    """Documents as Parquet, cut off or not."""

    def spoil(folder: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(table), out)
        docs(out.getvalue()[: int(keep * len(out.getvalue()))], "docs.parquet")(folder)

    return spoil


def zst(keep: float) -> Spoil:
    """Documents packed with zstd and cut off."""

    def spoil(folder: Path) -> None:
        import zstandard

        packed = zstandard.compress(documents(500).encode())
        docs(packed[: int(keep * len(packed))], "docs.jsonl.zst")(folder)

    return spoil


def pipe(folder: Path) -> None:
    (folder / "docs.jsonl").unlink()
    os.mkfifo(folder / "docs.jsonl")


def loop(folder: Path) -> None:
    (folder / "docs.jsonl").unlink()
    (folder / "docs.jsonl").symlink_to("docs.jsonl")


def beside(name: str) -> Spoil:
    """A folder of one good file and one of an unknown kind."""
    return both(
        write("docs/a.jsonl", documents()),
        write(f"docs/{name}", b"%PDF-1.7"),
        recipe("{pretrain: {data: docs, context: 32, batch_size: 2, max_steps: 1}}"),
    )


PACKED = gzip.compress(documents(200).encode())
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CASES = [
    # --- JSON lines -----------------------------------------------------------------------------------------
    Case("bad line", docs(documents(3) + '{"text": "a\n'), RUN, 3, "docs.jsonl:4: invalid JSON"),
    Case("cut off line", docs(documents(3) + '{"text": "a'), RUN, 3, "docs.jsonl:4: invalid JSON"),
    Case("single quotes", docs("{'text': 'a'}\n"), RUN, 3, "docs.jsonl:1: invalid JSON"),
    Case("NaN", docs('{"text": NaN}\n'), RUN, 3, "docs.jsonl:1: invalid JSON"),
    Case("number at line 151", docs(documents(150) + '{"text": 7}\n'), RUN, 3, "docs.jsonl:151: text"),
    Case("null at line 151", docs(documents(150) + '{"text": null}\n'), RUN, 3, "docs.jsonl:151"),
    Case("list for text", docs('{"text": ["a"]}\n'), RUN, 3, "docs.jsonl:1: text is a list"),
    Case("empty text", docs(documents(2) + '{"text": ""}\n'), RUN, 3, "docs.jsonl:3"),
    Case("no file content", docs(""), RUN, 3, "docs.jsonl: no examples"),
    Case("blank lines only", docs("\n \n\n"), RUN, 3, "docs.jsonl: no examples"),
    Case("not UTF-8", docs(documents(2).encode() + b'{"text": "\xff"}\n'), RUN, 3, "docs.jsonl:3: byte"),
    Case("Latin-1", docs('{"text": "caf\xe9"}\n'.encode("latin-1")), RUN, 3, "docs.jsonl:1: byte"),
    Case("UTF-16", docs(documents(2).encode("utf-16")), RUN, 3, "docs.jsonl:1"),
    Case("NUL", docs(documents(1).encode() + b'{"text": "a\0b"}\n'), RUN, 3, "docs.jsonl:2: NUL"),
    Case("half a surrogate pair", docs('{"text": "\\ud800"}\n'), RUN, 3, "docs.jsonl:1: invalid JSON"),
    Case("long line", docs(b'{"text": "' + b"x" * 50_000_000 + b'"}\n'), RUN, 3, "docs.jsonl:1: the line is longer"),
    Case("arrays", docs("[1, 2]\n"), RUN, 3, "docs.jsonl:1: the line is a list"),
    Case("words", docs('"hello"\n'), RUN, 3, "docs.jsonl:1"),
    Case("one key twice", docs('{"text": "a", "text": "b"}\n'), RUN, 3, "docs.jsonl:1: key 'text' occurs twice"),
    Case("deep JSON", docs('{"text": ' + "[" * 5000 + "]" * 5000 + "}\n"), RUN, 3, "docs.jsonl:1"),
    Case("other columns", docs('{"body": "a"}\n'), RUN, 3, "docs.jsonl:1: fields body are of no known format"),
    Case("similar column", docs('{"texts": "a"}\n'), RUN, 3, "did you mean 'text'"),
    Case("half of alpaca", docs('{"instruction": "a"}\n'), RUN, 3, "'instruction' needs 'output'"),
    Case("two formats", docs(documents(2) + chats(1)), RUN, 3, "docs.jsonl:3: the record is messages"),
    Case("preferences", docs('{"text": "q", "chosen": "a", "rejected": "b"}\n'), RUN, 3, "chosen"),
    Case("pictures", docs('{"text": "q", "image": "a.png"}\n'), RUN, 3, "image"),
    Case("BOM is text", docs(b"\xef\xbb\xbf" + documents().encode()), RUN, 0, "20 examples", done=1),
    Case("CRLF is text", docs(documents().replace("\n", "\r\n")), RUN, 0, "20 examples", done=1),
    Case("no last newline", docs(documents().rstrip("\n")), RUN, 0, "20 examples", done=1),
    # --- conversations --------------------------------------------------------------------------------------
    Case("empty answer", talk(user(), said("")), TALK, 3, "chats.jsonl:2: messages[1] is an empty assistant turn"),
    Case("blank answer", talk(user(), said(" \n")), TALK, 3, "chats.jsonl:2: messages[1] is an empty"),
    Case("no answer", talk(user()), TALK, 3, "chats.jsonl:2: the conversation has no assistant turn"),
    Case("no turns", talk(), TALK, 3, "chats.jsonl:2"),
    Case("unknown role", talk(user(), {"role": "asistant", "content": "a"}), TALK, 3, "did you mean 'assistant'"),
    Case("no role", talk({"content": "a"}), TALK, 3, "chats.jsonl:2: messages[0] has no role"),
    Case("no content", talk({"role": "user"}, said()), TALK, 3, "chats.jsonl:2: messages[0] has no content"),
    Case("number as content", talk(user(3), said()), TALK, 3, "chats.jsonl:2: messages[0].content"),
    Case("picture part", talk(user([{"type": "image_url"}]), said()), TALK, 3, "only text parts"),
    Case("turn as text", write("chats.jsonl", '{"messages": ["hi"]}\n'), TALK, 3, "messages[0] is"),
    Case("turns as text", write("chats.jsonl", '{"messages": "hi"}\n'), TALK, 3, "chats.jsonl:1: messages"),
    Case("weight of two", talk(user(), said() | {"weight": 2}), TALK, 3, "messages[1].weight"),
    Case("nothing to learn", talk(user(), said() | {"weight": 0}), TALK, 3, "no assistant turn to learn"),
    Case("tools as word", talk(user(), said(), tools="none"), TALK, 3, "tools"),
    Case("unknown speaker", write("chats.jsonl", '{"conversations": [{"from": "me", "value": "a"}]}\n'), TALK, 3, "me"),
    Case("longer than the context", write("chats.jsonl", chats(1).replace("Which", "w" * 999)), TALK, 3, "1 longer"),
    Case(
        "template refuses",
        both(
            drop("base/chat_template.jinja"),
            edit("base/tokenizer_config.json", chat_template=REFUSES),
            talk({"role": "system", "content": "s"}, user(), said()),
        ),
        TALK,
        3,
        "chats.jsonl:2: ",
    ),
    # --- other files ----------------------------------------------------------------------------------------
    Case("cut gzip", docs(PACKED[: len(PACKED) // 2], "docs.jsonl.gz"), RUN, 3, "docs.jsonl.gz"),
    Case("no gzip", docs(documents(), "docs.jsonl.gz"), RUN, 3, "docs.jsonl.gz"),
    Case("cut zstd", zst(0.5), RUN, 3, "docs.jsonl.zst"),
    Case("no zstd", docs(documents(), "docs.jsonl.zst"), RUN, 3, "docs.jsonl.zst"),
    Case("cut Parquet", parquet({"text": ["a b c"] * 50}, 0.7), RUN, 3, "docs.parquet"),
    Case("no Parquet", docs(documents(), "docs.parquet"), RUN, 3, "docs.parquet"),
    Case("Parquet without text", parquet({"body": ["a"]}), RUN, 3, "docs.parquet:row 1"),
    Case("Parquet with a hole", parquet({"text": ["a", None]}), RUN, 3, "docs.parquet:row 2"),
    Case("ragged CSV", docs("text,n\na,1\nb\n", "docs.csv"), RUN, 3, "docs.csv:3: the row has 1 fields"),
    Case("CSV of two equal names", docs("text,text\na,b\n", "docs.csv"), RUN, 3, "docs.csv:1: the header names"),
    Case("CSV with an open quote", docs('text\n"a\nb\n', "docs.csv"), RUN, 3, "docs.csv:2: invalid .csv"),
    Case("CSV of a header", docs("text\n", "docs.csv"), RUN, 3, "docs.csv: no examples"),
    Case("JSON of two lists", docs('{"a": [], "b": []}', "docs.json"), RUN, 3, "2 list fields"),
    Case("JSON of numbers", docs("[1]", "docs.json"), RUN, 3, "docs.json:item 1"),
    Case("cut JSON", docs('[{"text": "a"},', "docs.json"), RUN, 3, "docs.json:1: invalid JSON"),
    Case("binary text", docs(b"\x00\x01\x02", "docs.txt"), RUN, 3, "docs.txt:1: NUL"),
    Case("blank text", docs("  \n", "docs.txt"), RUN, 3, "docs.txt: no examples"),
    Case("HTML of nothing", docs("<html><body></body></html>", "docs.html"), RUN, 3, "docs.html: no examples"),
    Case("zip", docs(b"PK\x03\x04", "docs.zip"), RUN, 3, "docs.zip: unknown kind of file '.zip'; known are"),
    Case("PDF", docs(b"%PDF-1.7", "docs.pdf"), RUN, 3, "docs.pdf: unknown kind of file '.pdf'; known are"),
    Case("no suffix", docs("a", "docs/readme"), RUN, 3, "kind"),
    Case("folder of PDF", both(write("docs/a.pdf", "a"), recipe("{pretrain: {data: docs}}")), RUN, 3, "a.pdf"),
    Case("PDF beside text", beside("b.pdf"), RUN, 0, "b.pdf", done=1),
    Case("empty folder", both(lambda w: (w / "docs").mkdir(), recipe("{pretrain: {data: docs}}")), RUN, 2, "no files"),
    Case("pattern of nothing", recipe("{pretrain: {data: '*.parquet'}}"), RUN, 2, "*.parquet: no files there"),
    Case("no data file", drop("docs.jsonl"), RUN, 2, "docs.jsonl: no such file"),
    Case("misspelled file", recipe("{pretrain: {data: dcos.jsonl}}"), RUN, 2, "did you mean docs.jsonl?"),
    Case("pipe", pipe, RUN, 4, "docs.jsonl: is not a regular file"),
    Case("link to itself", loop, RUN, 2, "docs.jsonl"),
    # --- later stages, found before the first ---------------------------------------------------------------
    Case(
        "no held-out file",
        recipe("{pretrain: {data: docs.jsonl, heldout: held.jsonl, context: 32}}"),
        RUN,
        2,
        "held.jsonl: no such file",
    ),
    Case(
        "nothing to evaluate on",
        recipe("{pretrain: {data: docs.jsonl, context: 32}}, {evaluate: {data: {d: held.jsonl}}}"),
        RUN,
        2,
        "held.jsonl: no such file",
    ),
    Case(
        "second stage without objective",
        recipe("{pretrain: {data: docs.jsonl, context: 32}}, {finetune: {data: chats.jsonl, objective: dop}}"),
        RUN,
        2,
        "unknown objective 'dop'",
    ),
    Case(
        "bad held-out line",
        both(
            write("held.jsonl", "{\n"),
            recipe(json.dumps({"pretrain": {"data": "docs.jsonl", "heldout": "held.jsonl", "context": 32}})),
        ),
        RUN,
        3,
        "held.jsonl:1: invalid JSON",
    ),
    Case("inspect bad data", docs(documents(3) + "{\n"), "inspect recipe.yaml", 3, "docs.jsonl:4: invalid JSON"),
    Case("inspect no data", drop("docs.jsonl"), "inspect recipe.yaml", 2, "docs.jsonl: no such file"),
    Case("all is well", nothing, RUN, 0, "20 examples", done=1),
]
