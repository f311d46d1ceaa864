"""Every foreseen mistake through the whole command line: one line, the right exit code, nothing half-written."""

import pytest

from tests.battery import data, models, recipes
from tests.battery.base import make_world
from tests.battery.case import Case, complaints, done, left

CASES: list[Case] = [*recipes.CASES, *data.CASES, *models.CASES]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_a_mistake_is_one_line(case, world, didact):
    case.spoil(world)
    code, out, err = didact(case.args)
    assert (code, len(complaints(err))) == (case.code, 1 if case.code else 0), err
    assert "Traceback" not in err + out
    if case.code:
        assert err.splitlines()[-1].startswith("didact: ")
        assert out == "" or case.args.startswith("doctor")  # which has looked at the machine by then
    assert case.says in err.splitlines()[-1] if case.code else case.says in err, err
    assert left(world) == []
    assert done(world) == case.done


def test_there_are_enough_cases():
    assert len(CASES) >= 120
    assert len({case.id for case in CASES}) == len(CASES)


MENDED = (
    "misspelled setting",
    "bad line",
    "longer than the context",
    "cut weights",
    "another vocabulary",
    "cut Parquet",
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES if case.id in MENDED])
def test_once_mended_it_runs(case, world, base, didact):
    case.spoil(world)
    assert didact(case.args)[0] == case.code
    make_world(world, base)
    code, _, err = didact(case.args)
    assert (code, complaints(err)) == (0, []), err
    assert done(world) == 1
