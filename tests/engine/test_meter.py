"""Speed, time left, peak share, memory and energy, by a clock that the test turns."""

import json
import os
import stat
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from didact.engine.meter import Estimate, Meter, NvidiaSmi, Rapl, Total, flops_per_token, measure_peak


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Steps:
    """A power source that draws the given watts, one after another, and writes down for how long."""

    source = "measured (by the test)"

    def __init__(self, *watts):
        self.left, self.seconds = list(watts), []

    def watts(self, seconds):
        self.seconds.append(seconds)
        return self.left.pop(0)


def meter(clock, steps=100, tokens=None, source=None, **settings):
    return Meter(steps, tokens, "cpu", clock, source=source or Total([]), **settings)


def test_energy_is_the_integral_of_a_step_function():
    """100 W for 2 s, 50 W for 3 s, 200 W for 5 s: 200 + 150 + 1000 J = 1350 J = 0.375 Wh."""
    clock, source = Clock(), Steps(100, 50, 200)
    m = meter(clock, source=source)
    for seconds in (2, 3, 5):
        clock.now += seconds
        reading = m.step(10)
    assert reading.energy_wh == 0.375
    assert source.seconds == [2, 3, 5]


def test_power_is_looked_at_rarely_and_no_interval_is_lost():
    """Ten steps of 0.3 s, a look a second: looks after 1.2, 1.2 and, at the end, 0.6 s; 10 W x 3 s = 30 J."""
    clock, source = Clock(), Steps(10, 10, 10)
    m = meter(clock, source=source)
    for _ in range(10):
        clock.now += 0.3
        m.step(1)
    assert m.stop().energy_wh == pytest.approx(30 / 3600)
    assert source.seconds == pytest.approx([1.2, 1.2, 0.6])


def test_speed_is_the_median_and_time_left_follows():
    clock = Clock()
    m = meter(clock, steps=10)
    for seconds in (60, 2, 2, 2):  # the first step compiles
        clock.now += seconds
        reading = m.step(100)
    assert reading.tokens_per_second == 50
    assert reading.seconds_left == 6 * 2
    assert reading.seconds == 66


def test_time_left_ends_with_the_first_length_reached():
    clock = Clock()
    m = meter(clock, steps=1000, tokens=500)
    clock.now += 2
    assert m.step(100).seconds_left == 400 / 50
    assert meter(clock, steps=None).stop().seconds_left is None


def test_what_is_not_training_is_time_but_not_speed():
    clock = Clock()
    m = meter(clock, source=Steps(36))
    clock.now += 1
    m.mark = clock.now  # the second before the first step was loading
    clock.now += 100  # an evaluation
    m.lap()
    clock.now += 2
    reading = m.step(100)
    assert reading.tokens_per_second == 50
    assert reading.seconds == 103
    assert reading.energy_wh == pytest.approx(36 * 103 / 3600)


def test_only_recent_steps_count():
    clock = Clock()
    m = meter(clock)
    for seconds in [1] * 40 + [4] * 40:
        clock.now += seconds
        reading = m.step(8)
    assert reading.tokens_per_second == 2


def test_share_of_peak_is_work_over_peak():
    clock = Clock()
    m = meter(clock, flops_per_token=6e6, peak=1.2e9)
    clock.now += 2
    assert m.step(100).share == pytest.approx(50 * 6e6 / 1.2e9)
    assert meter(clock).stop().share is None


def test_a_resumed_meter_goes_on_from_its_totals():
    clock = Clock()
    first = meter(clock, steps=4, source=Steps(100))
    clock.now += 10
    first.step(50)
    saved = json.loads(json.dumps(first.state()))
    clock.now += 10_000  # the run was away
    second = meter(clock, steps=4, source=Steps(100))
    second.restore(saved)
    clock.now += 10
    reading = second.step(50)
    assert (reading.step, reading.seconds, reading.seconds_left) == (2, 20, 20)
    assert reading.energy_wh == pytest.approx(2000 / 3600)


def test_the_estimate_is_busy_cpus_and_memory_and_says_so():
    times = iter([(10.0, 0.0), (13.0, 1.0)])
    process = SimpleNamespace(
        cpu_times=lambda: SimpleNamespace(**dict(zip(("user", "system"), next(times), strict=True))),
        memory_info=lambda: SimpleNamespace(rss=2_000_000_000),
    )
    estimate = Estimate(process)
    assert estimate.watts(2.0) == pytest.approx(2 * 3.5 + 2 * 0.392)  # 4 CPU-seconds in 2 s: two CPUs busy
    assert estimate.source.startswith("estimate: 3.5 W a busy CPU")


