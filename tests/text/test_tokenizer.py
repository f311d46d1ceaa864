"""Tokenizers: trained the same every time, saved so that they read back, refused in one line when broken."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import DataProblem, UsageProblem
from didact.text.render import Renderer
from didact.text.tokenizer import BYTES, SPECIALS, load, save, train
from tests.text.styles import CORPUS, STYLES, assistant, system, user

TOKENIZER = train(CORPUS, 400)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_training_is_deterministic():
    again = train(iter(CORPUS), 400)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_control_tokens():
    own = train(CORPUS, 300, ["<call>", "<|im_end|>"])
    assert own.convert_ids_to_tokens(range(4)) == [*SPECIALS, "<call>"]
    assert own("<call><|im_start|>")["input_ids"] == [3, 1]
    assert (own.eos_token, own.pad_token, own.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert len(own) <= 300
    assert own.decode([1, own("a")["input_ids"][0], 2], skip_special_tokens=True) == "a"


def test_merges_stay_inside_words_and_digits_alone():
    numbers = train(["2024 2024 2024"] * 50, 400)
    assert len(numbers("2024")["input_ids"]) == 4
    assert len(TOKENIZER(" cat")["input_ids"]) == 1
    assert len(TOKENIZER("cat sat")["input_ids"]) > 1


@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_an_empty_corpus_is_refused(texts):
    with pytest.raises(DataProblem, match="no text to train a tokenizer on"):
        train(texts, 400)


def test_a_vocabulary_too_small_is_refused():
    least = BYTES + len(SPECIALS) + 1
    with pytest.raises(UsageProblem, match=f"a vocabulary of {least - 1} is too small.*at least {least}"):
        train(CORPUS, least - 1, ["<call>"])
    assert len(train(CORPUS, least, ["<call>"])) == least


def test_saved_reads_back_everywhere(tmp_path):
    save(TOKENIZER, tmp_path, 512)
    config = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_max_length"] == 512
    assert config["chat_template"] == (tmp_path / "chat_template.jinja").read_text() == TOKENIZER.chat_template
    again = load(tmp_path)
    assert again.model_max_length == 512
    assert again(CORPUS[2])["input_ids"] == TOKENIZER(CORPUS[2])["input_ids"]
    assert Renderer(again).key == Renderer(TOKENIZER).key
    messages = [system("s"), user("a"), assistant("b")]
    assert Renderer(again).conversation(messages) == Renderer(TOKENIZER).conversation(messages)


def test_saving_twice_keeps_the_second(tmp_path):
    save(TOKENIZER, tmp_path, 512)
    other = train(CORPUS, 300, ["<|user|>"])
    other.chat_template = STYLES["phi"].template
    save(other, tmp_path, 64)
    again = load(tmp_path)
    assert (len(again), again.model_max_length, again.chat_template) == (len(other), 64, other.chat_template)


def test_a_lent_template_is_saved(tmp_path):
    bare = train(CORPUS, 400)
    bare.chat_template = None
    renderer = Renderer(bare)
    save(bare, tmp_path, 512, renderer.template)
    assert load(tmp_path).chat_template == renderer.template
    assert Renderer(load(tmp_path)).template_origin == "model"


def test_several_templates_are_all_saved(tmp_path):
    several = train(CORPUS, 400)
    several.chat_template = {"default": STYLES["chatml"].template, "tool_use": "{{ tools }}" + STYLES["phi"].template}
    save(several, tmp_path, 512)
    assert load(tmp_path).chat_template == several.chat_template
    config = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    assert {one["name"]: one["template"] for one in config["chat_template"]} == several.chat_template
    save(TOKENIZER, tmp_path, 512)
    assert load(tmp_path).chat_template == TOKENIZER.chat_template


def _folder(tmp_path):
    folder = tmp_path / "model"
    save(TOKENIZER, folder, 512)
    return folder


@pytest.mark.parametrize("cut", [0, 1, 1000, -1])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_cut_off_is_named(tmp_path, file, cut):
    broken = _folder(tmp_path) / file
    broken.write_bytes(broken.read_bytes()[:cut])
    with pytest.raises(DataProblem, match=rf"{file}:\d+: not JSON") as caught:
        load(broken.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"), [("[]", "not a JSON object"), ("{}", "not a tokenizer"), ('{"model": 3}', "not a tokeni")]
)
def test_json_that_is_no_tokenizer_is_named(tmp_path, content, complaint):
    folder = _folder(tmp_path)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(DataProblem, match=f"tokenizer.json: {complaint}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_folders_without_a_tokenizer_are_refused(tmp_path):
    with pytest.raises(DataProblem, match="no tokenizer in this folder"):
        load(tmp_path)
    (tmp_path / "tokenizer.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataProblem, match="transformers cannot load this tokenizer"):
        load(tmp_path)
    with pytest.raises(DataProblem, match="this is a file"):
        load(tmp_path / "tokenizer.pkl")


def test_code_of_a_folder_never_runs(tmp_path):
    folder, ran = _folder(tmp_path), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load(folder)(CORPUS[0])["input_ids"] == TOKENIZER(CORPUS[0])["input_ids"]
    (folder / "tokenizer.json").unlink()
    shutil.copy(folder / "own.py", folder / "tokenizer.model")
    with pytest.raises(DataProblem, match="transformers cannot load"):
        load(folder)
    assert not ran.exists()


def test_tokenizer_json_is_the_truth(tmp_path):
    """Transformers 5 rebuilds a Llama tokenizer from its vocabulary, with a pre-tokenizer of its own."""
    folder = _folder(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
    for text in CORPUS:
        assert load(folder)(text)["input_ids"] == TOKENIZER(text)["input_ids"]
