"""Every family of files: its text, its structure, and what is said of a file that cannot be read."""

import json
import zipfile

import docx
import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from didact.errors import DataProblem, MissingExtra
from didact.retrieve.chunk import cut
from didact.retrieve.load import child, office
from didact.retrieve.load.files import load


def one(path):
    (found,) = load(path, path.name)
    return found


def outline(document):
    return [(block.kind, block.path, document.text[block.start : block.end]) for block in document.blocks]


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text(tmp_path):
    document = one(write(tmp_path, "a.txt", "\ufeffone\r\ntwo\r\n\r\n# three"))
    assert document.text == "one\ntwo\n\n# three"
    assert outline(document) == [("paragraph", (), "one\ntwo"), ("paragraph", (), "# three")]
    assert (document.kind, document.source, document.title) == ("text", "a.txt", "")


MARKDOWN = """---
title: settings
---
# Top

Intro.

Sub
---

```python
# no heading

x = 1
```
- a
---
#### Deep ####
end
~~~
open
"""


def test_markdown(tmp_path):
    document = one(write(tmp_path, "a.md", MARKDOWN))
    assert document.title == "Top"
    assert outline(document) == [
        ("code", (), "---\ntitle: settings\n---\n"),
        ("heading", ("Top",), "# Top"),
        ("paragraph", ("Top",), "Intro."),
        ("heading", ("Top", "Sub"), "Sub\n---"),
        ("code", ("Top", "Sub"), "```python\n# no heading\n\nx = 1\n```"),
        ("paragraph", ("Top", "Sub"), "- a\n---"),
        ("heading", ("Top", "Sub", "Deep"), "#### Deep ####"),
        ("paragraph", ("Top", "Sub", "Deep"), "end"),
        ("code", ("Top", "Sub", "Deep"), "~~~\nopen\n"),
    ]


def test_html(tmp_path):
    page = "<title>The  page</title><main><p>In</p><h1>One</h1><p>a <b>b</b></p><h2>Two</h2><pre>x\n\n  y</pre>z</main>"
    document = one(write(tmp_path, "a.html", page))
    assert document.title == "The page"
    assert outline(document) == [
        ("paragraph", (), "In"),
        ("heading", ("One",), "One"),
        ("paragraph", ("One",), "a b"),
        ("heading", ("One", "Two"), "Two"),
        ("code", ("One", "Two"), "x\n\n  y"),
        ("paragraph", ("One", "Two"), "z"),
    ]


PYTHON = '''"""Says."""
import os

# about f
@cache
def f(x):
    def inner(): ...
    return x

class A:
    """Is."""

    def g(self):
        return 1

    y = 2

print(f(1))
'''


def test_python(tmp_path):
    document = one(write(tmp_path, "a.py", PYTHON))
    assert outline(document) == [
        ("code", (), '"""Says."""\nimport os'),
        ("code", ("f",), "# about f\n@cache\ndef f(x):\n    def inner(): ...\n    return x"),
        ("code", ("A",), 'class A:\n    """Is."""\n'),
        ("code", ("A", "g"), "    def g(self):\n        return 1"),
        ("code", ("A",), "\n    y = 2"),
        ("code", (), "print(f(1))"),
    ]


def test_other_languages_and_python_of_another_age(tmp_path):
    for name, text in (("a.go", "func a() {\n}\n\nfunc b() {\n}\n"), ("b.py", "print 1\n\nprint 2\n")):
        document = one(write(tmp_path, name, text))
        assert [block.kind for block in document.blocks] == ["code", "code"]
        assert document.kind == "code"


def test_code_and_text_made_to_stall_readers_do_not(tmp_path):
    chain = "if x:\n    pass\n" + "elif x:\n    pass\n" * 3000
    for name, text in (
        ("a.py", chain),
        ("b.py", "(" * 50_000),
        ("c.py", "-" * 200_000 + "1"),
        ("d.md", "# " + " " * 400_000 + "x"),
        ("e.md", "x\n" + "#" * 400_000),
        ("f.html", "<div>" * 4000 + "</span></i>" * 4000 + "<p>x<br><li>" * 20_000),
        ("g.md", "---\n" + "a\n" * 100_000),
        ("h.txt", '."' * 100_000),
    ):
        assert cut(one(write(tmp_path, name, text)), 200, 20)
    for text in ("<div>" * 40_000, "<i></b>" * 40_000):
        assert one(write(tmp_path, "g.html", f"{text}<h2>End</h2>of it")).text.endswith("of it")


def test_notebook(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Top\n", "words"]},
        {"cell_type": "code", "source": "x = 1", "outputs": [{"text": "secret"}]},
        {"cell_type": "markdown", "source": "## Sub"},
        {"cell_type": "raw"},
        7,
    ]
    document = one(write(tmp_path, "a.ipynb", json.dumps({"cells": cells})))
    assert document.text == "# Top\nwords\n\nx = 1\n\n## Sub"
    assert outline(document) == [
        ("heading", ("Top",), "# Top"),
        ("paragraph", ("Top",), "words"),
        ("code", ("Top",), "x = 1"),
        ("heading", ("Top", "Sub"), "## Sub"),
    ]
    for bad in ("{", "[1]", '{"cells": 3}'):
        with pytest.raises(DataProblem, match="not a notebook"):
            one(write(tmp_path, "b.ipynb", bad))


