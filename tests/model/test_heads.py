import pytest
import torch

from didact.errors import UsageProblem
from didact.model import heads
from didact.model.heads import FILE, restore, write
from tests.toy import toy_model


def test_heads_are_written_and_restored(tmp_path):
    model, again = toy_model(), toy_model()
    model.add_heads({"relation": 3, "other": 2})
    for weight in model.heads.parameters():
        torch.nn.init.normal_(weight)
    write(model.heads.state_dict(), tmp_path)
    again.add_heads({"relation": 3})
    restore(again, tmp_path)
    for name, tensor in model.heads.state_dict().items():
        assert torch.equal(again.heads.state_dict()[name], tensor)
    wanted = {name: weight.requires_grad for name, weight in again.heads.named_parameters()}
    assert wanted == {"relation.weight": True, "relation.bias": True, "other.weight": False, "other.bias": False}


def test_no_heads_leave_no_file(tmp_path):
    write({}, tmp_path)
    assert not (tmp_path / FILE).exists()
    restore(toy_model(), tmp_path)


def test_what_is_not_saved_as_it_is_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "load_file", lambda path: {"a.weight": torch.ones(2)})
    with pytest.raises(heads.Problem, match="not saved as they are"):
        write({"a.weight": torch.zeros(2)}, tmp_path)


def test_muon_leaves_heads_to_adamw():
    model = toy_model()
    model.add_heads({"relation": 3})
    assert any(weight is model.heads["relation"].weight for weight in model.outer())


def test_a_head_that_is_not_there():
    with pytest.raises(UsageProblem, match="no head 'relation'"):
        toy_model().head("relation", torch.zeros(1, 32))
