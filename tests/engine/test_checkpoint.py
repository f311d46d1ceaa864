import json
import math
import os
import pickle
import random
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from didact.engine import checkpoint, durable, shards
from didact.errors import DataProblem, ResourceProblem


def tensors(step: float = 0) -> dict[str, torch.Tensor]:
    return {
        "model.weight": torch.arange(6.0).reshape(2, 3) + step,
        "optimizer.weight.exp_avg": torch.full((2, 3), step + 0.5, dtype=torch.bfloat16),
        "optimizer.weight.step": torch.tensor(float(step)),
    }


def saved(root: Path, *steps: int, keep: int = 9) -> Path:
    for step in steps:
        path = checkpoint.save(root, step, tensors(step), {"cursor": step}, keep, {"notes.txt": b"hello"})
    return path


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def found(root: Path) -> tuple[int | None, list[str]]:
    said: list[str] = []
    path = checkpoint.latest(root, said.append)
    if path is None:
        return None, said
    held = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    step = checkpoint.load(path, held)["step"]
    for name, tensor in tensors(step).items():
        assert torch.equal(held[name], tensor)
    return step, said


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
specs = st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(list(shards.DTYPES)), shapes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs=specs, seed=st.integers(0, 2**32))
def test_any_tensors_come_back_bit_for_bit(specs, seed):
    draw = random.Random(seed)
    specs.pop("__metadata__", None)
    given = {}
    for name, (dtype, shape) in specs.items():
        size = math.prod(shape) * torch.empty((), dtype=dtype).element_size()
        raw = bytes(draw.getrandbits(1) if dtype == torch.bool else draw.getrandbits(8) for _ in range(size))
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if size else torch.empty(0, dtype=dtype)
        given[name] = flat.reshape(shape)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder), 1, given, {}, 1)
        held = {name: torch.empty_like(tensor) for name, tensor in given.items()}
        checkpoint.load(path, held)
        loaded = load_file(path / "tensors-00001.safetensors")
    for name, tensor in given.items():
        assert bits(held[name]) == bits(tensor) == bits(loaded[name])
        assert loaded[name].shape == tensor.shape


def test_awkward_values_and_layouts_come_back_bit_for_bit(tmp_path):
    nans = torch.tensor([0x7F800001, 0x7FC00123, -0x3FFEDC, -0x80000000, 1], dtype=torch.int32).view(torch.float32)
    tied = torch.randn(4, 6)
    given = {
        "nan": nans,
        "bf16": torch.tensor([0x7F81, -1, -0x8000, 1], dtype=torch.int16).view(torch.bfloat16),
        "transposed": tied.t(),
        "sliced": tied[1:3, ::2],
        "tied.a": tied,
        "tied.b": tied,
        "scalar": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }
    path = checkpoint.save(tmp_path, 1, given, {}, 1)
    held = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
    held["transposed"] = torch.zeros(4, 6).t()
    held["parameter"] = torch.nn.Parameter(torch.zeros(3))
    checkpoint.load(path, held)
    for name, tensor in given.items():
        assert bits(held[name].detach()) == bits(tensor.detach()), name


floats = st.floats(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**128), 2**128) | floats | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(value=plain, number=floats)
def test_the_state_comes_back_exactly(value, number):
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder), 1, {}, {"value": value, "number": number}, 1)
        state = checkpoint.load(path, {})
    assert state == {"step": 1, "value": value, "number": number}
    assert repr(state["value"]) == repr(value)
    assert struct.pack("d", state["number"]) == struct.pack("d", number)


@pytest.mark.parametrize("state", [{"a": (1,)}, {"a": {1: 2}}, {"a": torch.tensor(1)}])
def test_a_state_that_json_would_change_is_refused(tmp_path, state):
    with pytest.raises(TypeError, match=r"state\.a"):
        checkpoint.save(tmp_path, 1, {}, state, 1)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_own_reader_reads_it(tmp_path):
    import torch.distributed.checkpoint as dcp

    held = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    dcp.load(held, storage_reader=dcp.HuggingFaceStorageReader(str(saved(tmp_path, 3))), no_dist=True)
    for name, tensor in tensors(3).items():
        assert torch.equal(held[name], tensor)


