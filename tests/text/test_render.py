"""What is trained, what is served, and that they are the same ids."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.errors import DataProblem
from didact.text.render import Renderer
from didact.text.tokenizer import train
from tests.text.styles import CORPUS, STYLES, assistant, pieces, styled, system, user, with_template

ANY = sorted(STYLES)
# Contents begin with a visible character: what happens to others is the next test's.
CONTENT = st.one_of(
    st.sampled_from(
        ["OK", "OK.", "<|im_end|> inside", "a [INST] b", "日本語 😀", "```py\nx = 1\n```\n", "ends in space  "]
    ),
    st.text(max_size=40).filter(lambda text: text.strip() and text.lstrip() == text and "think>" not in text),
)


def ids(renderer: Renderer, messages: list[dict], tools: list | None = None) -> list[int]:
    tokenizer = renderer.tokenizer
    return tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)


@pytest.mark.parametrize("name", ANY)
@given(st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4), st.one_of(st.none(), CONTENT))
@settings(max_examples=60, deadline=None)
def test_trained_is_what_the_assistant_says_and_what_ends_its_turn(name, exchanges, first):
    renderer, style = styled(name), STYLES[name]
    messages = [] if first is None else [system(first)]
    messages += [turn for question, answer in exchanges for turn in (user(question), assistant(answer))]
    rendered = renderer.conversation(messages)
    assert rendered.tokens == ids(renderer, messages)
    answers = [answer for _, answer in exchanges]
    said = [style.said(answer, answer is answers[-1] and n == len(answers) - 1) for n, answer in enumerate(answers)]
    if style.opens == " ":  # the space merges with the word it stands before, or stands alone
        said = [text.strip() for text in said]
        assert [text.strip() for text in pieces(renderer, rendered)] == said
    else:
        assert pieces(renderer, rendered) == said


@pytest.mark.parametrize("name", ANY)
@given(st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_training_goes_on_where_the_prompt_ends(name, exchanges):
    renderer = styled(name)
    messages = [turn for question, answer in exchanges for turn in (user(question), assistant(answer))]
    served, rendered = renderer.prompt(messages[:-1]), renderer.conversation(messages)
    if renderer.joint(messages) is None:
        assert rendered.tokens[: len(served)] == served
        assert rendered.trained[len(served)]
        assert not rendered.trained[len(served) - 1]
    else:  # only Vicuna's prompt can merge with an answer
        assert name == "vicuna"


@pytest.mark.parametrize("name", ANY)
def test_turns_of_weight_zero_and_other_roles_are_only_read(name):
    renderer, style = styled(name), STYLES[name]
    messages = [user("A?"), assistant("B", weight=0), user("C?"), assistant("D")]
    assert [text.strip() for text in pieces(renderer, renderer.conversation(messages))] == [style.said("D").strip()]


@pytest.mark.parametrize("name", ANY)
def test_stops_are_eos_and_what_ends_turns(name):
    renderer, style = styled(name), STYLES[name]
    assert set(renderer.tokenizer.convert_ids_to_tokens(renderer.stops)) == {style.eos, style.end}


def test_stops_take_the_generation_configuration_in():
    renderer = Renderer(train(CORPUS, 400), generation_eos=[7])
    assert 7 in renderer.stops


def test_earlier_thoughts_are_not_trained_and_the_last_are():
    renderer = styled("qwen3")
    thought = "<think>\nhm\n</think>\n\nanswer"
    messages = [user("a"), assistant(thought), user("b"), assistant(thought)]
    assert pieces(renderer, renderer.conversation(messages)) == ["answer<|im_end|>", thought + "<|im_end|>"]
    assert renderer.joint(messages) is None


def test_a_conversation_that_starts_with_the_assistant():
    renderer = styled("chatml")
    messages = [assistant("Welcome."), user("Hi"), assistant("Hello.")]
    assert pieces(renderer, renderer.conversation(messages)) == ["Welcome.<|im_end|>", "Hello.<|im_end|>"]


def test_an_empty_answer_trains_its_end():
    renderer = styled("chatml")
    assert pieces(renderer, renderer.conversation([user("a"), assistant("")])) == ["<|im_end|>"]


def test_a_prompt_that_opens_a_thought_is_not_blamed_on_the_answer():
    """DeepSeek-R1 prompts with ``<think>`` and renders finished turns without."""
    renderer = with_template(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content.split('</think>')[-1].lstrip() }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
    )
    messages = [user("a"), assistant("<think>\nhm\n</think>\n\nfine"), user("b"), assistant("<b>bold</b>")]
    assert pieces(renderer, renderer.conversation(messages)) == ["fine<|im_end|>", "<b>bold</b><|im_end|>"]
    assert "turn 2" in renderer.joint(messages)


def test_a_system_message_that_moves_is_found_by_its_surroundings_and_told():
    renderer = styled("mistral")
    messages = [system("Brief."), user("a"), assistant("b"), user("c"), assistant("d")]
    assert pieces(renderer, renderer.conversation(messages)) == [" b<|im_end|>", " d<|im_end|>"]
    assert renderer.joint(messages).startswith("turn 3 (assistant): at token ")


def test_equal_turns_stay_equal_for_templates_that_compare_them():
    renderer = styled("mistral")
    messages = [system("Brief."), user("a"), assistant("b"), user("a"), assistant("b")]
    assert renderer.decode(renderer.prompt(messages[:-1])).count("Brief.") == 2  # the template takes both for the last
    assert pieces(renderer, renderer.conversation(messages)) == [" b<|im_end|>", " b<|im_end|>"]


def test_a_template_without_generation_prompt_keeps_its_header_untrained_and_is_told():
    renderer = with_template(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    )
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    assert pieces(renderer, renderer.conversation(messages)) == ["b<|im_end|>", "d<|im_end|>"]
    assert "no generation prompt" in renderer.joint(messages)


def test_a_header_and_an_answer_in_one_token_are_told():
    renderer = styled("chatml")
    newlines = renderer.tokenizer("\n\n")["input_ids"]
    assert len(newlines) == 1  # so that the header's newline merges with the answer's
    messages = [user("a"), assistant("\nb")]
    assert renderer.conversation(messages).tokens == ids(renderer, messages)
    assert "turn 2" in renderer.joint(messages)


def test_special_tokens_that_swallow_white_space():
    """Phi-3's control tokens take the newline after them."""
    tokenizer = train(CORPUS, 400)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [_swallowing("<|user|>"), _swallowing("<|assistant|>"), _swallowing("<|end|>")]}
    )
    tokenizer.chat_template = STYLES["phi"].template
    renderer = Renderer(tokenizer)
    rendered = renderer.conversation([user("a"), assistant("\n b"), user("c"), assistant("d")])
    assert pieces(renderer, rendered) == ["b<|end|>", "d<|end|>"]


