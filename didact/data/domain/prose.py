"""From docstrings, as their authors wrote them, to clean Markdown and to sentences that answer a question."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 70  # words of a docstring that go into an answer
VERBS = """
abort accept acquire adapt add allow alter append apply arrange ask assert assign associate assume attach attempt
authenticate begin block broadcast build byteswap calculate call cancel capture cast catch change check choose clean
clear clone close collapse collect combine compare compile compose compress compute concatenate configure connect
construct control convert copy count create decide declare decode decompress decrement define delay delegate delete
dequeue describe deserialize detect determine disable disassemble discard dispatch display divide do draw dump
duplicate edit emit enable encode end enqueue ensure enter escape establish estimate evaluate examine execute exit
expand extend extract fail feed fetch fill filter find finish flash flush fold force fork format free freeze
generate get give group guess handle hash identify implement import increment indent indicate initialize initiate
insert inspect install instantiate interact interpret invert invoke isolate issue iterate join keep kill launch leave
list load lock log look lookup make manage map mark match merge modify move multiply negate normalize obtain open
optimize override pack pad paint parse partition pause perform pickle place pop prepare print process produce prompt
provide push put query queue quote raise read recalculate receive recognize reconfigure record reduce reformat
register release reload remove rename reopen repeat replace report represent request reschedule reset resize resolve
restore resume retrieve return reveal reverse roll rotate round run save scan schedule search seed seek select send
serialize serve set shift show shuffle shutdown signal skip sleep sort spawn split start stop store strip submit
subscribe subtract sum summarize suspend switch take tell terminate test tokenize transfer transform translate
transmit truncate try turn unescape unfreeze unlock unmark unpack unregister unset unsubscribe unwrap update upgrade
validate verify visit wait wake walk wrap write yield
"""
ADDRESSED = "call check do list look map match override pass set test use"
BASE = frozenset(VERBS.split())
TO_THE_READER = frozenset(
    ADDRESSED.split()
)  # "Use ..." after the first sentence speaks to the reader, not of the object
POOR = re.compile(
    r"Initialize self|See help\(type|Alias for field|Helper for pickle|Structure/Union|^Alias |An enumeration\.|"
    r"[Dd]eprecated|DEPRECATED|^\(?[Ii]nternal|^Not implemented|^Undocumented|^XXX|^TODO|^Stub|^Return self\W|^See |"
    r"Same as |^Private\b|[Pp]rivate (?:API|method|helper|function)|^Just like|^Like |^Unused|^Obsolete|^Identical to|"
    r"^Dummy|^Don't |^\w+: "
)
MARKUP = (
    (re.compile(r":\w+(?::\w+)?:`~?([^`<]+?)(?: <[^>]*>)?`"), r"`\1`"),
    (re.compile(r"``([^`]+)``"), r"`\1`"),
    (re.compile(r"(?<![\w*`])\*(\w+)\*(?![\w*`])"), r"`\1`"),
)
ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", "cf.", "a.k.a.", "incl.", "resp.", "approx.")


@dataclass(frozen=True)
class Thing:
    """One documented object, cleaned. ``call`` is ``name(arguments)``, or empty; ``body`` is Markdown."""

    id: str
    module: str
    kind: str
    call: str
    body: str
    answer: tuple[str, ...]  # the sentences that say what it does, LONGEST words at most, the first always there

    @property
    def owner(self) -> str:
        """The class of a method, the module of a function."""
        return self.id.rpartition(".")[0]


def thing(entry: dict[str, str]) -> Thing | None:
    """The object of one line of the inventory, or None where its docstring says too little."""
    name, doc = entry["id"], entry["doc"].replace("\t", "    ")
    signature, doc = split_call(name.rpartition(".")[2], doc)
    if entry["kind"] == "module":
        doc = re.sub(rf"^(?:[Tt]he )?{re.escape(name)}(?:\.py)?(?: module)?\s*(?:[:.]|--?-?|—)\s+", "", doc)
    doc = re.sub(rf"^{re.escape(name.rpartition('.')[2])}(?:\(\))?\s*(?::|--?-?)\s+", "", doc)
    if entry["signature"] and not (signature and entry["signature"] in ("(*args, **kwargs)", "()")):
        signature = entry["signature"]
    body = markdown(doc)
    answer = tuple(shortened(body))
    if not body or not answer or POOR.search(" ".join(answer)) or POOR.search(body[:200]):
        return None
    if len(" ".join(answer).split()) < 3 or answer[0].startswith(("+", "|", "<", "-", "#", "=", "[", "(", "```")):
        return None
    exception = entry["kind"] == "exception"
    call = f"{name}{signature}" if signature and not exception else ""
    return Thing(name, entry["module"], entry["kind"], call, body, answer)


def split_call(name: str, doc: str) -> tuple[str, str]:
    """Takes ``max(iterable, ...) -> value`` off the top of a docstring: (arguments, the rest)."""
    signature = ""
    while match := re.match(rf"(?:\w+(?:\([^()]*\))?\.)*{re.escape(name)}\(", doc):
        end = closing(doc, match.end() - 1)
        if end == 0 or doc[match.end() - 1 : end].count("\n") > 3:
            break
        line, _, rest = doc[end:].partition("\n")
        if not re.match(r"\s*(?:[-=]+>|:|--|$)", line):
            break
        signature = signature or " ".join(doc[match.end() - 1 : end].split())
        said = described(line, rest)
        doc = said if said else rest.lstrip("\n")
    return signature, doc


def closing(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one at ``start``; 0 where none does."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index + 1
    return 0


def described(line: str, rest: str) -> str:
    """What shares a line with a signature, as in ``D.copy() -> a shallow copy of D``, and what follows."""
    arrow, _, said = line.partition("--") if " -- " in line else line.partition("> ")
    if rest.strip() and not rest.startswith((" ", "\n")) and " -- " not in line and len(said.split()) < 3:
        return ""
    said, article = said.strip(), re.match(r"(?:an?|the|list|new|a new)\b", said.strip())
    if " -- " in line and len(said.split()) > 1:
        return f"{said[0].upper()}{said[1:]}\n{rest}"
    if article and len(said.split()) > 2:
        return f"Return {said}\n{rest}"
    if arrow.strip() == ":" and said:
        return f"{said}\n{rest}"
    return ""


def markdown(doc: str) -> str:
    """A docstring as Markdown: interactive examples fenced, reST roles as code."""
    lines: list[str] = []
    fenced = False
    for line in doc.strip().splitlines():
        if not fenced and line.lstrip().startswith(">>> "):
            lines.append("```pycon")
            fenced = True
        elif fenced and not line.strip():
            lines.append("```")
            fenced = False
        lines.append(line.strip() if fenced else marked(line.rstrip()))
    text = "\n".join([*lines, "```"] if fenced else lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def marked(line: str) -> str:
    """One line with its reST markup as Markdown code."""
    for pattern, replacement in MARKUP:
        line = pattern.sub(replacement, line)
    return line


def shortened(body: str) -> Iterator[str]:
    """The leading sentences of the leading paragraphs of prose, LONGEST words at most."""
    words = 0
    for paragraph in re.split(r"\n\s*\n", body)[:3]:
        if words and (words > LONGEST // 2 or not is_prose(paragraph)):
            return
        for sentence in sentences(joined(paragraph)):
            words += len(sentence.split())
            if words > LONGEST or (sentence.endswith(":") and words > len(sentence.split())):
                return
            yield re.sub(":$", ".", sentence)


def joined(paragraph: str) -> str:
    """A paragraph as one line, words hyphenated at a line's end made whole."""
    return " ".join(re.sub(r"(?<=\w)-\s*\n\s*(?=\w)", "-", paragraph).split())


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is sentences, not a list, a table, an example or a field."""
    lines = paragraph.splitlines()
    indented = any(line.startswith((" ", "-", "*", "|", "+", "#", ":", "```", ">>>")) for line in lines)
    return not indented and paragraph[0].isupper() and paragraph.rstrip()[-1] in ".!" and "```" not in paragraph


def sentences(text: str) -> Iterator[str]:
    """Sentences, each with its full stop."""
    start = 0
    for match in re.finditer(r"[.!?]['\")`]?\s+(?=[A-Z`'\"(])", text):
        if not text[: match.start() + 1].endswith(ABBREVIATIONS):
            yield text[start : match.end()].strip()
            start = match.end()
    last = text[start:].strip()
    if last:
        yield re.sub(r"\.\.$", ".", last) if last[-1] in ".!?:" else f"{last.rstrip(',;')}."


def third_person(verb: str) -> str:
    """``copy`` -> ``copies``."""
    if verb.endswith(("s", "sh", "ch", "x", "o", "z")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if re.search(r"[^aeiou]y$", verb) else f"{verb}s"


THIRD = frozenset(third_person(verb) for verb in BASE)
SECOND_VERB = re.compile(
    r"(?<=[\w,)`'] )(and|or|then|and then) (return|raise|yield|close|remove|append|wait|add|write|create|store) "
)


NEXT_VERB = re.compile(rf"^( and| or) ({'|'.join(sorted(BASE))}) ")
THEN_VERB = re.compile(rf"\b(and|or) ({'|'.join(sorted(BASE))}) (?=(?:the|an?|it|its|this|all|any|each|them)\b)")
PASSIVE = frozenset({"called", "invoked", "raised", "used", "emitted"})


def predicate(sentence: str) -> str:
    """``Return it and raise ...`` -> ``returns it and raises ...``; empty where it is no verb phrase."""
    match = re.match(r"(?:([A-Z]\w+ly|Also) )?([A-Za-z]+)\b(?![-'(./,:]| (?:of|time)\b)", sentence)
    if match is None:
        return ""
    adverb, word = match[1], match[2].lower()
    rest = sentence[match.end() :]
    if word in PASSIVE and not adverb:
        return f"is {word}{rest}"
    if word not in BASE and word not in THIRD:
        return ""
    if word in BASE:
        word = third_person(word)
        for pattern in (NEXT_VERB, SECOND_VERB, THEN_VERB):
            rest = pattern.sub(lambda found: f"{found[1]} {third_person(found[2])} ", rest)
    return f"{adverb.lower()} {word}{rest}" if adverb else f"{word}{rest}"


def following(each: list[str]) -> str:
    """The sentences after the first: those that start with a verb get their subject."""
    said = []
    for sentence in each:
        word = sentence.split()[0].lower()
        verbal = predicate(sentence) if word not in TO_THE_READER else ""
        said.append(f"It {verbal}" if verbal else sentence)
    return " ".join(said)
