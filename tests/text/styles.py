"""Chat templates in the styles of the field, written by hand, and tiny tokenizers that carry them."""

from dataclasses import dataclass
from functools import cache
from itertools import groupby

from didact.text.render import Rendered, Renderer
from didact.text.tokenizer import train

CORPUS = ("The cat sat on the mat. " * 20, "def f(x):\n    return x + 1\n\n" * 20, "Ünïcode 日本語 and 😀. " * 20)


@dataclass(frozen=True)
class Style:
    """A template, its control tokens, and what it makes of an assistant's last words."""

    template: str
    specials: tuple[str, ...]
    end: str
    eos: str = "<|im_end|>"
    trims: bool = False
    opens: str = ""  # what it writes before the last answer that a model has to write itself

    def said(self, content: str, last: bool = True) -> str:
        """What is to be trained of an assistant's turn."""
        opens = self.opens if last or self.opens.isspace() else ""
        return opens + (content.strip() if self.trims else content) + self.end


ALTERNATE = (
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
STYLES = {
    "chatml": Style(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        (),
        "<|im_end|>",
    ),
    "chatml with generation marks": Style(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}"
        "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        (),
        "<|im_end|>",
    ),
    "llama3": Style(
        "{{ bos_token }}{{ '<|head|>system<|/head|>\n\nToday: 26 Jul\n\n' }}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}"
        "{% endif %}{{ '<|eot_id|>' }}"
        "{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}",
        ("<|begin|>", "<|head|>", "<|/head|>", "<|eot_id|>"),
        "<|eot_id|>",
        trims=True,
    ),
    "llama3, always prompting": Style(
        "{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|eot_id|>' }}"
        "{% endfor %}{{ '<|head|>assistant<|/head|>\n\n' }}",
        ("<|head|>", "<|/head|>", "<|eot_id|>"),
        "<|eot_id|>",
        trims=True,
    ),
    "gemma": Style(
        "{{ bos_token }}{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
        "{% set rest = messages[1:] if first else messages %}" + ALTERNATE + "{% for m in rest %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<|begin|>", "<start_of_turn>", "<end_of_turn>", "\n\n\n"),
        "<end_of_turn>",
        trims=True,
    ),
    "mistral": Style(
        "{% set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
        "{% set rest = messages[1:] if system else messages %}" + ALTERNATE + "{{ bos_token }}"
        "{% set users = rest | selectattr('role', 'equalto', 'user') | list %}{% for m in rest %}"
        "{% if m.role == 'user' %}{{ '[INST] ' + (system if m == users[-1] else '') + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}",
        ("<|begin|>", "[INST]", "[/INST]"),
        "<|im_end|>",
        trims=True,
        opens=" ",
    ),
    "phi": Style(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|end|>",
        eos="<|endoftext|>",
    ),
    "qwen3": Style(
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% set text = m.content %}{% set thought = '' %}"
        "{% if m.role == 'assistant' and '</think>' in text %}"
        "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
        "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ text + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<think>", "</think>"),
        "<|im_end|>",
        opens="<think>\n\n</think>\n\n",
    ),
    "vicuna": Style(
        "{{ 'A chat.' }}{% for m in messages %}{% if m.role == 'user' %}{{ ' USER: ' + m.content }}"
        "{% elif m.role == 'assistant' %}{{ ' ASSISTANT: ' + m.content | trim + eos_token }}"
        "{% else %}{{ ' ' + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}",
        (),
        "<|im_end|>",
        trims=True,
        opens=" ",
    ),
}


def renderer(given: Style) -> Renderer:
    """A renderer with a tiny tokenizer that knows the style's control tokens."""
    tokenizer = train(CORPUS, 400, given.specials)
    tokenizer.chat_template = given.template
    tokenizer.eos_token = given.eos
    if "<|begin|>" in given.specials:
        tokenizer.bos_token = "<|begin|>"
    return Renderer(tokenizer)


@cache
def styled(name: str) -> Renderer:
    """The renderer of a style, made once."""
    return renderer(STYLES[name])


def with_template(template: str) -> Renderer:
    """A renderer for a template, with a few control tokens."""
    return renderer(Style(template, ("<|user|>", "<|assistant|>", "<think>", "</think>"), ""))


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str, **more: object) -> dict:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict:
    return {"role": "system", "content": content}


def pieces(renderer: Renderer, rendered: Rendered) -> list[str]:
    """The text of each run of trained tokens."""
    runs = groupby(zip(rendered.tokens, rendered.trained, strict=True), key=lambda pair: pair[1])
    return [renderer.decode([token for token, _ in run]) for trained, run in runs if trained]
