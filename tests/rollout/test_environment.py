"""Episodes of several turns: what the environment says is read, never learned, and stands as a chat would have it."""

import json

import pytest

from didact.errors import DataProblem, UsageProblem
from didact.rollout.decoder import Completion
from didact.rollout.environment import Calculator, environment, play
from didact.rollout.prompts import prompt
from didact.rollout.rows import row
from tests.run.test_reinforce import STAGE, run
from tests.text.styles import styled


class Echo:
    """Asks once more, then finds the episode worth 2."""

    def opening(self, record):
        return [{"role": "system", "content": "Hm."}]

    def step(self, record, turns):
        return [{"role": "user", "content": "And?"}] if len(turns) == 1 else 2.0


def test_an_episode_reads_as_the_chat_it_is():
    renderer = styled("chatml")
    asked = prompt("here", {"prompt": [{"role": "user", "content": "6 * 7?"}]}, renderer, Calculator().opening({}))
    said = iter(["<calc>6 * 7</calc>", "It is 42."])
    prompts = []

    def ask(given, which, turn):
        prompts.extend(given)
        text = next(said)
        tokens = [*renderer.tokenizer.encode(text, add_special_tokens=False), renderer.stops[-1]]
        return [Completion(0, tokens, [-1.0] * len(tokens), text, "stop")]

    (episode,) = play(Calculator(), [asked], ask, renderer, turns=4, room=500)
    assert [turn["role"] for turn in episode.turns] == ["assistant", "tool", "assistant"]
    assert episode.turns[1]["content"] == "42"
    assert prompts[1] == renderer.prompt([*asked.messages, *episode.turns[:2]])
    whole = renderer.conversation([*asked.messages, *episode.turns])
    told = [*asked.tokens, *episode.tokens]
    assert told == whole.tokens[: len(told)]
    assert [False] * len(asked.tokens) + episode.chosen == whole.trained[: len(told)]
    columns = row(asked.tokens, [episode])
    assert columns["trained"].tolist()[len(asked.tokens) :] == episode.chosen
    assert not columns["behaviour"][~columns["trained"]].any()


@pytest.mark.parametrize(
    ("text", "result"),
    [("12 * (3 + 4)", "84"), ("-2 - 3", "-5"), ("1 / 0", "error"), ("__import__('os')", "error"), ("9 ** 9", "error")],
)
def test_the_calculator_calculates_and_does_nothing_else(text, result):
    (message,) = Calculator().step({}, [{"role": "assistant", "content": f"So <calc>{text}</calc>"}])
    assert message == {"role": "tool", "content": result}
    assert Calculator().step({}, [{"role": "assistant", "content": "Done."}]) == 0.0


def test_an_episode_ends_at_its_last_turn_and_where_there_is_no_room():
    renderer = styled("chatml")
    asked = prompt("here", {"prompt": "6 * 7?"}, renderer, Calculator().opening({}))

    def ask(given, which, turn):
        return [Completion(0, [5, renderer.stops[-1]], [-1.0, -1.0], "<calc>1</calc>", "stop") for _ in given]

    assert len(play(Calculator(), [asked], ask, renderer, turns=3, room=500)[0].turns) == 5
    assert len(play(Calculator(), [asked], ask, renderer, turns=3, room=len(asked.tokens) + 4)[0].turns) == 1


@pytest.mark.parametrize("said", [KeyError("x"), float("nan")])
def test_an_environment_that_fails_names_the_record(said):
    class Failing(Echo):
        def step(self, record, turns):
            if isinstance(said, Exception):
                raise said
            return said

    def ask(given, which, turn):
        return [Completion(0, [5], [-1.0], "a", "stop") for _ in given]

    renderer = styled("chatml")
    with pytest.raises(DataProblem, match=r"^here: the environment"):
        play(Failing(), [prompt("here", {"prompt": "?"}, renderer)], ask, renderer, turns=1, room=500)


def test_a_model_learns_in_an_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = "rollout: {environment: 'tests.rollout.test_environment:Echo', turns: 2, "
    (stage,) = run(tmp_path, STAGE.replace("rollout: {", there).replace("context: 64", "context: 120"))
    first = json.loads((stage.folder.path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["gauge/grpo/ratio"] == pytest.approx(1, abs=1e-5)
    assert first["gauge/grpo/mismatch"] < 1e-4
    assert 0 <= first["gauge/grpo/reward/environment"] <= 2


def test_a_path_that_leads_nowhere():
    with pytest.raises(UsageProblem, match="cannot make the environment"):
        environment("didact.nowhere:Thing")
