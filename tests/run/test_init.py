"""The starter recipe: right for what is in the folder, and never over another one."""

import json
from pathlib import Path

import pytest

from didact.data.source import examples
from didact.errors import UsageProblem
from didact.recipe import load
from didact.run.init import init

CHAT = json.dumps({"messages": [{"role": "user", "content": "Wie geht's?"}, {"role": "assistant", "content": "Gut."}]})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(**contents):
    for name, content in contents.items():
        path = Path(name.replace("__", "/").replace("_dot_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def started(folder="."):
    init(Path(folder), lambda line: None)
    return load("recipe.yaml").recipe


def names(stage):
    return sorted(str(file) for source in examples(stage.data, {}, 0) for file in source.files)


def test_a_folder_of_documents_is_named_as_a_whole(capsys):
    files(docs__a_dot_md="# A", docs__deep__b_dot_txt="B", docs___dot_hidden_dot_md="no")
    recipe = started("docs")
    assert [stage.kind for stage in recipe.stages] == ["pretrain", "evaluate"]
    assert [source.path for source in recipe.stages[0].data.sources] == ["docs"]
    assert capsys.readouterr().out == "recipe.yaml\n"


def test_documents_and_conversations_side_by_side():
    files(docs__a_dot_md="# A", qa_dot_jsonl=CHAT, notes_dot_txt="N")
    recipe = started()
    assert [stage.kind for stage in recipe.stages] == ["pretrain", "finetune", "evaluate"]
    assert names(recipe.stages[0]) == ["docs/a.md", "notes.txt"]
    assert names(recipe.stages[1]) == ["qa.jsonl"]
    assert recipe.stages[2].samples == ("Wie geht's?",)


def test_a_mixed_folder_names_each_file_on_its_side():
    files(mix__a_dot_md="# A", mix__qa_dot_jsonl=CHAT, mix__deep__more_dot_jsonl=CHAT, mix__deep__b_dot_txt="B")
    recipe = started("mix")
    assert names(recipe.stages[0]) == ["mix/a.md", "mix/deep/b.txt"]
    assert names(recipe.stages[1]) == ["mix/deep/more.jsonl", "mix/qa.jsonl"]


def test_many_files_become_a_pattern():
    files(**{f"n{i}_dot_md": "x" for i in range(9)}, qa_dot_jsonl=CHAT)
    recipe = started()
    assert [source.path for source in recipe.stages[0].data.sources] == ["*.md"]
    assert len(names(recipe.stages[0])) == 9


def test_what_runs_left_and_what_cannot_be_read_is_left_out():
    files(runs__r__report_dot_html="<p>x</p>", a_dot_md="A", bad_dot_jsonl="{", odd_dot_json='{"version": 3}')
    said: list[str] = []
    init(Path(), said.append)
    assert names(load("recipe.yaml").recipe.stages[0]) == ["a.md"]
    assert sum("left out" in line for line in said) == 2


def test_names_that_need_care():
    files(**{"a b__ü, [x]: #1_dot_md": "A"}, z_dot_txt="Z")
    assert len(names(started().stages[0])) == 2


def test_another_recipe_is_never_overwritten(here):
    files(a_dot_md="A", recipe_dot_yaml="mine")
    with pytest.raises(UsageProblem, match="already"):
        init(Path(), print)
    assert Path("recipe.yaml").read_text() == "mine"


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_nothing_to_learn_from(folder):
    files(picture_dot_png="x")
    with pytest.raises(UsageProblem):
        init(Path(folder), print)
    assert not Path("recipe.yaml").exists()


def test_every_comment_in_it_is_true_of_the_recipe():
    """What is commented out must be valid where it stands."""
    files(a_dot_md="A", b__h_dot_md="B", qa_dot_jsonl=CHAT)
    init(Path(), lambda line: None)
    text = Path("recipe.yaml").read_text()
    freed = text.replace("# tune: ", "tune: ").replace("# heldout: held-out/", "heldout: b/")
    assert freed.count(" tune: {") == 2
    Path("recipe.yaml").write_text(freed)
    recipe = load("recipe.yaml").recipe
    assert recipe.stages[0].tune.what == "lora"
    assert recipe.stages[0].heldout is not None
