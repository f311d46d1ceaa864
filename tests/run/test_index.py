"""The stage ``index`` in a recipe, and ``didact index`` and ``didact search``."""

import json

import pytest
from typer.testing import CliRunner

from didact import cli
from didact.errors import UsageProblem
from didact.retrieve.index import Index
from tests.retrieve.conftest import server  # noqa: F401 - fixture
from tests.run.test_life import base, world  # noqa: F401 - fixtures

INDEX = "{index: {data: [pages/, docs.jsonl], embedder: none, size: 100, overlap: 20}}"


@pytest.fixture
def pages(world):  # noqa: F811
    (world.folder / "pages").mkdir()
    for name in ("cats", "dogs"):
        (world.folder / f"pages/{name}.md").write_text(f"# On {name}\n\nAll about {name}, their habits and food.\n")
    (world.folder / "pages/code.py").write_text("def f():\n    return 'frogs'\n")
    world.recipe(INDEX)
    return world


def test_a_stage_leaves_an_index_and_the_run_points_at_it(pages):
    pages.run()
    assert any(line.startswith("index: ") and "no vectors" in line for line in pages.said)
    found = Index.open(pages.folder / "runs/r/index").search("dogs habits", 1)[0]
    assert (found.source, found.heading) == ("pages/dogs.md", "On dogs")
    assert pages.facts("index")["files"] == 4
    assert pages.run() == ["index"]
    (pages.folder / "pages/code.py").write_text("def f():\n    return 'toads'\n")
    assert pages.run() == []
    (last,) = (path for path in pages.stages("index") if path.name in (pages.folder / "runs/r/index").read_text())
    assert json.loads((last / "done.json").read_text())["facts"]["added"] == 1
    opened = Index.open(pages.folder / "runs/r")
    assert opened.search("toads")
    assert not opened.search("frogs")


def test_a_stage_may_keep_its_index_in_a_server(pages, server):  # noqa: F811
    url = f"{server}#stage"
    pages.recipe(INDEX.replace("size", f"store: '{url}', size"))
    pages.run()
    where = pages.folder / "runs/r/index"
    for place in (url, where, pages.folder / "runs/r"):
        assert Index.open(place).search("dogs habits", 1)[0].source == "pages/dogs.md"
    left = (pages.stages("index")[0] / "index/index.url").read_text()
    (pages.folder / "pages/cats.md").write_text("# Bats\n\nAll about bats.\n")
    pages.run()
    assert Index.open(where).search("bats")
    assert not Index.open(where).search("cats", where={"path": "pages/"})
    (last,) = (path for path in pages.stages("index") if path.name in where.read_text())
    assert (last / "index/index.url").read_text() != left
    assert json.loads((last / "done.json").read_text())["facts"]["added"] == 1


def test_an_index_made_with_other_settings_is_not_copied_first(pages, monkeypatch):
    pages.run()
    monkeypatch.setattr("shutil.copyfile", lambda *given: pytest.fail("copied"))
    pages.run("index.size=120")
    assert not any("built anew" in line for line in pages.said)
    assert Index.open(pages.folder / "runs/r").search("dogs")


def test_what_a_stage_left_keeps_its_name_when_it_is_made_again(pages, monkeypatch):
    left = [{"text": f"document {n} of {name}", "id": f"{name}{n}"} for n in range(3) for name in ("a", "b")]

    def build(name, folder, holdout, seed, say, only):
        (folder / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in left))
        return {}

    monkeypatch.setattr("didact.data.domain.build", build)
    corpus = "{corpus: {domain: toy, holdout: 0}}"
    pages.recipe(corpus, "{index: {data: [corpus/documents, pages/], embedder: none}}")
    pages.run()
    found = Index.open(pages.folder / "runs/r/index").search("document 1 of b", 1)[0]
    assert (found.source, found.file) == ("b1", "corpus/documents.jsonl")
    left.append({"text": "document of c", "id": "c"})
    pages.run("corpus.seed=1")
    assert any("; 1 documents read anew, 0 removed" in line for line in pages.said)


def test_an_index_does_not_depend_on_the_model_unless_it_makes_the_vectors(pages):
    train = "{pretrain: {data: docs.jsonl, context: 32, batch_size: 2, max_steps: 1}}"
    pages.recipe(train, INDEX)
    pages.run()
    pages.run("pretrain.max_steps=2")
    assert len(pages.stages("index")) == 1


