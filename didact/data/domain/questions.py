"""Question and answer pairs about one documented object, in a few phrasings chosen by seed and name."""

import ast
from collections.abc import Iterator, Sequence

from didact.data.domain.prose import Thing, following, predicate
from didact.data.domain.writing import drawn_index

CALLED = ("function", "method", "class method")
WHAT_IT_DOES = (
    "What is {id} for?",
    "Explain {id}.",
    "Explain what {id} does.",
    "What happens when I call {id}?",
    "Describe {id} in a few words.",
    "Can you tell me what {id} does?",
    "I found {id} in some Python code. What does it do?",
)
WHAT_IT_IS = (
    "What is {id} for?",
    "Explain {id}.",
    "Describe {id} in a few words.",
    "Can you tell me what {id} is?",
    "I found {id} in some Python code. What is it?",
    "What should I know about {id}?",
)
HOW_TO_CALL = (
    "How do I call {id}?",
    "How do I use {id}?",
    "How can I use {id} in Python?",
    "Show me how to call {id}.",
)
SIGNATURE = ("What is the signature of {id}?", "What does the signature of {id} look like?")
ARGUMENTS = ("Which arguments does {id} take?", "What are the parameters of {id}?", "What do I pass to {id}?")
WHICH = (
    "Which {kind} of {owner} {does}?",
    "I need something in {owner} that {does}. What is it called?",
    "What is the name of the {kind} of {owner} that {does}?",
)
CONTENTS = ("What does the module {id} offer?", "Which names does the module {id} offer?")
TOPIC = (
    "What does the Python language reference say about {title}?",
    "Explain {title} in Python.",
    "Tell me about {title} in Python.",
)


def drawn(choices: Sequence[str], *key: object) -> str:
    """One of ``choices`` as a pure function of ``key``."""
    return choices[drawn_index(len(choices), *key)]


def pair(question: str, answer: str, name: str) -> dict:
    """One line of ``questions.jsonl``."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "id": name}


def questions(thing: Thing, seed: int, told_apart: bool) -> Iterator[dict]:
    """Every question about one object; ``told_apart`` says that no other object's first sentence is the same."""
    called = thing.kind in CALLED
    asked = {f"What does {thing.id} do?" if called else f"What is {thing.id}?": explained(thing)}
    asked[drawn(WHAT_IT_DOES if called else WHAT_IT_IS, seed, thing.id).format(id=thing.id)] = explained(thing)
    if thing.call and (called or thing.call != f"{thing.id}()"):
        if drawn("cs", seed, thing.id, "how") == "c":
            asked[drawn(HOW_TO_CALL, seed, thing.id).format(id=thing.id)] = how_to_call(thing)
        else:
            asked[drawn(SIGNATURE, seed, thing.id).format(id=thing.id)] = (
                f"The signature is `{thing.call}`. {it(thing)}"
            )
    if taken := arguments(thing):
        asked[drawn(ARGUMENTS, seed, thing.id).format(id=thing.id)] = taken
    if told_apart and called and (does := does_it(thing)) and len(does.split()) <= 30:
        kind = {"class method": "method"}.get(thing.kind, thing.kind)
        owner = f"the {'module' if thing.kind == 'function' else 'class'} {thing.owner or 'builtins'}"
        asked[drawn(WHICH, seed, thing.id).format(kind=kind, owner=owner, does=does.rstrip("."))] = (
            f"That is `{thing.call or thing.id}`. {it(thing)}"
        )
    return (pair(question, answer, thing.id) for question, answer in asked.items())


def does_it(thing: Thing) -> str:
    """The first sentence as a verb phrase, or empty: a callable does something, a thing only is something."""
    does = predicate(thing.answer[0])
    return does if thing.kind in CALLED or thing.kind == "class" or does.startswith("is ") else ""


def it(thing: Thing) -> str:
    """The first sentence with a pronoun for its subject."""
    does = does_it(thing)
    article, _, noun = thing.answer[0].partition(" ")
    if article in ("A", "An", "The"):
        return f"It is {article.lower()} {noun}"
    return f"It {does}" if does else thing.answer[0]


