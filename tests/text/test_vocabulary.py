"""What objectives are told of tokens, and the mask a tokenizer may be given."""

import torch

from didact.model.extend import fit
from didact.text.tokenizer import MASK, train, vocabulary, with_mask
from tests.toy import toy_model


def test_special_tokens_and_word_starts():
    tokenizer = train(["unbelievable things happen, unbelievable words"] * 3, 400)
    known = vocabulary(tokenizer)
    assert known.mask == -1
    ids = tokenizer("unbelievable, words", add_special_tokens=False)["input_ids"]
    words, text = [], ""
    for number in ids:
        if known.begins[number] and text:
            words.append(text)
            text = ""
        text += tokenizer.decode([number])
    assert [*words, text] == ["unbelievable", ",", " words"]
    assert known.special[tokenizer.eos_token_id]
    assert not known.special[ids].any()


def test_a_mask_is_given_once():
    tokenizer = with_mask(train(["one two three"], 300))
    size = len(tokenizer)
    known = vocabulary(with_mask(tokenizer))
    assert len(tokenizer) == size == known.size
    assert tokenizer.convert_ids_to_tokens(known.mask) == MASK
    assert known.special[known.mask]
    assert tokenizer(f"one{MASK}", add_special_tokens=False)["input_ids"][-1] == known.mask


def test_new_rows_are_the_mean_of_the_old():
    model = toy_model()
    old = model.net.get_input_embeddings().weight.detach().clone()
    fit(model.net, len(old) + 2)
    new = model.net.get_input_embeddings().weight
    assert torch.equal(new[: len(old)], old)
    assert torch.allclose(new[len(old) :], old.mean(0).expand(2, -1))
    assert model.net.get_output_embeddings().weight is new
    assert model.net.config.vocab_size == len(old) + 2
    fit(model.net, 3)
    assert len(model.net.get_input_embeddings().weight) == len(old) + 2