def test_the_model_so_far_makes_the_vectors(pages):
    pairs = [{"anchor": f"what is {n}?", "positive": f"the number {n * n} of {n}"} for n in range(8)]
    (pages.folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    train = "{finetune: {data: pairs.jsonl, context: 64, batch_size: 4, max_steps: 1, objective: contrast}}"
    pages.recipe(train, INDEX.replace("none", "model"))
    pages.run()
    (pages.folder / "runs").rename(pages.folder / "moved")
    opened = Index.open(pages.folder / "moved/r/index", device="cpu")
    assert len(opened.search("dogs", mode="dense")) == 8


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("{index: {data: pages/, embedder: model}}", "no model to index with yet"),
        ("{index: {data: pages/#3}}", "an index holds every document once"),
        ("{index: {data: pages/, store: 'mysql://x'}}", "store"),
        ("{index: {data: pages/, size: 100, overlap: 50}}", "more than a third"),
        ("{index: {data: no/}}", "no such file, folder or output"),
        ("{index: {data: pages/, embeder: none}}", "embedder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(pages, stage, words):
    scratch = "{architecture: llama, size: 60k}"
    pages.recipe("{tokenizer: {data: docs.jsonl, vocab_size: 300}}", stage, base=scratch)
    with pytest.raises(UsageProblem, match=words):
        pages.run()
    assert not list((pages.folder / "runs").rglob("done.json"))


def test_a_later_stage_may_read_its_folder_and_an_earlier_one_may_not(pages):
    pages.recipe("{index: {data: later/index, embedder: none}}", "{index: {name: later, data: pages/}}")
    with pytest.raises(UsageProblem, match="has not run yet"):
        pages.run()


# --- the verbs ---------------------------------------------------------------------------------------------


def call(*arguments):
    done = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_the_verbs_from_files_to_passages(pages):
    (pages.folder / "pages/picture.png").write_bytes(b"\x89PNG")
    _, said = call("index", "pages", "--embedder", "none")
    assert "pages: left out, of a kind that is not read: picture.png" in said
    assert "index: 3 passages of 3 documents, no vectors; 3 documents read anew, 0 removed" in said
    out, _ = call("search", "index", "what do cats eat", "-k", "1")
    assert out.startswith("1. cats.md | On cats | 0-49 | ")
    assert "   All about cats, their habits and food." in out
    out, _ = call("search", "index", "f", "--json", "--where", "kind=code", "--mode", "words")
    (line,) = map(json.loads, out.splitlines())
    text = (pages.folder / "pages/code.py").read_text()
    assert (line["source"], line["heading"], line["similarity"]) == ("code.py", "f", None)
    assert text[line["start"] : line["end"]] == line["text"]
    assert call("search", "index", "zebra") == ("", "nothing found\n")


def test_an_index_among_its_documents_does_not_read_itself(pages):
    call("index", ".", "--embedder", "none", "--out", "mine/ix")
    _, said = call("index", ".", "--embedder", "none", "--out", "mine/ix")
    assert "0 documents read anew, 0 removed" in said
    assert "manifest" not in said


def test_reranking_by_a_model(pages):
    call("index", "pages", "--embedder", "none")
    out, _ = call("search", "index", "cats or dogs", "--rerank", "base", "--device", "cpu", "--json")
    scores = [json.loads(line)["score"] for line in out.splitlines()]
    assert scores == sorted(scores, reverse=True)
    assert all(score < 0 for score in scores)


def test_questions_measure_the_search(pages):
    pairs = [
        {"anchor": f"tell me about {name}", "positive": text}
        for name, text in (
            ("cats", (pages.folder / "pages/cats.md").read_text()),
            ("dogs", "All about dogs, their"),
            ("whales", "nothing of the kind"),
        )
    ]
    (pages.folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    call("index", "pages", "--embedder", "none")
    out, said = call("search", "index", "--questions", "pairs.jsonl")
    assert out.splitlines() == [
        "2 questions, 3 documents, 3 passages",
        "         recall@10  nDCG@10",
        "words        1.000    1.000",
    ]
    assert said == "1 questions left out: their sources are not in the index\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "index"], "one of a question and --questions"),
        (["search", "index", "a", "--where", "kind"], "names no value"),
        (["index", "pages", "--embedder", "none", "--overlap", "900"], "more than a third of --size"),
        (["index", "pages", "--embedder", "model"], "no model so far outside a recipe"),
    ],
)
def test_what_the_verbs_refuse(pages, arguments, words):
    call("index", "pages", "--embedder", "none")
    with pytest.raises(UsageProblem, match=words):
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