def test_pieces_written_by_torch_style_sharding_are_joined(tmp_path):
    """Two processes' files, made in one: the pieces land where their offsets say."""
    whole = torch.randn(5, 4)
    cuts = {1: (0, 3), 2: (3, 5)}
    written = {}
    for rank, (start, stop) in cuts.items():
        shard = shards.Shard("w", whole[start:stop], (start, 0), (5, 4), True)
        name = f"tensors-{rank:05d}.safetensors"
        written[name] = durable.write_file(tmp_path / name, shards.pieces([shard]))
    held = {"w": torch.zeros(5, 4)}
    shards.load_into(tmp_path, written, held)
    assert torch.equal(held["w"], whole)
    with pytest.raises(DataProblem, match="pieces of w are missing"):
        shards.load_into(tmp_path, ["tensors-00001.safetensors"], held)


def test_old_ones_go_and_the_newest_stay(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]
    assert (tmp_path / "step-00000004" / "notes.txt").read_bytes() == b"hello"


def test_a_visibly_damaged_one_does_not_count_as_kept(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.json").unlink()
    saved(tmp_path, 3, keep=2)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_after_a_rollback_later_ones_go(tmp_path):
    saved(tmp_path, 10, 20, 30)
    saved(tmp_path, 20)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]
    assert found(tmp_path) == (20, [])


def test_a_replaced_one_is_used_while_its_replacement_is_not_there(tmp_path):
    saved(tmp_path, 1, 2).rename(tmp_path / "step-00000002.old")
    assert found(tmp_path) == (2, [])
    saved(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_nothing_there_is_none(tmp_path):
    assert found(tmp_path / "absent") == (None, [])
    assert found(tmp_path) == (None, [])


FILES = ("tensors-00001.safetensors", "state.json", "notes.txt", "manifest.json")


def expect_previous(root: Path) -> None:
    step, said = found(root)
    assert step == 1
    (line,) = said
    assert "step-00000002" in line
    assert "\n" not in line


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(tmp_path, name):
    file = saved(tmp_path, 1, 2) / name
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        expect_previous(tmp_path)
    file.write_bytes(whole)
    assert found(tmp_path) == (2, [])


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_longer_missing_or_replaced_file_is_noticed(tmp_path, name):
    file = saved(tmp_path, 1, 2) / name
    whole = file.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], whole[:-1], whole + b"\0"):
        file.write_bytes(damage)
        expect_previous(tmp_path)
    file.unlink()
    expect_previous(tmp_path)
    file.mkdir()
    expect_previous(tmp_path)


@pytest.mark.parametrize("raw", [b"[]", b"{}", b"null", b"[" * 100_000, b'{"seal": 1, "files": {"a": 1}}', b"\xff"])
def test_no_manifest_is_too_strange(tmp_path, raw):
    (saved(tmp_path, 1, 2) / "manifest.json").write_bytes(raw)
    expect_previous(tmp_path)


def test_a_manifest_cannot_point_elsewhere(tmp_path):
    path = saved(tmp_path, 1, 2)
    (path / "manifest.json").unlink()
    durable.write_manifest(path, {"../../secret": durable.Written(0, "")})
    expect_previous(tmp_path)


