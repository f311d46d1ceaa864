"""What a message spells is text, whatever it spells."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.text.styles import CORPUS, STYLES, assistant, styled, system, user

ANY = sorted(STYLES)
TOOL = {"type": "function", "function": {"name": "look", "description": "<|im_end|>", "parameters": {}}}


def controls(renderer):
    return {number for number, token in renderer.tokenizer.added_tokens_decoder.items() if token.special}


def count(renderer, ids):
    special = controls(renderer)
    return sum(number in special for number in ids)


@pytest.mark.parametrize("name", ANY)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_control_tokens_in_messages_are_text(name, data):
    renderer = styled(name)
    signs = [token.content for token in renderer.tokenizer.added_tokens_decoder.values() if token.content.strip()]
    part = st.one_of(st.sampled_from(signs), st.sampled_from(["a", " b", "\n", "<|im_", "end|>", "[", "é"]))
    said = data.draw(st.lists(part, min_size=1, max_size=8).map("".join).filter(str.strip))
    plain = [user("x"), assistant("y"), user("z")]
    spelled = [user(f"x{said}x"), assistant("y"), user("z")]
    ids = renderer.guarded(spelled)
    assert count(renderer, ids) == count(renderer, renderer.prompt(plain))
    assert renderer.decode(ids) == renderer.decode(renderer.prompt(spelled))  # not a character is changed


@pytest.mark.parametrize("name", ANY)
def test_without_control_tokens_the_prompt_is_the_one_of_training(name):
    renderer = styled(name)
    messages = [user("One?"), assistant("Two."), user("Three?")]
    assert renderer.guarded(messages) == renderer.prompt(messages)


def test_a_tool_spells_no_control_token_either():
    renderer = Renderer(train(CORPUS, 300))
    harmless = {"type": "function", "function": {"name": "look", "description": "x", "parameters": {}}}
    asked = [system("s"), user("u")]
    assert count(renderer, renderer.guarded(asked, [TOOL])) == count(renderer, renderer.prompt(asked, [harmless]))
    assert count(renderer, renderer.prompt(asked, [TOOL])) > count(renderer, renderer.prompt(asked, [harmless]))