def test_records(tmp_path):
    lines = [
        {"text": "# Head\n\nbody", "id": "first"},
        {"text": "plain", "title": "Given", "id": 7},
        {"text": "again", "id": "first"},
        {"text": "nameless"},
    ]
    path = write(tmp_path, "a.jsonl", "\n".join(json.dumps(line) for line in lines))
    found = list(load(path, "sub/a.jsonl"))
    assert [each.source for each in found] == ["first", "7", "first#2", "sub/a.jsonl:4"]
    assert [each.title for each in found] == ["Head", "Given", "", ""]
    assert {each.kind for each in found} == {"record"}
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(DataProblem, match=r"b\.jsonl:1: a conversation is no document"):
        list(load(write(tmp_path, "b.jsonl", json.dumps(chat)), "b"))


def test_nothing_is_no_document(tmp_path):
    for name in ("a.txt", "a.py", "a.md", "a.html", "a.ipynb"):
        assert list(load(write(tmp_path, name, " \n"), name)) == []


# --- PDF and DOCX ------------------------------------------------------------------------------------------


def make_pdf(path, *pages, title=None, password=None, bookmark=None):
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 300)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if bookmark:
        writer.add_outline_item(*bookmark)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    with path.open("wb") as file:
        writer.write(file)
    return path


def test_pdf(tmp_path):
    made = make_pdf(tmp_path / "a.pdf", "First words", "", "Last words", title="A title", bookmark=("Part", 1))
    document = one(made)
    assert document.text == "First words\n\n\n\nLast words"
    assert outline(document) == [
        ("paragraph", ("page 1",), "First words"),
        ("paragraph", ("Part", "page 3"), "Last words"),
    ]
    assert (document.kind, document.title) == ("pdf", "A title")
    assert document.note == "1 of 3 pages have no text; they may be scanned"


def test_a_pdf_that_needs_no_password_is_read(tmp_path):
    path = make_pdf(tmp_path / "a.pdf", "Words")
    writer = PdfWriter(clone_from=PdfReader(path))
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    writer.write(tmp_path / "b.pdf")
    assert one(tmp_path / "b.pdf").text == "Words"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: make_pdf(path, "Words", password="secret"), "is encrypted; save it without a password"),
        (lambda path: make_pdf(path, "", ""), "has 2 pages and no text, so it is scanned; run it through OCR"),
        (lambda path: path.write_bytes(b"%PDF-1.7\nnothing"), "cannot be read"),
        (lambda path: path.write_bytes(b"\0\1\2" * 99), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
    ],
)
def test_pdfs_that_cannot_be_read(tmp_path, make, words):
    make(tmp_path / "a.pdf")
    with pytest.raises(DataProblem, match=words) as caught:
        one(tmp_path / "a.pdf")
    assert str(caught.value).startswith(str(tmp_path / "a.pdf"))
    assert "\n" not in str(caught.value)


def test_docx(tmp_path):
    document = docx.Document()
    document.add_paragraph("Before.")
    document.add_heading("Top", 1)
    document.add_paragraph("Words.")
    table = document.add_table(2, 2)
    for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = f"c{number}"
    document.add_heading("Sub", 2)
    document.add_paragraph("More.")
    document.save(tmp_path / "a.docx")
    found = one(tmp_path / "a.docx")
    assert outline(found) == [
        ("paragraph", (), "Before."),
        ("heading", ("Top",), "Top"),
        ("paragraph", ("Top",), "Words."),
        ("paragraph", ("Top",), "c0 | c1\nc2 | c3"),
        ("heading", ("Top", "Sub"), "Sub"),
        ("paragraph", ("Top", "Sub"), "More."),
    ]
    assert found.kind == "docx"


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("word/document.xml", b" " * (500 << 20))
    return path


def test_a_docx_that_unpacks_without_end_is_refused(tmp_path):
    with pytest.raises(DataProblem, match=r"unpacks to 500 MB; leave it out"):
        one(bomb(tmp_path / "a.docx"))


def test_a_docx_that_is_none(tmp_path):
    for content in (b"", b"PK\3\4 nothing", b"\xd0\xcf\x11\xe0 old word"):
        with pytest.raises(DataProblem, match="no DOCX file"):
            one(write(tmp_path, "a.docx", content))
    with zipfile.ZipFile(tmp_path / "b.docx", "w") as packed:
        packed.writestr("a", "b")
    with pytest.raises(DataProblem, match="no DOCX file"):
        one(tmp_path / "b.docx")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = ' ' * (1 << 34)", "takes more than 768 MB of memory"),
        ("os.kill(os.getpid(), 11)", "ends its reader with exit code -11"),
        ("while True: pass", "takes more than 1 s to read"),
        ("import nothing_such", "needs nothing_such; pip install 'didact\\[documents\\]'"),
    ],
)
def test_a_reader_that_goes_wrong_does_no_harm(tmp_path, monkeypatch, body, words):
    start = "import os, sys; sys.path.append(sys.argv[1])\nfrom didact.retrieve.load import child\n"
    start += f"def pdf(path):\n  {body}\n"
    start += "child.SECONDS = 1\nchild.pdf = pdf\nchild.main(*sys.argv[2:])"
    monkeypatch.setattr(office, "START", start)
    monkeypatch.setattr(office, "SECONDS", 1)
    assert child.MEMORY == 768 << 20
    with pytest.raises((DataProblem, MissingExtra), match=words):
        one(make_pdf(tmp_path / "a.pdf", "Words"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\0b", "is binary, not text"),
        (b"caf\xe9", r"byte 3 \(0xe9\) is not valid UTF-8; save it as UTF-8"),
        (b"x" * 999, "is longer than 0 MB; split it"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr("didact.retrieve.load.files.LIMIT", 500)
    with pytest.raises(DataProblem, match=words):
        one(write(tmp_path, "a.md", content))