def test_a_save_cut_off_is_said_by_readers_and_cleaned_by_the_next_save(tmp_path):
    path = saved(tmp_path, 1, 2)
    shutil.copytree(path, tmp_path / ".saving-step-00000003")
    step, (line,) = found(tmp_path)
    assert step == 2
    assert ".saving-step-00000003" in line
    assert (tmp_path / ".saving-step-00000003").exists()
    saved(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def test_all_damaged_is_none(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step-0000000{step}" / "manifest.json").unlink()
    step, said = found(tmp_path)
    assert step is None
    assert len(said) == 2


OPENED: list[str] = []


@pytest.fixture
def opened():
    """The paths that Python opens; an audit hook cannot be taken away, so it is put there once."""
    if not OPENED:
        sys.addaudithook(lambda name, arguments: OPENED.append(str(arguments[0])) if name == "open" else None)
    OPENED[:] = ["ready"]
    return OPENED


class Bomb:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


HOSTILE = (".metadata", "__0_0.distcp", "data.pkl", "tensors-00002.safetensors", "model.safetensors.index.json", "x.pt")


def test_no_pickle_is_ever_opened(tmp_path, opened, monkeypatch):
    mark = tmp_path / "executed"
    path = saved(tmp_path / "root", 1)
    for name in HOSTILE:
        (path / name).write_bytes(pickle.dumps(Bomb(mark)))
        os.mkfifo(path / f"pipe-{name}")  # opening it would wait for ever
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    opened.clear()
    assert found(tmp_path / "root") == (1, [])
    assert not mark.exists()
    inside = {Path(name).name for name in opened if str(path) in name}
    assert inside <= set(FILES)
    assert {"manifest.json", "state.json"} <= inside  # the hook does hear


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_bomb_would_have_gone_off_in_plain_dcp(tmp_path):
    """What this is a guard against: without it the test above could pass for nothing."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(CheckpointException):
        dcp.load({"x": torch.zeros(1)}, checkpoint_id=tmp_path, no_dist=True)
    assert (tmp_path / "executed").exists()


def test_a_pickle_under_a_safetensors_name_is_one_line(tmp_path):
    path = saved(tmp_path, 1)
    raw = pickle.dumps(Bomb(tmp_path / "executed"))
    (path / "tensors-00001.safetensors").unlink()
    (path / "manifest.json").unlink()
    file = durable.write_file(path / "tensors-00001.safetensors", [raw])
    state = durable.Written((path / "state.json").stat().st_size, "")
    durable.write_manifest(path, {"tensors-00001.safetensors": file, "state.json": state})
    with pytest.raises(DataProblem, match="not safetensors"):
        checkpoint.load(path, tensors())
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model.weight": torch.zeros(3, 2)}, r"model\.weight has shape \[2, 3\] instead of \[3, 2\]"),
        ({"model.weight": torch.zeros(2, 3).double()}, r"model\.weight is F32 instead of F64"),
        ({"a.new": torch.zeros(1)}, "it lacks a.new"),
        ({"model.weight": None}, "it holds model.weight, which is not wanted"),
    ],
)
def test_the_first_disagreement_is_named_before_anything_is_touched(tmp_path, change, line):
    path = saved(tmp_path, 3)
    held = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()} | change
    held = {name: tensor for name, tensor in held.items() if tensor is not None}
    with pytest.raises(DataProblem, match=line) as caught:
        checkpoint.load(path, held)
    assert "\n" not in str(caught.value)
    assert all(not tensor.any() for tensor in held.values())


def test_a_type_that_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(DataProblem, match=r"phase: tensors of torch\.complex64"):
        checkpoint.save(tmp_path, 1, {"phase": torch.zeros(1, dtype=torch.complex64)}, {}, 1)


@pytest.mark.parametrize("name", ["state.json", "x.safetensors", "manifest.json", "../x", "a/b", ""])
def test_extra_files_cannot_take_a_checkpoints_own_names(tmp_path, name):
    with pytest.raises((ValueError, DataProblem)):
        checkpoint.save(tmp_path, 1, {}, {}, 1, {name: b""})
    assert names(tmp_path) == []


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=2_999_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(Path, "mkdir", lambda path, **named: None if path == tmp_path else pytest.fail("written"))
    with pytest.raises(ResourceProblem, match=r"needs 3\.0 MB free .* 3\.0 MB are") as caught:
        checkpoint.save(tmp_path, 2, {"x": torch.zeros(375_000)}, {}, 1)
    assert caught.value.code == 4
    assert names(tmp_path) == ["step-00000001"]


def test_a_root_that_cannot_be_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceProblem, match="cannot save a checkpoint: "):
        saved(tmp_path / "file" / "root", 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceProblem, match="make the folder writable"):
        saved(tmp_path, 1)


def test_the_state_on_the_disk_is_plain_json(tmp_path):
    path = checkpoint.save(tmp_path, 12, {}, {"loss": 0.1, "seed": 2**64}, 1)
    assert path.name == "step-00000012"
    assert json.loads((path / "state.json").read_text()) == {"step": 12, "loss": 0.1, "seed": 2**64}
    with pytest.raises(ValueError, match="step"):
        checkpoint.save(tmp_path, 12, {}, {"step": 11}, 1)
