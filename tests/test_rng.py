import torch

from didact.rng import Rng, mix


def test_randomness_belongs_to_the_row():
    rows = torch.tensor([7, 3, 9])
    together = Rng(1, 5).uniform(rows, 4)
    assert torch.equal(together[1:2], Rng(1, 5).uniform(rows[1:2], 4))
    assert not torch.equal(together, Rng(1, 6).uniform(rows, 4))
    assert not torch.equal(together, Rng(2, 5).uniform(rows, 4))
    assert not torch.equal(together, Rng(1, 5).uniform(rows, 4, purpose=1))


def test_mix_is_stable_and_spreads():
    assert mix(0) == mix(0)
    seen = {mix(a, b) for a in range(50) for b in range(50)}
    assert len(seen) == 2500
    assert all(0 <= value < 1 << 63 for value in seen)
    bits = sum(value >> 40 & 1 for value in seen)
    assert 1100 < bits < 1400
