"""What each format means, and every way a record can be wrong that we know of."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from didact.data import formats
from didact.data.example import Answers, Completion, Conversation, Document
from didact.data.formats import detect, example, parse
from didact.errors import DataProblem

USER = {"role": "user", "content": "two and two?"}
ANSWER = {"role": "assistant", "content": "four"}
WRONG = {"role": "assistant", "content": "five"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def chat(*turns, **fields):
    return {"messages": list(turns), **fields}


def shared(*pairs, **fields):
    return {"conversations": [{"from": who, "value": said} for who, said in pairs], **fields}


def said(*pairs, tools=None):
    return Conversation("f:1", tuple({"role": role, "content": content} for role, content in pairs), tools)


TWO = (("user", "two and two?"), ("assistant", "four"))

# id: (record, the example it is)
GOOD = {
    "text": ({"text": " kept as it is\n"}, Document("f:1", " kept as it is\n")),
    "text with other fields": ({"text": "a", "id": 7, "meta": {}}, Document("f:1", "a")),
    "a preference": (
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER, USER, ANSWER]},
        Answers("f:1", (USER,), ((ANSWER,), (ANSWER, USER, ANSWER)), (1.0, 0.0)),
    ),
    "a preference whose answers repeat the prompt": (
        {"prompt": USER["content"], "chosen": [USER, ANSWER], "rejected": [ANSWER]},
        Answers("f:1", USER["content"], ((ANSWER,), (ANSWER,)), (1.0, 0.0)),
    ),
    "a preference of whole conversations": (
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
        Answers("f:1", (USER,), ((ANSWER,), (ANSWER,)), (1.0, 0.0)),
    ),
    "a preference of texts": (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        Answers("f:1", "a", ("b", "c"), (1.0, 0.0)),
    ),
    "a ranking": (
        {"prompt": "a", "completions": ["b", "c", "d"], "ranking": [[2], [0, 1]]},
        Answers("f:1", "a", ("b", "c", "d"), (-1.0, -1.0, 0.0)),
    ),
    "a thumb": ({"prompt": "a", "completion": "b", "label": False}, Answers("f:1", "a", ("b",), (0.0,))),
    "a rating": ({"prompt": "a", "completion": "b", "rating": 5}, Answers("f:1", "a", ("b",), (5.0,))),
    "text of a class": ({"text": "a", "label": 1, "image": None, "images": []}, Document("f:1", "a", "1")),
    "messages": (chat(USER, ANSWER), said(*TWO)),
    "messages with a system turn": (
        chat({"role": "system", "content": ""}, USER, ANSWER),
        said(("system", ""), *TWO),
    ),
    "messages of a developer": (
        chat({"role": "developer", "content": "be terse"}, USER, ANSWER),
        said(("developer", "be terse"), *TWO),
    ),
    "text parts": (
        chat({"role": "user", "content": [{"type": "text", "text": "two "}, {"text": "and"}, " two?"]}, ANSWER),
        said(*TWO),
    ),
    "null fields": (chat({**USER, "name": None}, {**ANSWER, "tool_calls": None}, tools=None), said(*TWO)),
    "tool calls": (
        chat(
            USER,
            {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "1"}]},
            {"role": "tool", "content": "4", "tool_call_id": "1"},
            ANSWER,
            tools=[TOOL],
        ),
        Conversation(
            "f:1",
            (
                USER,
                {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "1"}]},
                {"role": "tool", "content": "4", "tool_call_id": "1"},
                ANSWER,
            ),
            (TOOL,),
        ),
    ),
    "tool calls as JSON text": (
        chat(
            USER,
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}],
            },
            tools='[{"name": "add"}]',
        ),
        Conversation("f:1", (USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}), ({"name": "add"},)),
    ),
    "tool calls without an envelope": (
        chat(
            USER, {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 2}}]}
        ),
        Conversation("f:1", (USER, {"role": "assistant", "content": "", "tool_calls": [CALL]})),
    ),
    "weights": (
        chat(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}),
        Conversation("f:1", (USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1})),
    ),
    "no tools": (chat(USER, ANSWER, tools=[]), said(*TWO)),
    "sharegpt": (shared(("human", "two and two?"), ("gpt", "four")), said(*TWO)),
    "sharegpt with a weight": (
        {"conversations": [{"from": "gpt", "value": "hello", "weight": 0}, {"from": "gpt", "value": "four"}]},
        Conversation("f:1", ({"weight": 0, "role": "assistant", "content": "hello"}, ANSWER)),
    ),
    "sharegpt with a system field": (
        shared(("human", "two and two?"), ("gpt", "four"), system="be terse"),
        said(("system", "be terse"), *TWO),
    ),
    "sharegpt with a system turn": (
        shared(("system", "be terse"), ("user", "two and two?"), ("assistant", "four"), system="", tools=""),
        said(("system", "be terse"), *TWO),
    ),
    "sharegpt with tools": (
        shared(
            ("human", "two and two?"),
            ("function_call", '{"name": "add", "arguments": {"a": 2, "b": 2}}'),
            ("observation", "4"),
            ("gpt", "four"),
            tools='[{"name": "add"}]',
        ),
        Conversation(
            "f:1",
            (
                USER,
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "4"},
                ANSWER,
            ),
            ({"name": "add"},),
        ),
    ),
    "alpaca": ({"instruction": "two and two?", "output": "four"}, said(*TWO)),
    "alpaca without input": ({"instruction": "two and two?", "input": "", "output": "four"}, said(*TWO)),
    "alpaca with everything": (
        {
            "instruction": "Add.",
            "input": "2 2",
            "output": "4",
            "system": "be terse",
            "history": [["two and two?", "four"]],
            "text": "a rendered copy",
        },
        said(("system", "be terse"), *TWO, ("user", "Add.\n2 2"), ("assistant", "4")),
    ),
    "alpaca of nulls": (
        {"instruction": "two and two?", "input": None, "output": "four", "system": None, "history": None},
        said(*TWO),
    ),
    "completion": ({"prompt": "2+2=", "completion": "4"}, Completion("f:1", "2+2=", "4")),
    "completion of options": (
        {"prompt": "2+2=", "completion": "4", "options": ["3", "4"]},
        Completion("f:1", "2+2=", "4", ("3", "4")),
    ),
    "preference of whole chats, with their first message again, and the better chat": (
        {"prompt": "two and two?", "chosen": [USER, ANSWER], "rejected": [USER, WRONG], "messages": [USER, ANSWER]},
        Answers("f:1", "two and two?", ((ANSWER,), (WRONG,)), (1.0, 0.0)),
    ),
    "whole chats": (
        {"chosen": [USER, WRONG, USER, ANSWER], "rejected": [USER, WRONG, USER, WRONG]},
        Answers("f:1", (USER, WRONG, USER), ((ANSWER,), (WRONG,)), (1.0, 0.0)),
    ),
    "sharegpt preference": (
        shared(
            ("human", "two and two?"),
            system="be terse",
            chosen={"from": "gpt", "value": "four"},
            rejected={"from": "gpt", "value": "five"},
        ),
        Answers("f:1", ({"role": "system", "content": "be terse"}, USER), ((ANSWER,), (WRONG,)), (1.0, 0.0)),
    ),
    "labelled chat": (chat(USER, WRONG, label=False), Answers("f:1", (USER,), ((WRONG,),), (0.0,))),
    "completion of messages": (
        {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
        Conversation("f:1", (USER, {**ANSWER, "weight": 0}, USER, ANSWER)),
    ),
}


@pytest.mark.parametrize(("record", "wanted"), GOOD.values(), ids=GOOD)
def test_what_each_format_means(record, wanted):
    assert example("f:1", record) == wanted


# id: (record, what the line must say)
BAD = {
    "nothing": ({}, "fields (none) are of no known format; understood are text; messages; conversations;"),
    "strange fields": ({"a": 1, "b": 2}, "fields a, b are of no known format"),
    "a slip": ({"mesages": []}, "did you mean 'messages' for 'mesages'?"),
    "upper case": ({"Text": "a"}, "did you mean 'text' for 'Text'?"),
    "half of a format": ({"instruction": "a", "response": "b"}, "'instruction' needs 'output' beside it"),
    "half of a pair": ({"prompt": "a", "answer": "b"}, "'prompt' needs 'completion' beside it"),
    "a preference and more": ({"prompt": "a", "chosen": "b", "rejected": "c", "label": 1}, "also has label, which"),
    "an answer of the user": (
        {"prompt": "a", "chosen": [ANSWER], "rejected": [USER]},
        "rejected has no assistant turn to learn",
    ),
    "an answer that is only read": (
        {"prompt": "a", "chosen": [{**ANSWER, "weight": 0}], "rejected": "b"},
        "chosen has no assistant turn to learn",
    ),
    "an answer to another question": (
        {"prompt": "a", "chosen": [{"role": "user", "content": "b"}, ANSWER], "rejected": "b"},
        "chosen begins with a turn of user that is not the prompt's",
    ),
    "an answer of no turns": ({"prompt": "a", "chosen": [], "rejected": "b"}, "chosen is empty"),
    "a prompt of no turns": ({"prompt": [], "chosen": "a", "rejected": "b"}, "prompt is empty"),
    "a preference without a prompt": ({"chosen": "a", "rejected": "b"}, "'chosen' needs 'prompt' beside it"),
    "a preference misspelled": (
        {"prompt": "p", "chosen": "a", "rejectd": "b"},
        "did you mean 'rejected' for 'rejectd'",
    ),
    "a ranking of truths": (
        {"prompt": "a", "completions": ["b", "c"], "ranking": [[True], [False]]},
        "not name each of the 2 completions",
    ),
    "a score beyond float32": (
        {"prompt": "a", "completions": ["b", "c"], "scores": [1e300, 2e300]},
        "a score of 1e+300 is more than",
    ),
    "a preference of nothing": ({"prompt": "a", "chosen": "b", "rejected": ""}, "rejected is empty"),
    "a ranking of others": (
        {"prompt": "a", "completions": ["b"], "ranking": [[1]]},
        "not name each of the 1 completions",
    ),
    "a ranking with one twice": (
        {"prompt": "a", "completions": ["b", "c"], "ranking": [[0], [0, 1]]},
        "not name each of the 2 completions",
    ),
    "a label of text": ({"prompt": "a", "completion": "b", "label": "good"}, "label is text, wanted true or false"),
    "a rating of text": ({"prompt": "a", "completion": "b", "rating": "5"}, "rating is text, wanted a number"),
    "a preference with a chat": (
        chat(USER, ANSWER, chosen=ANSWER, rejected=ANSWER),
        "chosen is an object, wanted a chat",
    ),
    "a rated answer": (chat(USER, ANSWER, kto_tag=False), "the record also has kto_tag, which change what it means"),
    "a picture": (chat(USER, ANSWER, images=["a.png"]), "the record also has images"),
    "weight under another name": (chat(USER, {**ANSWER, "loss_weight": 0.0}), "messages[1].loss_weight; write weight"),
    "sharegpt turn not to train": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": False}]},
        "unknown field conversations[1].train; write weight",
    ),
    "many fields": ({f"field {i}": 0 for i in range(99)}, "and 91 more are of no known format"),
    "a long field": ({"x" * 9999: 0, "a\nb": 1}, "..., a b are of no known format"),
    "two formats": ({"text": "a", **chat(USER, ANSWER)}, "is text (text) and messages (messages) at once"),
    "text of int": ({"text": 5}, "text is int, wanted text"),
    "text of null": ({"text": None}, "text is null, wanted text"),
    "text of a list": ({"text": ["a"]}, "text is a list, wanted text"),
    "text of bytes": ({"text": b"a"}, "text is bytes, wanted text"),
    "text of nothing": ({"text": ""}, "text is empty"),
    "text of blanks": ({"text": " \n"}, "text is empty"),
    "messages of text": ({"messages": "hi"}, "messages is text, wanted a list"),
    "messages of an object": ({"messages": {}}, "messages is an object, wanted a list"),
    "no messages": (chat(), "the conversation has no assistant turn to learn"),
    "only a question": (chat(USER), "the conversation has no assistant turn to learn"),
    "only answers to read": (chat(USER, {**ANSWER, "weight": 0}), "no assistant turn to learn"),
    "message of text": (chat(USER, "four"), "messages[1] is text, wanted an object"),
    "message of null": (chat(USER, None), "messages[1] is null, wanted an object"),
    "no role": (chat({"content": "a"}), "messages[0] has no role (it has content); wanted role and content"),
    "sharegpt in messages": (chat({"from": "human", "value": "a"}), "messages[0] has no role (it has from, value)"),
    "no content": (chat({"role": "user", "text": "a"}), "messages[0] has no content (it has role, text)"),
    "content of int": (chat(USER, ANSWER, {"role": "user", "content": 4}), "messages[2].content is int, wanted text"),
    "content of null": (chat({"role": "user", "content": None}, ANSWER), "messages[0] has no content"),
    "content of an object": (chat({"role": "user", "content": {}}), "messages[0].content is an object, wanted text"),
    "content of an image": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}, ANSWER),
        "messages[0].content[0] is of type 'image_url'; only text parts",
    ),
    "part of int": (chat({"role": "user", "content": [1]}), "messages[0].content[0] is int, wanted an object"),
    "part of nothing": (chat({"role": "user", "content": [{}]}), "messages[0].content[0] has no text (it has nothing)"),
    "unknown role": (chat({"role": "bot", "content": "a"}), "messages[0].role 'bot' is unknown; known are system"),
    "misspelled role": (chat({"role": "asistant", "content": "a"}), "did you mean 'assistant'?"),
    "upper-case role": (chat({"role": "User", "content": "a"}), "'User' is unknown; did you mean 'user'?"),
    "role of int": (chat({"role": 1, "content": "a"}), "messages[0].role is int, wanted text"),
    "role of a list": (chat({"role": ["user"], "content": "a"}), "messages[0].role is a list, wanted text"),
    "empty answer": (chat(USER, {"role": "assistant", "content": " \n"}), "messages[1] is an empty assistant turn"),
    "no answer, no calls": (
        chat(USER, {"role": "assistant", "content": "", "tool_calls": []}),
        "is an empty assistant",
    ),
    "misspelled calls": (chat(USER, {**ANSWER, "tool_call": []}), "messages[1].tool_call; did you mean 'tool_calls'?"),
    "calls of a user": (chat({**USER, "tool_calls": [CALL]}, ANSWER), "messages[0] is of role user and has tool_calls"),
    "calls of text": (chat(USER, {**ANSWER, "tool_calls": "add"}), "messages[1].tool_calls is text, wanted a list"),
    "call of text": (chat(USER, {**ANSWER, "tool_calls": ["add"]}), "tool_calls[0] is text, wanted an object"),
    "call of nothing": (
        chat(USER, {**ANSWER, "tool_calls": [{"function": {}}]}),
        "messages[1].tool_calls[0].function.name is null, wanted text",
    ),
    "arguments of a list": (
        chat(USER, {**ANSWER, "tool_calls": [{"function": {"name": "add", "arguments": [2]}}]}),
        "tool_calls[0].function.arguments is a list, wanted an object",
    ),
    "arguments of broken JSON": (
        chat(USER, {**ANSWER, "tool_calls": [{"function": {"name": "add", "arguments": "{a: 2}"}}]}),
        "tool_calls[0].function.arguments is not valid JSON",
    ),
    "a third of a weight": (chat(USER, {**ANSWER, "weight": 0.3}), "messages[1].weight is 0.3; wanted 0 (read) or 1"),
    "tools of an object": (chat(USER, ANSWER, tools={"name": "add"}), "tools is an object, wanted a list"),
    "tools of names": (chat(USER, ANSWER, tools=["add"]), "tools[0] is text, wanted an object"),
    "tools of broken JSON": (chat(USER, ANSWER, tools="[add]"), "tools is not valid JSON"),
    "misspelled tools": (chat(USER, ANSWER, tool=[TOOL]), "unknown field tool; did you mean 'tools'?"),
    "conversations of text": ({"conversations": "a"}, "conversations is text, wanted a list"),
    "sharegpt of roles": (
        {"conversations": [USER, ANSWER]},
        "conversations[0] has role, content; wanted from and value",
    ),
    "sharegpt of a stranger": (shared(("narrator", "a")), "conversations[0].from 'narrator' is unknown"),
    "sharegpt of int": (shared(("human", 4), ("gpt", "a")), "conversations[0].value is int, wanted text"),
    "sharegpt without answer": (shared(("human", "a")), "no assistant turn to learn"),
    "sharegpt of an empty answer": (shared(("human", "a"), ("gpt", "")), "conversations[1] is an empty assistant turn"),
    "sharegpt of a broken call": (shared(("human", "a"), ("function_call", "add(2)")), "conversations[1].value is not"),
    "sharegpt system of int": (shared(("human", "a"), ("gpt", "b"), system=1), "system is int, wanted text"),
    "alpaca without answer": ({"instruction": "a", "output": ""}, "output is empty"),
    "alpaca of null": ({"instruction": "a", "output": None}, "output is null, wanted text"),
    "alpaca without question": ({"instruction": "", "input": "a", "output": "b"}, "instruction is empty"),
    "alpaca input of int": ({"instruction": "a", "input": 0, "output": "b"}, "input is int, wanted text"),
    "alpaca misspelled": (
        {"instruction": "a", "inputs": "b", "output": "c"},
        "unknown field inputs; did you mean 'input'?",
    ),
    "alpaca history of text": ({"instruction": "a", "output": "b", "history": "c"}, "history is text, wanted a list"),
    "alpaca history of one": ({"instruction": "a", "output": "b", "history": [["c"]]}, "history[0] has 1 items"),
    "alpaca history of int": ({"instruction": "a", "output": "b", "history": [["c", 1]]}, "history[0][1] is int"),
    "completion of nothing": ({"prompt": "a", "completion": ""}, "completion is empty"),
    "completion to nothing": ({"prompt": "", "completion": "a"}, "prompt is empty"),
    "completion with tools": ({"prompt": "a", "completion": "b", "tools": [TOOL]}, "tools beside a prompt of text"),
    "completion beside its options": (
        {"prompt": "a", "completion": "b", "options": ["c"]},
        "the completion among them",
    ),
    "options of one text twice": ({"prompt": "a", "completion": "b", "options": ["b", "b"]}, "must be different texts"),
    "options of text": ({"prompt": "a", "completion": "b", "options": "b"}, "options is text, wanted a list"),
    "options of messages": ({"prompt": [USER], "completion": [ANSWER], "options": ["b"]}, "options beside a prompt of"),
    "chats of one answer": ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "do not begin with the same"),
    "chats of two prompts": ({"chosen": [USER, ANSWER], "rejected": [ANSWER, WRONG]}, "do not begin with the same"),
    "labelled chat of text": (chat(USER, ANSWER, label="yes"), "label is text, wanted true or false"),
    "labelled answer": (chat(ANSWER, label=True), "messages has 1 turns, wanted a prompt and its answer"),
    "sharegpt preference of text": (
        shared(("human", "a"), chosen="b", rejected={"from": "gpt", "value": "c"}),
        "chosen is text, wanted an object",
    ),
    "completion half of messages": ({"prompt": [USER], "completion": "a"}, "prompt is a list, wanted text"),
    "completion of no messages": ({"prompt": [USER, ANSWER], "completion": []}, "no assistant turn to learn"),
    "completion of a bad message": ({"prompt": [USER], "completion": [{"role": "assistant"}]}, "completion[0] has no"),
}


@pytest.mark.parametrize(("record", "fragment"), BAD.values(), ids=BAD)
def test_malformed_records_get_one_line(record, fragment):
    with pytest.raises(DataProblem) as caught:
        example("data/f.jsonl:151", record)
    line = str(caught.value)
    assert line.startswith("data/f.jsonl:151: ")
    assert fragment in line
    assert "\n" not in line
    assert len(line) < 600


def test_detect_gives_the_function():
    assert detect({"text": "a"}) is formats.text
    assert detect({"conversations": 5}) is formats.sharegpt
    assert detect({"instruction": "", "output": "", "text": ""}) is formats.alpaca


def test_of_several_formats_the_one_that_reads_what_changes_the_meaning():
    assert detect({"prompt": "a", "chosen": "b", "rejected": "c", "messages": [USER, ANSWER]}) is formats.preference


def numbered(*records):
    return [(f"f:{i}", record) for i, record in enumerate(records, 1)]


@pytest.mark.parametrize(
    ("first", "other", "fragment"),
    [
        ({"text": "a"}, chat(USER, ANSWER), "the record is messages (messages), but the file was text (text) so far"),
        ({"text": "a"}, {"texts": "a"}, "of no known format (fields texts), but the file was text (text) so far"),
        (
            {"text": "a"},
            {"text": "a", **chat(USER, ANSWER)},
            "is text (text) and messages (messages), but the file was",
        ),
        ({"text": "a"}, {"text": 5}, "text is int, wanted text"),
        (
            {"prompt": "a", "completion": "b"},
            {"prompt": [USER], "completion": [ANSWER]},
            "the completion (prompt + completion) is a Conversation, but the file was Completions so far",
        ),
    ],
)
def test_line_151_of_another_type(first, other, fragment):
    found = parse(numbered(*[first] * 150, other, first))
    for _ in range(150):
        next(found)
    with pytest.raises(DataProblem) as caught:
        next(found)
    assert str(caught.value).startswith("f:151: ")
    assert fragment in str(caught.value)


def test_a_new_format_is_one_function_listed_once(monkeypatch):
    def riddle(where, question, solution, hint=""):
        """Riddles."""
        return Completion(where, f"{question}{hint}", solution)

    record = {"question": "a?", "solution": "b", "hint": " (c)"}
    with pytest.raises(DataProblem, match="no known format"):
        detect(record)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, riddle))
    assert list(parse(numbered(record))) == [Completion("f:1", "a? (c)", "b")]


def test_records_are_not_changed():
    record = chat({**USER, "name": None}, {"role": "assistant", "tool_calls": [{"name": "add", "arguments": "{}"}]})
    before = repr(record)
    example("f:1", record)
    assert repr(record) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "from", "value", "tool_calls", "function", "name", "arguments", "weight"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
names = ["text", "messages", "conversations", "instruction", "input", "output", "history", "system", "prompt"]


@settings(suppress_health_check=[HealthCheck.too_slow])  # of the machine, not of the test
@given(st.dictionaries(st.sampled_from([*names, "completion", "tools"]), json_values, max_size=4))
def test_no_record_makes_a_traceback(record):
    try:
        found = example("f:1", record)
    except DataProblem as problem:
        assert problem.where == "f:1"  # noqa: PT017
    else:
        assert isinstance(found, Document | Conversation | Completion)


def test_who_judged_and_a_score_of_each():
    answers = example(
        "f:1", {"prompt": "p", "completions": ["a", "b", "c"], "scores": [1, None, 2.5], "annotator": "ann"}
    )
    assert isinstance(answers, Answers)
    assert answers.annotator == "ann"
    assert (answers.values[0], answers.values[2]) == (1, 2.5)
    assert answers.values[1] != answers.values[1]
    for record in (
        {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": 7},
        {"prompt": "p", "completions": ["a", "b"], "ranking": [[1], [0]], "annotator": "7"},
        {"prompt": "p", "completion": "a", "label": True, "annotator": "7"},
        {"prompt": "p", "completion": "a", "rating": 3, "annotator": "7"},
    ):
        found = example("f:1", record)
        assert isinstance(found, Answers)
        assert found.annotator == "7"
    for record, what in (
        ({"prompt": "p", "completions": ["a"], "scores": []}, "there are 0 scores of 1 completions"),
        ({"prompt": "p", "completions": ["a"], "scores": ["good"]}, r"scores\[0\] is text, wanted a number"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "annotator": " "}, "annotator is empty"),
        ({"prompt": "p", "completions": [], "scores": []}, "there are no completions"),
    ):
        with pytest.raises(DataProblem, match=what):
            example("f:1", record)