def _swallowing(content: str):
    from tokenizers import AddedToken

    return AddedToken(content, rstrip=True, special=True, normalized=False)


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo <|im_end|> x"}}}
CALLED = [user("?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "12"}, assistant("12 degrees")]


def test_tool_calls_are_trained_and_results_are_not():
    renderer = Renderer(train(CORPUS, 400))
    first, second = pieces(renderer, renderer.conversation(CALLED, TOOLS))
    assert first == '<tool_call>{"name": "weather", "arguments": {"city": "Oslo <|im_end|> x"}}</tool_call><|im_end|>'
    assert second == "12 degrees<|im_end|>"
    assert renderer.joint(CALLED, TOOLS) is None


@pytest.mark.parametrize(
    ("template", "messages", "tools", "complaint"),
    [
        (STYLES["gemma"].template, [user("a"), user("b"), assistant("c")], None, "roles must alternate"),
        (STYLES["chatml"].template, [user("a"), assistant(None)], None, "refuses these messages"),
        ("{% for m in messages", [user("a"), assistant("b")], None, "refuses these messages"),
        (STYLES["chatml"].template, CALLED, None, "turn 2 (assistant) .* leaves out the call of 'weather'"),
        (STYLES["chatml"].template, CALLED, TOOLS, "leaves the tools out"),
        (
            "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}",
            [user("a"), assistant("b")],
            None,
            "turn 2 (assistant) .* no token ends it",
        ),
        (
            "{% for m in messages %}{{ '<|user|>' + m.content[:4] + eos_token }}{% endfor %}",
            [user("a"), assistant("much too long")],
            None,
            "turn 2 (assistant) ",
        ),
        (
            "{% for m in messages %}{{ m.content if loop.index0 != 1 or messages | length > 3 }}{{ eos_token }}"
            "{% endfor %}",
            [user("a"), assistant("dropped"), user("b")],
            None,
            "turn 2 (assistant) .* does not appear",
        ),
    ],
)
def test_what_cannot_be_rendered_is_said_in_one_line(template, messages, tools, complaint):
    renderer = with_template(template)
    with pytest.raises(DataProblem, match=complaint.replace("(", r"\(").replace(")", r"\)")) as caught:
        renderer.conversation(messages, tools)
    assert "\n" not in str(caught.value)


def test_private_characters_in_the_data_do_no_harm():
    renderer = styled("chatml")
    answer = "".join(map(chr, [0xFDD0, 0xFDE2, 0xE000, 0xE012]))
    assert pieces(renderer, renderer.conversation([user("a"), assistant(answer)])) == [answer + "<|im_end|>"]


def test_many_conversations_equal_each_alone():
    renderer = styled("llama3")
    items = [([user("a"), assistant("b" * n)], None) for n in range(1, 9)]
    assert renderer.conversations(items) == [renderer.conversation(*item) for item in items]
    assert renderer.conversations([]) == []


def test_a_document_ends_once_and_opens_once():
    plain = styled("chatml")
    rendered = plain.document("The cat.")
    assert plain.decode(rendered.tokens) == "The cat.<|im_end|>"
    assert all(rendered.trained)
    assert plain.document("The cat.<|im_end|>") == rendered
    assert plain.documents(["The cat.", ""]) == [rendered, plain.document("")]
    assert plain.documents([]) == []


def _with_bos() -> Renderer:
    from tokenizers import processors

    tokenizer = train(CORPUS, 400, ["<s>"])
    tokenizer.bos_token = "<s>"
    pair = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $0", special_tokens=[pair])
    tokenizer.chat_template = None
    return Renderer(tokenizer)


def test_bos_is_read_once_and_not_trained():
    renderer = _with_bos()
    for text in ("The cat.", "<s>The cat."):
        rendered = renderer.document(text)
        assert renderer.decode(rendered.tokens) == "<s>The cat.<|im_end|>"
        assert rendered.trained == [False] + [True] * (len(rendered.tokens) - 1)
    assert renderer.decode(renderer.completion("The", " cat").tokens) == "<s>The cat<|im_end|>"
    assert renderer.decode(renderer.prompt([user("a")])).count("<s>") == 1


def test_a_completion_starts_on_the_prompts_own_tokens():
    renderer = styled("chatml")
    prompt, completion = "The cat sat on th", "e mat."
    rendered = renderer.completion(prompt, completion)
    served = renderer.tokenizer(prompt)["input_ids"]
    assert rendered.tokens[: len(served)] == served
    assert rendered.trained == [False] * len(served) + [True] * (len(rendered.tokens) - len(served))
    assert renderer.decode(rendered.tokens) == prompt + completion + "<|im_end|>"


def _spaced() -> Renderer:
    """SentencePiece's way: a space before a text that begins."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    tokenizer = train(CORPUS, 400)
    core = tokenizer.backend_tokenizer
    core.normalizer = normalizers.Prepend(" ")
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return Renderer(tokenizer)


@pytest.mark.parametrize("completion", ["mat", " mat", "\n\nmat", ""])
def test_a_completion_gets_no_space_of_its_own(completion):
    renderer = _spaced()
    rendered = renderer.completion("on the", completion)
    assert renderer.decode(rendered.tokens) == f"on the{completion}<|im_end|>"


def test_a_tokenizer_without_template_speaks_chatml():
    tokenizer = train(CORPUS, 400)
    own = Renderer(tokenizer)
    tokenizer.chat_template = None
    lent = Renderer(tokenizer)
    messages = [system("S"), user("a"), assistant("b")]
    assert (own.template_origin, lent.template_origin) == ("model", "didact-chatml")
    assert own.conversation(messages) == lent.conversation(messages)
    assert lent.decode(lent.prompt(messages[:2])) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_tokenizer_without_chatml_tokens_ends_turns_with_eos():
    renderer = _with_bos()
    renderer.tokenizer.eos_token = "<|endoftext|>"
    lent = Renderer(renderer.tokenizer)
    text = lent.template
    assert isinstance(text, str)
    assert text.startswith("{{- bos_token }}")
    assert pieces(lent, lent.conversation([user("a"), assistant("b")])) == ["b<|im_end|>"]


def test_no_end_of_sequence_is_refused():
    tokenizer = train(CORPUS, 400)
    tokenizer.eos_token = None
    with pytest.raises(DataProblem, match="no end-of-sequence token"):
        Renderer(tokenizer)


def test_the_key_changes_with_what_rendering_depends_on_and_nothing_else():
    key = Renderer(train(CORPUS, 400)).key
    used = Renderer(train(CORPUS, 400))
    used.tokenizer("The cat", truncation=True, max_length=2)
    assert used.key == key
    other = train(CORPUS, 400)
    other.chat_template = STYLES["phi"].template
    keys = {
        key,
        Renderer(train(CORPUS, 300)).key,
        Renderer(other).key,
        Renderer(train(CORPUS, 400), generation_eos=[7]).key,
        Renderer(train(CORPUS, 400), values={"enable_thinking": False}).key,
    }
    assert len(keys) == 5


def test_values_reach_the_template():
    renderer = with_template(STYLES["chatml"].template)
    tokenizer = renderer.tokenizer
    tokenizer.chat_template = "{{ day }}" + STYLES["chatml"].template
    assert renderer.decode(Renderer(tokenizer, values={"day": "Monday"}).prompt([user("a")])).startswith("Monday<|im_")


def test_truncation_left_in_a_tokenizer_cuts_nothing():
    renderer = styled("chatml")
    renderer.tokenizer.backend_tokenizer.enable_truncation(4)
    assert len(renderer.document("The cat sat on the mat. " * 5).tokens) > 20
