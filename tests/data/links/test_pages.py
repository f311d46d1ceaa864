import json

import pytest

from didact.data.links.graph import linked
from didact.data.links.pages import markdown, pages, resolved, titles
from didact.data.settings import Data
from didact.data.source import examples
from didact.errors import DataProblem, UsageProblem


def graph(folder, kind="auto", **source):
    data = Data.model_validate({"path": str(folder), **source})
    return linked(sorted(pages(examples(data, {}, 0)[0], kind), key=lambda page: page.name))


def edges(links):
    names = [page.name for page in links.pages]
    return {names[i]: [names[j] for j in out] for i, out in enumerate(links.out)}


HTML = {
    "index.html": """<nav><a href="b/two.html">menu</a></nav><main><p>First, see <a href="b/one.html">one</a>,
        <a href="b/one.html#part">again</a>, <a href="#here">here</a>, <a href="index.html">me</a>,
        <a href="https://elsewhere.org/b/two.html">far</a>, <a href="mailto:me@x">mail</a>, <a name="x">none</a>
        and <a href="gone.html">gone</a></p><pre>code <a href="b/my%20page.html?x=1">p</a></pre></main>""",
    "b/one.html": '<p>Up to the <a href="../index.html">start</a>, <a href="/b/two.html">root</a>, <a href="./">b</a>',
    "b/two.html": "<p>A leaf</p>",
    "b/index.html": '<p>Index of b: <a href="two">without a suffix</a></p>',
    "b/my page.html": '<p>Spaced <a href="https://[bad">not a URL</a></p>',
}


def test_html_links_are_resolved_from_where_they_stand(tmp_path):
    for name, text in HTML.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    links = graph(tmp_path)
    assert edges(links) == {
        "index.html": ["b/my page.html", "b/one.html"],
        "b/one.html": ["b/index.html", "b/two.html", "index.html"],
        "b/two.html": [],
        "b/index.html": ["b/two.html"],
        "b/my page.html": [],
    }
    assert (links.broken, links.outside) == (1, 3)
    assert links.pages[-1].text.startswith("First, see one")
    assert "menu" not in links.pages[-1].text


def test_html_links_stand_where_their_words_are(tmp_path):
    (tmp_path / "one.html").write_text(
        "<h1>One</h1><p>Before <b>and</b>  see\n<a href='two.html'>the second</a>, <a href='gone.html'>gone</a>.</p>"
        "<pre>x\ny <a href='two.html'>in code</a></pre><ul><li>last <a href='two.html#end'>again</a></ul>"
    )
    (tmp_path / "two.html").write_text("<p>A leaf</p>")
    links = graph(tmp_path)
    text = links.pages[0].text
    assert links.places[1].shape == (0, 2)
    assert links.places[0][:, 1].tolist() == [1, 1, 1]
    first, code, last = (text[at:] for at in links.places[0][:, 0])
    assert first.startswith("the second, gone.")
    assert code.startswith("x\ny in code")  # a link in code stands where the code begins
    assert last.startswith("again")


def test_a_record_may_say_where_its_links_stand(tmp_path):
    def write(places):
        lines = [{"id": "a", "text": "see b and c", "links": ["b", "c"], "places": places}]
        lines += [{"id": name, "text": "leaf"} for name in "bc"]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))

    write([4, 10])
    assert graph(tmp_path / "a.jsonl").places[0].tolist() == [[4, 1], [10, 2]]
    write([4])
    with pytest.raises(DataProblem, match=r"a.jsonl:1: places is \[4\], beside 2 links"):
        graph(tmp_path / "a.jsonl")


def test_markdown_links_but_not_images_code_or_footnotes(tmp_path):
    text = """See [two](b/two.md "title"), [angled](<b/three.md>), [by name][ref] and <a href="b/html.md">tag</a>.
![picture](b/picture.png) `[code](no.md)` [^1] [[Wiki Page|shown]] [gone](nowhere.md)
```
[fenced](no.md)
```
[ref]: b/ref.md
[^1]: a footnote
"""
    assert markdown(text) == ["b/two.md", "b/three.md", "nowhere.md", "b/ref.md", "b/html.md"]
    (tmp_path / "b").mkdir()
    (tmp_path / "a.md").write_text(text)
    for name in ("two", "three", "ref", "html"):
        (tmp_path / f"b/{name}.md").write_text("[back](../a.md#top)")
    (tmp_path / "wiki_Page.md").write_text("no links")
    links = graph(tmp_path)
    assert edges(links)["a.md"] == ["b/html.md", "b/ref.md", "b/three.md", "b/two.md", "wiki_Page.md"]
    assert edges(links)["b/two.md"] == ["a.md"]
    assert links.broken == 1
    assert "wiki_Page.md" not in edges(graph(tmp_path, "markdown"))["a.md"]
    assert edges(graph(tmp_path, "wiki"))["a.md"] == ["wiki_Page.md"]


def test_wiki_links_by_title():
    text = "[[Alan Turing]] [[alan_Turing#Life|he]] [[File:a.png|thumb]] [[Category:Men]] [[ Computing ]]"
    assert titles(text) == ("Alan Turing", "alan_Turing", "Computing")


def test_wiki_records(tmp_path):
    records = [
        {"title": "Alan Turing", "text": "He founded [[computing]] and [[Nothing]]."},
        {"title": "Computing", "text": "Begun by [[Alan_Turing|Turing]]."},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    links = graph(tmp_path)
    assert edges(links) == {"Alan Turing": ["Computing"], "Computing": ["Alan Turing"]}
    assert links.broken == 1


def test_citations(tmp_path):
    records = [{"id": 1, "text": "a", "cites": [2, 3]}, {"id": "2", "text": "b", "links": ["1", "9"]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*records, {"id": "3", "text": "c [[1]]"}])))
    links = graph(tmp_path, "citations")
    assert edges(links) == {"1": ["2", "3"], "2": ["1"], "3": []}
    assert links.broken == 1
    assert edges(graph(tmp_path))["3"] == ["1"]


def test_urls_of_records(tmp_path):
    records = [
        {"url": "https://a.org/x/one", "text": "[two](two) [far](https://b.org/x/two) [up](/y?q=1#z)"},
        {"url": "https://a.org/x/two", "text": "b"},
        {"url": "https://a.org/y", "text": "c"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    links = graph(tmp_path, "markdown")
    assert edges(links)["https://a.org/x/one"] == ["https://a.org/x/two", "https://a.org/y"]
    assert links.outside == 1
    assert resolved("a/b.html", ["../../../c.html"]) == (["c.html"], 0)


BAD = {
    "two of a name": ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], r"a\.jsonl:2: 'a' is already the name of"),
    "cites text": ([{"id": "a", "text": "x", "cites": "b"}], r"a\.jsonl:1: cites is text; wanted a list of ids"),
    "cites floats": ([{"id": "a", "text": "x", "cites": [1.5]}], r"cites is \[1\.5\]; wanted a list of ids"),
    "no documents": ([{"prompt": "x", "completion": "y"}], r"a\.jsonl:1: no document, but an example to answer"),
}


@pytest.mark.parametrize(("records", "said"), BAD.values(), ids=BAD)
def test_bad_documents_are_refused(tmp_path, records, said):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(DataProblem, match=said):
        graph(tmp_path)


def test_parts_of_a_source_are_refused(tmp_path):
    (tmp_path / "a.md").write_text("x")
    for part in ({"sample": 1}, {"weight": 2.0}):
        with pytest.raises(UsageProblem, match="whole sources"):
            graph(tmp_path, **part)