def explained(thing: Thing) -> str:
    """The whole answer to what an object does or is."""
    name = f"`{thing.call or thing.id}`"
    does = does_it(thing)
    first = thing.answer[0]
    article, _, noun = first.partition(" ")
    if does:
        opening = f"{name} {does}"
    elif article in ("A", "An") and thing.kind not in ("module", "exception"):
        opening = f"{name} is {article.lower()} {noun}"
    elif article in ("The", "Number", "Base", "Class", "Decorator") and thing.kind != "module":
        opening = f"{name} is {'' if article == 'The' else article_of(article)}{article.lower()} {noun}"
    elif first.startswith("This module ") and thing.kind == "module":
        opening = f"The module `{thing.id}` {first.removeprefix('This module ')}"
    else:
        opening = f"{name} is {place(thing)}. {first}"
    return f"{opening} {following(list(thing.answer[1:]))}".strip()


def article_of(noun: str) -> str:
    """``the number``, ``the base class``, ``a class``, ``a decorator``."""
    return "the " if noun in ("Number", "Base") else "a "


def place(thing: Thing) -> str:
    """What kind of object it is and where it lives."""
    if thing.kind == "module":
        return "a module of the Python standard library"
    article = "an" if thing.kind[0] in "ae" else "a"
    if thing.kind in ("method", "class method", "attribute"):
        return f"{article} {thing.kind} of `{thing.owner}`"
    if thing.module == "builtins":
        return f"a built-in {thing.kind}"
    return f"{article} {thing.kind} of the module `{thing.module}`"


def how_to_call(thing: Thing) -> str:
    """The call in its surroundings: the import, or the object it is called on."""
    if thing.kind == "method":
        way = f"On an object of the class `{thing.owner}`, call `{thing.call.removeprefix(thing.owner)}`."
    elif thing.module == "builtins":
        way = f"It is built in, so no import is needed: `{thing.call}`."
    else:
        way = f"Write `import {thing.module}`, then call `{thing.call}`."
    return f"{way} {it(thing)}"


def arguments(thing: Thing) -> str:
    """Which arguments a call takes, from its signature; empty where that is no Python syntax or names none."""
    inside = thing.call.removeprefix(thing.id)
    if not inside or thing.kind == "attribute":
        return ""
    try:
        taken = ast.parse(f"def f{inside}: pass").body[0].args  # type: ignore[attr-defined]
    except SyntaxError:
        return ""
    plain = [*taken.posonlyargs, *taken.args]
    defaults = [None] * (len(plain) - len(taken.defaults)) + taken.defaults
    either = [*zip(plain, defaults, strict=True), *zip(taken.kwonlyargs, taken.kw_defaults, strict=True)]
    needed = [f"`{each.arg}`" for each, default in either if default is None]
    optional = [shown(each.arg, default) for each, default in either if default is not None]
    needed += [f"any number of further arguments as `*{taken.vararg.arg}`"] if taken.vararg else []
    optional += [f"further keyword arguments as `**{taken.kwarg.arg}`"] if taken.kwarg else []
    if not needed and not optional:
        return ""
    needs = listed(needed) if needed else ""
    may = f"{'and, if you want, ' if needed else 'only optional arguments: '}{listed(optional)}" if optional else ""
    return f"`{thing.id}` takes {', '.join(filter(None, (needs, may)))}. {it(thing)}"


def shown(name: str, default: ast.expr) -> str:
    """An optional argument with its default."""
    text = ast.unparse(default)
    return f"`{name}`" if text == "..." else f"`{name}` (`{text}` by default)"


def listed(parts: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def contents(module: Thing, offered: list[Thing], seed: int) -> dict | None:
    """What a module offers, from its own members; None for fewer than two."""
    names = [f"`{each.id.removeprefix(f'{module.id}.')}`" for each in offered]
    if len(names) < 2:
        return None
    chosen = sorted(sorted(names, key=lambda name: drawn("0123456789", seed, module.id, name))[:10])
    said = f"The module `{module.id}` offers {'among others ' if len(names) > 10 else ''}{listed(chosen)}."
    return pair(drawn(CONTENTS, seed, module.id).format(id=module.id), said, module.id)


def about_topic(title: str, answer: Sequence[str], name: str, seed: int) -> dict:
    """The question about one topic of the language reference."""
    return pair(drawn(TOPIC, seed, name).format(title=title), " ".join(answer), name)