def package(root, name, energy, top=999):
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{top}\n")
    return folder


def test_rapl_adds_packages_and_survives_a_wrapped_counter(tmp_path):
    one = package(tmp_path, "intel-rapl:0", 100)
    two = package(tmp_path, "intel-rapl:1", 990)
    package(tmp_path, "intel-rapl:0:0", 50)  # a part of package 0, already counted there
    found = Rapl.packages(tmp_path)
    assert found == [one, two]
    rapl = Rapl(found)
    (one / "energy_uj").write_text("300")
    (two / "energy_uj").write_text("40")  # 990 -> 999 -> 0 -> 40 is 50 microjoules
    assert rapl.watts(2.0) == pytest.approx((200 + 50) / 1e6 / 2)


def test_no_rapl_where_it_cannot_be_read(tmp_path):
    assert Rapl.packages(tmp_path / "none") == []


def program(tmp_path, text):
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_nvidia_smi_is_asked_for_one_board_and_never_waited_for(tmp_path):
    asked = tmp_path / "asked"
    smi = NvidiaSmi("GPU-7", program(tmp_path, f'echo "$@" >> {asked}; echo 123.50'))
    assert smi.known == 123.5
    smi.asked.wait()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    assert smi.watts(1.0) == 123.5  # this asks the slow program
    assert smi.watts(1.0) == 123.5  # and this does not wait for it
    smi.asked.kill()
    smi.asked.wait()
    assert smi.watts(1.0) == 123.5  # an empty answer leaves the last one
    smi.asked.kill()
    assert set(asked.read_text().splitlines()) == {"--id=GPU-7 --query-gpu=power.draw --format=csv,noheader,nounits"}


def test_a_board_without_a_sensor_is_not_known(tmp_path):
    smi = NvidiaSmi("0", program(tmp_path, "echo '[N/A]'"))
    assert smi.known is None
    smi.asked.wait()


def test_sources_add_up_and_an_estimated_part_shows():
    total = Total([Steps(100), SimpleNamespace(source="estimate: x", watts=lambda seconds: 5.0)], missing="; no fan")
    assert total.watts(1.0) == 105
    assert total.source == "measured (by the test) + estimate: x; no fan"
    assert meter(Clock(), source=total).stop().estimated
    assert not meter(Clock()).stop().estimated


def net(**changes):
    config = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=64)
    return LlamaForCausalLM(LlamaConfig(**config | {"num_key_value_heads": 2} | changes, attn_implementation="eager"))


def counted(model, length=16):
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.arange(length)[None], use_cache=False).logits.sum().backward()
    return counter.get_total_flops() / length


@pytest.mark.parametrize("tied", [True, False])
def test_flops_equal_torchs_count(tied):
    model = net(tie_word_embeddings=tied)
    # torch's counter also sees the rotary frequencies, head width / 2 products a token
    assert flops_per_token(model, keys=16) == pytest.approx(counted(model), rel=1e-3)


def test_flops_of_a_frozen_body_equal_torchs_count():
    model = net(tie_word_embeddings=False).requires_grad_(False)
    model.lm_head.requires_grad_(True)
    # the head is first in the gradient's way: its input needs none, so 4 and not 6 there
    assert flops_per_token(model, keys=16) - 2 * 32 * 64 == pytest.approx(counted(model), rel=1e-3)


def test_flops_of_frozen_weights_below_trainable_ones():
    model = net(tie_word_embeddings=False).requires_grad_(False)
    model.model.embed_tokens.requires_grad_(True)  # new token rows: everything flows back, no weight gradients
    assert flops_per_token(model, keys=16) == pytest.approx(counted(model), rel=1e-3)


def test_flops_of_the_last_layer_alone():
    model = net(tie_word_embeddings=False).requires_grad_(False)
    model.model.layers[-1].requires_grad_(True)
    assert flops_per_token(model, keys=16) == pytest.approx(counted(model), rel=1e-3)


def test_peak_is_measured_once_and_bounds_a_real_product():
    peak = measure_peak("cpu", torch.float32, 0.02)
    assert peak == measure_peak("cpu", torch.float32, 0.02)
    assert 1e8 < peak < 1e14


def test_memory_sees_what_was_held_and_given_back():
    m = meter(Clock())
    before = m.stop().memory
    held = bytearray(os.urandom(1 << 20) * 400)
    del held
    assert m.stop().memory >= max(before, 400 << 20)
