"""Text that grows token by token, for the decoders that make it hard: bytes, and SentencePiece's dropped space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from didact.rollout.text import BROKEN, CONTEXT, LONGEST, PATIENCE, Unrolled, undecided


def byte_level() -> Tokenizer:
    """GPT-2's way: every token is some bytes."""
    raw = Tokenizer(models.BPE({word: i for i, word in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw


def sentencepiece() -> Tokenizer:
    """Llama 2's way: words behind a mark for the space, bytes for what the vocabulary lacks."""
    letters = [*"▁abcdefg.", "▁a", "▁bad", "▁face"]
    words = {word: i for i, word in enumerate(["<unk>", *letters, *(f"<0x{byte:02X}>" for byte in range(256))])}
    merges = [("▁", "a")]
    raw = Tokenizer(models.BPE(words, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return raw


TOKENIZERS = {"byte_level": byte_level(), "sentencepiece": sentencepiece()}
each = pytest.mark.parametrize("name", TOKENIZERS)
texts = st.text(st.sampled_from("abcdefg  .éß語本😀👩‍🚀\n"), max_size=30)


def decode(name):
    return lambda ids: TOKENIZERS[name].decode(list(ids), skip_special_tokens=False)


def unrolled(name, prompt, tokens):
    words, shown = Unrolled(decode(name), prompt), []
    for token in tokens:
        words.add(token)
        shown.append(words.text)
    words.finish()
    return words.text, shown


@each
@given(texts.filter(len), texts)
def test_the_pieces_join_to_what_the_whole_decodes_to(name, before, after):
    prompt = TOKENIZERS[name].encode(before).ids
    whole = TOKENIZERS[name].encode(before + after).ids
    if whole[: len(prompt)] == prompt:
        text, shown = unrolled(name, prompt, whole[len(prompt) :])
        assert text == decode(name)(whole)[len(decode(name)(prompt)) :]
        assert all(text.startswith(said) for said in shown)
        assert not any(BROKEN in said for said in shown)


@each
@given(st.lists(st.integers(1, 255), min_size=1, max_size=12), st.lists(st.integers(1, 255), max_size=60))
def test_nonsense_only_ever_grows(name, prompt, tokens):
    text, shown = unrolled(name, prompt, tokens)
    for earlier, later in zip(["", *shown], [*shown, text], strict=True):
        assert later.startswith(earlier)


def test_a_leading_space_is_kept():
    prompt = TOKENIZERS["sentencepiece"].encode("a bad").ids
    follow = TOKENIZERS["sentencepiece"].encode("face").ids
    assert decode("sentencepiece")(follow) == "face"
    assert unrolled("sentencepiece", prompt, follow)[0] == " face"


def test_half_a_character_waits():
    tokens = TOKENIZERS["byte_level"].encode("a😀b").ids
    assert unrolled("byte_level", [1], tokens)[1] == ["a", "a", "a", "a", "a😀", "a😀b"]


def test_a_broken_byte_does_not_wait_for_ever():
    first = TOKENIZERS["byte_level"].encode("é").ids[0]
    text, shown = unrolled("byte_level", [1], [first] * (3 * PATIENCE))
    assert shown[2 * PATIENCE]
    assert text == BROKEN * (3 * PATIENCE)


def test_half_a_character_at_the_end_is_said():
    assert unrolled("byte_level", [1], TOKENIZERS["byte_level"].encode("aé").ids[:2])[0] == "a" + BROKEN


@each
def test_each_step_decodes_a_bounded_number_of_tokens(name):
    seen = []

    def counting(ids):
        seen.append(len(ids))
        return decode(name)(ids)

    tokens = TOKENIZERS[name].encode("a bad face. 語😀 " * 200).ids
    words = Unrolled(counting, tokens)
    for token in tokens:
        words.add(token)
    assert max(seen) <= CONTEXT + LONGEST + PATIENCE


def test_marks_without_text_are_no_context():
    """A hidden mark before a word: decoding the word behind the mark alone would drop its space."""

    def hiding(ids):
        return decode("sentencepiece")([i for i in ids if i != 0])

    prompt = TOKENIZERS["sentencepiece"].encode("a bad").ids
    words = Unrolled(hiding, prompt)
    for token in [0, *TOKENIZERS["sentencepiece"].encode("face").ids]:
        words.add(token)
    assert words.text == " face"


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [
        ("abc", (), 0),
        ("abc", ("x",), 0),
        ("abc", ("cd",), 1),
        ("abc", ("bcd", "cd"), 2),
        ("ab", ("abc",), 2),
        ("", ("ab",), 0),
    ],
)
def test_undecided(text, stops, held):
    assert undecided(text, stops) == held
