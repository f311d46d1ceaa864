"""Every way a file can be wrong that we know of, and the right ways beside them."""

import csv
import gzip
import io
import json
import os
import sys
import tracemalloc
import zlib
from pathlib import Path

import orjson
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from didact.data import html, unpack
from didact.data.files import READERS, known, read, without_nulls
from didact.errors import DataProblem, MissingExtra, Problem, ResourceProblem

GOOD = b'{"text": "good"}\n'
KIB = 1024


def parquet(**columns: list) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def bad_utf8_parquet() -> bytes:
    text = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")]
    )
    return parquet(text=text)  # pyrefly: ignore


def middle_flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 64]) + data[middle + 64 :]


PARQUET = parquet(text=[f"document {i} " * 20 for i in range(600)])
GZIP = gzip.compress(GOOD * 20_000)
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(
    b"".join(b'{"text": "%d"}\n' % (i * 7919 % 104729) for i in range(20_000))
)
DEEP = b'{"messages": [' + b"[" * 1200 + b"]" * 1200 + b"]}"

# id: (file name, its bytes, what the line must say)
MALFORMED: dict[str, tuple[str, bytes, str]] = {
    # nothing in it
    "empty": ("a.jsonl", b"", "a.jsonl: no examples"),
    "empty ndjson": ("a.ndjson", b"", "no examples"),
    "only blank lines": ("a.jsonl", b"\n\r\n  \n\t\n", "no examples"),
    "only a BOM": ("a.jsonl", b"\xef\xbb\xbf", "no examples"),
    "empty json": ("a.json", b"", "no examples"),
    "blank json": ("a.json", b" \n", "no examples"),
    "empty array": ("a.json", b"[]", "no examples"),
    "empty list field": ("a.json", b'{"data": []}', "no examples"),
    "empty csv": ("a.csv", b"", "no examples"),
    "csv of a header": ("a.csv", b"text\n", "no examples"),
    "empty text": ("a.txt", b"", "a.txt: no examples"),
    "blank markdown": ("a.md", b" \n\n", "no examples"),
    "empty html": ("a.html", b"", "no examples"),
    "html of scripts": ("a.html", b"<script>let a = 1</script><style>p {}</style>", "no examples"),
    "empty gzip member": ("a.jsonl.gz", gzip.compress(b""), "no examples"),
    "zero-byte gzip": ("a.jsonl.gz", b"", "no examples"),
    "zero-byte zstd": ("a.jsonl.zst", b"", "no examples"),
    "parquet of no rows": ("a.parquet", parquet(text=pyarrow.array([], pyarrow.string())), "no examples"),
    # bytes that are not text
    "latin-1": ("a.jsonl", GOOD + b'{"text": "caf\xe9"}\n', "a.jsonl:2: byte 30 (0xe9) is not valid UTF-8"),
    "latin-1 after a BOM": ("a.jsonl", b"\xef\xbb\xbf" + b'{"text": "\xe9"}', "a.jsonl:1: byte 13 (0xe9)"),
    "overlong UTF-8": ("a.jsonl", b'{"text": "\xc0\x80"}', "is not valid UTF-8"),
    "encoded surrogate": ("a.jsonl", b'{"text": "\xed\xa0\x80"}', "is not valid UTF-8"),
    "cut UTF-8": ("a.jsonl", GOOD + b'{"text": "\xe2\x82', "a.jsonl:2: byte 27 (0xe2)"),
    "UTF-16": ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "UTF-8"),
    "UTF-16 without BOM": ("a.jsonl", '{"text": "a"}\n'.encode("utf-16-le"), "a.jsonl:1: NUL byte at byte 1"),
    "NUL in a string": ("a.jsonl", GOOD + b'{"text": "a\0b"}', "a.jsonl:2: NUL byte at byte 28"),
    "NUL between lines": ("a.jsonl", GOOD + b"\0\0\0\n", "a.jsonl:2: NUL byte at byte 17"),
    "NULs after a crash": ("a.jsonl", GOOD + b"\0" * 5000, "a.jsonl:2: NUL byte"),
    "latin-1 text": ("a.txt", b"one\ntwo\ncaf\xe9", "a.txt:3: byte 11 (0xe9)"),
    "NUL in text": ("a.md", b"# one\n\0", "a.md:2: NUL byte at byte 6"),
    "latin-1 html": ("a.htm", b"<p>\n\xe9", "a.htm:2: byte 4 (0xe9)"),
    "latin-1 csv": ("a.csv", b"text\nfine\n\xe9\n", "a.csv:3: byte 10 (0xe9)"),
    "NUL in csv": ("a.csv", b"text\na\0b\n", "a.csv:2: NUL byte at byte 6"),
    "latin-1 json": ("a.json", b'[{"text": "a"},\n{"text": "\xe9"}]', "a.json:2: byte 26 (0xe9)"),
    "bad UTF-8 in gzip": ("a.jsonl.gz", gzip.compress(GOOD + b'{"text": "\xff"}'), "a.jsonl.gz:2: byte 27 (0xff)"),
    # JSON lines
    "not JSON": ("a.jsonl", GOOD + b"hello\n", "a.jsonl:2: invalid JSON at column 1"),
    "cut line": ("a.jsonl", GOOD + b'{"text": "go', "a.jsonl:2: invalid JSON"),
    "two objects a line": ("a.jsonl", b'{"text": "a"} {"text": "b"}', "a.jsonl:1: invalid JSON at column 15"),
    "two objects by CR": ("a.jsonl", b'{"text": "a"}\r{"text": "b"}', "a.jsonl:1: invalid JSON"),
    "trailing comma": ("a.jsonl", b'{"text": "a",}', "trailing comma"),
    "single quotes": ("a.jsonl", b"{'text': 'a'}", "a.jsonl:1: invalid JSON at column 2"),
    "pretty-printed": ("a.jsonl", b'{\n  "text": "a"\n}\n', "one JSON object a line"),
    "an array in .jsonl": ("a.jsonl", b'[{"text": "a"}]\n', "a.jsonl:1: the line is a list, wanted an object"),
    "a string line": ("a.jsonl", GOOD + b'"text"\n', "a.jsonl:2: the line is text, wanted an object"),
    "a number line": ("a.jsonl", b"12\n", "the line is int, wanted an object"),
    "a null line": ("a.jsonl", b"null\n", "the line is null, wanted an object"),
    "NaN": ("a.jsonl", b'{"score": NaN}', "a.jsonl:1: invalid JSON"),
    "infinite number": ("a.jsonl", b'{"score": 1e999}', "a.jsonl:1: invalid JSON"),
    "lone surrogate escape": ("a.jsonl", b'{"text": "\\ud800"}', "surrogate"),
    "BOM in the middle": ("a.jsonl", GOOD + b"\xef\xbb\xbf" + GOOD, "a.jsonl:2: invalid JSON"),
    "two BOMs": ("a.jsonl", b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD, "a.jsonl:1: invalid JSON"),
    "nested too deeply": ("a.jsonl", DEEP, "depth limit exceeded"),
    "nested deeply, key lookalikes": ("a.jsonl", b'{"\\":": ' + b"[" * 1010 + b"]" * 1010 + b"}", "nested too deeply"),
    "key twice": ("a.jsonl", GOOD + b'{"text": "a", "text": "b"}', "a.jsonl:2: key 'text' occurs twice"),
    "key twice, spaced": ("a.jsonl", b'{"text" : "a\\": ", "text"\t: "b"}', "key 'text' occurs twice"),
    "key twice, deeper": ("a.jsonl", b'{"m": [{"role": "a", "role": "b"}]}', "key 'role' occurs twice"),
    "key twice by escape": ("a.jsonl", b'{"text": "a", "te\\u0078t": "b"}', "key 'text' occurs twice"),
    "line too long": (
        "a.jsonl",
        GOOD + b'{"text": "' + b"x" * 70 * KIB + b'"}',
        "a.jsonl:2: the line is longer than 65,536",
    ),
    "line of NULs too long": ("a.jsonl", b"\0" * 70 * KIB, "a.jsonl:1: the line is longer than 65,536"),
    # JSON documents
    "json of text": ("a.json", b'"text"', "a.json: the file is text; wanted an array of objects"),
    "json of numbers": ("a.json", b'[{"text": "a"}, 2]', "a.json:item 2: the item is int, wanted an object"),
    "json without a list": ("a.json", b'{"text": "a"}', "an object with 0 list fields; wanted an array"),
    "json with two lists": ("a.json", b'{"a": [{}], "b": [{}]}', "an object with 2 list fields"),
    "json cut": ("a.json", b'[{"text": "a"},\n{"text":', "a.json:2: invalid JSON"),
    "json lines in .json": ("a.json", GOOD + GOOD, "a.json:2: invalid JSON"),
    "key twice in json": ("a.json", b'[{"text": "a", "text": "b"}]', "key 'text' occurs twice"),
    "json too large": ("a.json", b'[{"text": "' + b"x" * 300 * KIB + b'"}]', "one document of more than 262,144 bytes"),
    "text too large": ("a.txt", b"x\n" * 200 * KIB, "one document of more than 262,144 bytes"),
    # tables
    "csv row too short": ("a.csv", b"prompt,completion\na,b\nc\n", "a.csv:3: the row has 1 fields, the header 2"),
    "csv row too long": ("a.csv", b"text\na, b\n", "a.csv:2: the row has 2 fields, the header 1 (text)"),
    "csv open quote": ("a.csv", b'text\nfine\n"never closed\nmore\n', "a.csv:3: invalid .csv: unexpected end of data"),
    "csv stray quote": ("a.csv", b'text\n"a"b\n', "a.csv:2: invalid .csv"),
    "csv names twice": ("a.csv", b"text,text\na,b\n", "a.csv:1: the header names 'text' twice"),
    "csv empty name": ("a.csv", b"text,\na,b\n", "a.csv:1: the header has an empty name"),
    "csv field too long": ("a.csv", b'text\n"' + b"x\n" * 70 * KIB + b'"\n', "a.csv:2: invalid .csv: field larger"),
    "csv line too long": ("a.csv", b"text\n" + b"x" * 70 * KIB, "a.csv:2: the line is longer"),
    "tsv row too long": ("a.tsv", b"prompt\tcompletion\na\tb\tc\n", "a.tsv:2: the row has 3 fields"),
    "csv lone CR": ("a.csv", b"text\na\rb\n", "invalid .csv"),
    "parquet of text": ("a.parquet", b"hello", "a.parquet: not a valid Parquet file"),
    "parquet of nothing": ("a.parquet", b"", "a.parquet: not a valid Parquet file"),
    "parquet cut": ("a.parquet", PARQUET[:-40], "a.parquet: not a valid Parquet file"),
    "parquet without its head": ("a.parquet", PARQUET[len(PARQUET) // 2 :], "not a valid Parquet file"),
    "parquet of magic": ("a.parquet", b"PAR1\xff\xff\xff\x7fPAR1", "not a valid Parquet file"),
    "parquet damaged": ("a.parquet", middle_flipped(PARQUET), "not a valid Parquet file"),
    "parquet of bad UTF-8": ("a.parquet", bad_utf8_parquet(), "not a valid Parquet file"),
    "parquet packed": ("a.parquet.gz", gzip.compress(PARQUET), "unpack it first"),
    # packed files
    "gzip of text": ("a.jsonl.gz", GOOD, "a.jsonl.gz: not a valid gzip file"),
    "gzip cut": ("a.jsonl.gz", GZIP[:-30], "a.jsonl.gz: the gzip file ends too early"),
    "gzip cut in its checksum": ("a.jsonl.gz", GZIP[:-3], "a.jsonl.gz: the gzip file ends too early"),
    "gzip damaged": ("a.jsonl.gz", GZIP[:10] + b"\xff" + GZIP[11:], "a.jsonl.gz: not a valid gzip file"),
    "gzip wrong checksum": ("a.jsonl.gz", GZIP[:-8] + b"abcd" + GZIP[-4:], "a.jsonl.gz: not a valid gzip file: CRC"),
    "gzip and rubbish": ("a.jsonl.gz", GZIP + b"rubbish", "a.jsonl.gz: not a valid gzip file"),
    "gzip bomb": ("a.jsonl.gz", gzip.compress(GOOD * 300_000, 9), "unpacks to more than 200 times its size"),
    "gzip bomb of one line": ("a.jsonl.gz", gzip.compress(b" " * 2_000_000), "the line is longer than 65,536"),
    "zstd of text": ("a.jsonl.zst", GOOD, "a.jsonl.zst: not a valid zstd file"),
    "zstd cut": ("a.jsonl.zst", ZSTD[:-30], "a.jsonl.zst: the zstd file ends too early"),
    "zstd cut by a byte": ("a.jsonl.zst", ZSTD[:-1], "a.jsonl.zst: the zstd file ends too early"),
    "zstd wrong checksum": ("a.jsonl.zst", ZSTD[:-4] + b"abcd", "a.jsonl.zst: not a valid zstd file"),
    "zstd bomb": (
        "a.jsonl.zst",
        zstandard.ZstdCompressor(level=1).compress(GOOD * 300_000),
        "unpacks to more than 200 times its size",
    ),
    # kinds
    "unknown suffix": ("a.docx", b"x", "a.docx: unknown kind of file '.docx'; known are .jsonl, .ndjson"),
    "no suffix": ("README", b"x", "README: a file without a suffix is of unknown kind"),
    "a tarball": ("a.tar.gz", b"x", "unknown kind of file '.tar'"),
    "only packed": ("a.gz", b"x", "a file without a suffix is of unknown kind"),
    "a pickle": ("a.pkl", b"x", "unknown kind of file '.pkl'"),
}


@pytest.mark.parametrize(("name", "data", "fragment"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_get_one_line(name, data, fragment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unpack, "EXPANSION_FREE", 2**20)
    Path(name).write_bytes(data)
    with pytest.raises(Problem) as caught:
        list(read(Path(name), line_limit=64 * KIB, document_limit=256 * KIB))
    line = str(caught.value)
    assert fragment in line
    assert caught.value.code == 3
    assert line.startswith(name)
    assert "\n" not in line
    assert len(line) < 400


def test_records_before_the_mistake_are_yielded(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD * 150 + b"{")
    records = read(file)
    assert [next(records)[1] for _ in range(150)] == [{"text": "good"}] * 150
    with pytest.raises(DataProblem, match=r"a\.jsonl:151: invalid JSON"):
        next(records)


# --- the right ways ----------------------------------------------------------------------------------------

ROWS = [{"prompt": "one,\ttwo", "completion": 'a "quote"\nand a line'}, {"prompt": "ü", "completion": "漢字"}]


def as_csv(delimiter: str) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, ["prompt", "completion"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return sink.getvalue().encode()


LINES = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)
TABLES = {
    "a.jsonl": LINES,
    "b.ndjson": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n"),
    "c.json": orjson.dumps(ROWS, option=orjson.OPT_INDENT_2),
    "d.json": b"\xef\xbb\xbf" + orjson.dumps({"version": 1, "data": ROWS}),
    "e.csv": as_csv(","),
    "f.csv": b"\xef\xbb\xbf" + as_csv(","),
    "g.tsv": as_csv("\t"),
    "h.parquet": parquet(prompt=[r["prompt"] for r in ROWS], completion=[r["completion"] for r in ROWS]),
    "i.JSONL": LINES.rstrip(b"\n"),
    "j.jsonl.gz": gzip.compress(LINES[:20]) + gzip.compress(LINES[20:]),
    "k.jsonl.zst": zstandard.compress(LINES[:20]) + b"\x50\x2a\x4d\x18\x02\0\0\0hi" + zstandard.compress(LINES[20:]),
    "l.csv.GZ": gzip.compress(as_csv(",")),
    "m.json.zst": zstandard.compress(orjson.dumps(ROWS)),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_kind_reads_the_same_records(name, tmp_path):
    file = tmp_path / name
    file.write_bytes(TABLES[name])
    assert [record for _, record in read(file)] == ROWS
    assert known(file)


def test_where_is_the_line_the_row_or_the_item(tmp_path):
    wheres = {}
    for name, data in TABLES.items():
        (tmp_path / name).write_bytes(data)
        wheres[name[0]] = [where.removeprefix(f"{tmp_path}/") for where, _ in read(tmp_path / name)]
    assert wheres["a"] == ["a.jsonl:1", "a.jsonl:2"]
    assert wheres["b"] == ["b.ndjson:1", "b.ndjson:3"]
    assert wheres["c"] == ["c.json:item 1", "c.json:item 2"]
    assert wheres["e"] == ["e.csv:2", "e.csv:4"]  # the first row spans two lines
    assert wheres["h"] == ["h.parquet:row 1", "h.parquet:row 2"]


def test_text_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    (tmp_path / "b.md").write_bytes("# Ü\n".encode())
    (tmp_path / "c.md.gz").write_bytes(gzip.compress(b"packed"))
    assert list(read(tmp_path / "a.txt")) == [(f"{tmp_path}/a.txt:1", {"text": "one\ntwo\n"})]
    assert next(read(tmp_path / "b.md"))[1] == {"text": "# Ü\n"}
    assert next(read(tmp_path / "c.md.gz"))[1] == {"text": "packed"}


def test_html_is_read_as_a_reader_sees_it(tmp_path):
    page = """<html><head><title>T</title><style>p{}</style></head><body><script>no()</script><!-- no -->
    <h1>The  &lt;print&gt;\n function</h1><div>It <b>pr</b>ints.<br>Always</div><noscript>no</noscript>
    <ul><li>one<li>two</ul><pre>for x in y:\n    print(x)\n\n\nend</pre>
    <table><tr><th>a</th><th>b</th></tr><tr><td>1<td>2</tr></table><textarea>no</textarea></body></html>"""
    (tmp_path / "a.html").write_text(page)
    assert next(read(tmp_path / "a.html"))[1]["text"] == (
        "The <print> function\n\nIt prints.\nAlways\n\none\ntwo\n\nfor x in y:\n    print(x)\n\n\nend\n\na b\n1 2"
    )


@pytest.mark.parametrize("deep", ["<div>", "<div><ul><li>", "<b><blockquote>", "<table><td>", "<dl><dd>"])
def test_html_may_nest_as_deep_as_it_likes(tmp_path, deep):
    """The time of the parser alone would grow with the square."""
    page = f"<p>first</p>{deep * 40_000}<script>no()</script>a <a href='x'>link</a><h2>of</h2> it"
    (tmp_path / "a.html").write_text(page)
    assert next(read(tmp_path / "a.html"))[1]["text"].split() == ["first", "a", "link", "of", "it"]


def test_what_is_cut_off_a_deep_page_is_tags_alone():
    inner = "<i>x</i>y<div>z</div><pre>  p</pre>"
    for depth in (3, html.DEEP - 1, html.DEEP, 3 * html.DEEP):
        page = "<section>" * depth + inner + "</section>" * depth + "<h2>after</h2>end"
        text, _ = html.readable(page)
        assert text.split() == ["xy", "z", "p", "after", "end"]
        assert text.splitlines()[:2] == ["xy", "z"]
        assert html.flat(page).count("<section>") == min(depth, html.DEEP)
        assert html.flat(page).count("</section>") == min(depth, html.DEEP)
        assert "<h2>after</h2>" in html.flat(page)


def test_escaped_text_that_looks_like_keys_is_no_duplicate(tmp_path):
    record = {"text": '{"text": 1, "text": 2}', "more": {"text": '":'}}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert next(read(tmp_path / "a.jsonl"))[1] == record


def test_parquet_nulls_are_missing_fields(tmp_path):
    calls = [[{"role": "user", "content": "a"}, {"role": "tool", "content": "b", "name": "f"}]]
    (tmp_path / "a.parquet").write_bytes(parquet(messages=calls, system=pyarrow.array([None], pyarrow.string())))
    assert next(read(tmp_path / "a.parquet"))[1] == {"messages": calls[0]}
    assert without_nulls({"a": [None, {"b": None, "c": 0}]}) == {"a": [None, {"c": 0}]}


def test_parquet_is_streamed(tmp_path):
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    records = list(read(tmp_path / "a.parquet"))
    assert len(records) == 600
    assert records[-1] == (f"{tmp_path}/a.parquet:row 600", {"text": "document 599 " * 20})


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=0), min_size=1), st.booleans())
def test_json_lines_round_trip(tmp_path_factory, texts, ascii_only):
    file = tmp_path_factory.mktemp("round") / "a.jsonl"
    file.write_text(
        "".join(json.dumps({"text": text, text: "key"}, ensure_ascii=ascii_only) + "\n" for text in texts),
        encoding="utf-8",
        newline="",
    )
    assert [record for _, record in read(file)] == [{"text": text, text: "key"} for text in texts]


@given(st.binary(max_size=200), st.sampled_from([*READERS, ".jsonl.gz", ".jsonl.zst"]))
def test_no_bytes_make_a_traceback(tmp_path_factory, data, suffix):
    file = tmp_path_factory.mktemp("any") / f"a{suffix}"
    file.write_bytes(data)
    try:
        records = [record for _, record in read(file)]
    except DataProblem as problem:
        assert "\n" not in str(problem)  # noqa: PT017
    else:
        assert records
        assert all(isinstance(record, dict) for record in records)


# --- resources ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv"])
def test_a_huge_line_is_refused_in_little_memory(name, tmp_path):
    file = tmp_path / name
    with gzip.open(file, "wb", 1) if name.endswith("gz") else file.open("wb") as sink:
        sink.write(b'{"text": "')
        for _ in range(50):
            sink.write(b"x" * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(DataProblem, match=f"{name}:1: the line is longer than 1,048,576 bytes"):
            list(read(file, line_limit=2**20))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_the_default_limit_refuses_a_line_of_50_mb(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as sink:
        sink.truncate(50_000_000)
    with pytest.raises(DataProblem, match="longer than 33,554,432 bytes"):
        list(read(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_bomb_is_refused_in_little_memory(packing, tmp_path):
    pack = (
        zlib.compressobj(9, wbits=31)
        if packing == "gz"
        else zstandard.ZstdCompressor(write_content_size=False).compressobj()
    )
    line = b'{"text": "' + b"x" * 2**20 + b'"}\n'
    file = tmp_path / f"a.jsonl.{packing}"
    file.write_bytes(b"".join(pack.compress(line) for _ in range(300)) + pack.flush())
    tracemalloc.start()
    try:
        with pytest.raises(DataProblem, match="unpacks to more than 200 times its size"):
            for _ in read(file):
                pass
        assert tracemalloc.get_traced_memory()[1] < 160 * 2**20
    finally:
        tracemalloc.stop()


def test_unreadable_files_are_a_resource_problem(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name in ("folder.jsonl", "pipe.jsonl", "loop.jsonl", "missing.jsonl"):
        with pytest.raises(ResourceProblem, match=name):
            list(read(tmp_path / name))


def test_a_file_without_permission(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD)

    def refuse(*_, **__):  # root, who runs tests in containers, may open anything
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ResourceProblem, match=r"a\.jsonl: cannot be read: Permission denied"):
        list(read(file))


def test_a_failing_disk_is_a_resource_problem(tmp_path, monkeypatch):
    class Failing(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, _):
            raise OSError(5, "Input/output error")

    for name in ("a.jsonl", "a.jsonl.gz", "a.txt"):
        (tmp_path / name).write_bytes(GOOD)
        monkeypatch.setattr(Path, "open", lambda *_: io.BufferedReader(Failing()))
        with pytest.raises(ResourceProblem, match="cannot be read: Input/output error"):
            list(read(tmp_path / name))
        monkeypatch.undo()


def test_zstd_without_its_extra(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.zst").write_bytes(ZSTD)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match=r"a\.jsonl\.zst needs zstandard; pip install 'didact\[zstd\]'"):
        list(read(tmp_path / "a.jsonl.zst"))
