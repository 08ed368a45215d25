"""The crash matrix: a failpoint before and after every step that touches the world, times every way to fail there, in both modes and
with every catalog; real processes, real kill -9. What came of it is docs/faults.md.

Without FIRN_FAULTS=all each step is met with each fault once, modes and catalogs by turns; FIRN_FAULTS_ONLY names one cell.
"""

import itertools
import os
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import Trial
from faults import page
from faults.catalogs import Place
from faults.cells import ACTIONS, ALL, CATALOGS, MODES, STEPS, WHENS, Cell, absent, representative
from faults.ground import Ground
from harness.envelopes import Items, items
from harness.lake import Lake
from harness.program import Firn, sqlite_config
from harness.rest import RestServer
from harness.stack import ROOT, Stack

PAGE = ROOT / "docs" / "faults.md"
WHOLE = os.environ.get("FIRN_FAULTS") == "all"
ONLY = os.environ.get("FIRN_FAULTS_ONLY")
STALL_MS = int(os.environ.get("FIRN_FAULTS_STALL_MS", "1500"))
LANES = int(os.environ.get("FIRN_FAULTS_LANES", "5"))
"""Grounds at work at once; those of stalls, which mostly wait, come beside them."""

Outcomes = dict[Cell, str]


def chosen() -> list[Cell]:
    if ONLY:
        return [cell for cell in ALL if str(cell) == ONLY]
    return ALL if WHOLE else representative()


@pytest.fixture(scope="module")
def outcomes(stack: Stack, lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Outcomes, list[str]]]:
    """What came of each chosen cell, and what went wrong."""
    cells, folder = chosen(), tmp_path_factory.mktemp("faults")
    assert cells, f"there is no cell {ONLY!r}; one is named like {ALL[0]}"
    seen: Outcomes = {}
    wrong: list[str] = []
    columns = itertools.product(MODES, CATALOGS)
    apart = (False, True) if WHOLE else (False,)
    lanes = [
        [c for c in cells if (c.mode, c.catalog) == column and (not WHOLE or (c.action == "stall") == stalls)]
        for column, stalls in itertools.product(columns, apart)
    ]
    with RestServer(folder / "rest") as rest, ThreadPoolExecutor(LANES) as pool, ThreadPoolExecutor(len(MODES) * len(CATALOGS)) as idle:
        for number, lane in enumerate(lane for lane in lanes if lane):
            place = Place(lane[0].catalog, stack, lake, rest, folder / f"lane-{number}")
            (idle if WHOLE and lane[0].action == "stall" else pool).submit(run_lane, lane, place, seen, wrong)
    yield seen, wrong


def run_lane(cells: list[Cell], place: Place, seen: Outcomes, wrong: list[str]) -> None:
    """Cells of one column; after one that went wrong the next ones are tried on a new ground."""
    left = list(cells)
    while left:
        doing = "the beginning"
        try:
            with Ground(place, cells[0].mode, place.folder / f"ground-{len(left)}", STALL_MS) as ground:
                while left:
                    doing = str(cell := left.pop(0))
                    seen[cell] = ground.meet(cell).outcome()
                    print(f"{cell}: {seen[cell]}", flush=True)
                doing = "the end"
        except BaseException:
            wrong.append(f"{place.catalog}, {cells[0].mode}, {doing}:\n{traceback.format_exc(limit=-4)}")
            print(wrong[-1], flush=True)
            if doing == "the beginning":
                return


def test_every_promise_holds_after_every_fault(outcomes: tuple[Outcomes, list[str]]) -> None:
    seen, wrong = outcomes
    assert not wrong, "\n\n".join(wrong)
    assert set(seen) == set(chosen())


def test_the_published_page_says_what_was_seen(outcomes: tuple[Outcomes, list[str]]) -> None:
    seen, wrong = outcomes
    if WHOLE and not wrong and os.environ.get("FIRN_E2E_WRITE_DOCS") == "1":
        PAGE.write_text(page.written(seen, STALL_MS))
    published = page.read(PAGE.read_text())
    differing = [f"{cell}: seen '{outcome}', published '{published.get(cell)}'" for cell, outcome in seen.items() if published.get(cell) != outcome]
    assert not differing, "docs/faults.md is not what was seen: make faults writes it\n" + "\n".join(differing)


def test_the_published_page_has_no_empty_cell() -> None:
    published = page.read(PAGE.read_text())
    assert set(published) == {Cell(*names) for names in itertools.product(STEPS, WHENS, ACTIONS, MODES, CATALOGS)}
    for cell, outcome in published.items():
        assert outcome, f"{cell} is empty"
        assert (outcome == page.NO_STEP) == (absent(cell.step, cell.mode, cell.catalog) is not None), cell


def test_the_representative_cells_meet_every_pair() -> None:
    """Each step with each fault; each mode and each catalog with each step and each fault that it can have."""
    cells = representative()
    fault = lambda c: (c.when, c.action)  # noqa: E731
    assert {(c.step, *fault(c)) for c in cells} == set(itertools.product(STEPS, WHENS, ACTIONS))
    for name, of in (("step", lambda c: c.step), ("fault", fault)):
        for with_ in ("mode", "catalog"):
            pair = lambda c, of=of, with_=with_: (of(c), getattr(c, with_))  # noqa: E731
            missing = {pair(c) for c in ALL} - {pair(c) for c in cells}
            assert not missing, f"{name} and {with_}: {missing}"


def test_a_worker_that_ends_takes_the_process_with_it(trial: Trial) -> None:
    """Whoever restarts processes has to see it; its partitions would go to the other worker, and nobody would know why it is slow."""
    trial.kafka.create(trial.topic(), partitions=2)
    Items(trial.kafka, trial.topic()).put(items(range(50)))
    config = sqlite_config(trial.stack, trial.folder, topics=[trial.topic()], namespace=trial.name, group=trial.name)
    config["kafka"]["workers"] = 2
    firn = trial.firn(config)
    armed = trial.folder / "armed"
    firn.environment["FIRN_FAILPOINTS"] = str(armed)
    with firn:
        firn.wait_until_it_says("committed", trial.table())
        armed.write_text("poll.before=error\n")
        assert firn.exit_code(within_s=30) == 4, firn.tail()
        firn.wait_until_it_says("error:", "kafka", within_s=1)


def test_a_wrong_failpoint_is_refused_with_the_names(stack: Stack, tmp_path: Path) -> None:
    config = sqlite_config(stack, tmp_path, topics=["t"], namespace="n", group="g")
    firn = Firn(stack, tmp_path, config)
    firn.environment["FIRN_FAILPOINTS"] = str(tmp_path / "armed")
    (tmp_path / "armed").write_text("swop.after=crash\n")
    answer = firn.command("run")
    assert answer.returncode == 2, answer.stderr
    assert all(step in answer.stderr for step in STEPS), answer.stderr
