"""A compaction beside a writer, struck at each of its steps: nothing is lost, nothing comes twice, the next one goes on. What came of it is
docs/faults-compaction.md.

Without FIRN_FAULTS=all a part is tried; FIRN_FAULTS_ONLY names one cell.
"""

import os
from itertools import groupby
from pathlib import Path

import pytest

from faults import compaction
from faults.catalogs import Place
from faults.compaction import Cell, CompactedGround
from harness.lake import Lake
from harness.rest import RestServer
from harness.stack import ROOT, Stack

PAGE = ROOT / "docs" / "faults-compaction.md"
STALL_MS = int(os.environ.get("FIRN_FAULTS_STALL_MS", "1500"))


@pytest.fixture(scope="module")
def outcomes(stack: Stack, lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, str]:
    folder = tmp_path_factory.mktemp("compaction-faults")
    seen: dict[Cell, str] = {}
    # A ground of its own for each step: on a longer one old metadata would fall off the table's log.
    grounds = groupby(sorted(compaction.chosen(), key=lambda cell: (cell.catalog, cell.step)), key=lambda cell: (cell.catalog, cell.step))
    with RestServer(folder / "rest") as rest:
        for (catalog, step), cells in grounds:
            place = Place(catalog, stack, lake, rest, folder / f"{catalog}-{step}")
            place.folder.mkdir()
            with CompactedGround(place, "upsert", place.folder / "ground", STALL_MS) as ground:
                for cell in cells:
                    seen[cell] = ground.strike(cell)
                    print(f"{cell}: {seen[cell]}", flush=True)
    return seen


def test_every_promise_holds_after_every_fault_of_a_compaction(outcomes: dict[Cell, str]) -> None:
    assert set(outcomes) == set(compaction.chosen())
    if os.environ.get("FIRN_E2E_WRITE_DOCS") == "1":
        published = compaction.read(PAGE.read_text()) if PAGE.exists() else {}
        Path(PAGE).write_text(compaction.written(published | outcomes))
    published = compaction.read(PAGE.read_text())
    differing = [f"{cell}: seen '{outcome}', published '{published.get(cell)}'" for cell, outcome in outcomes.items() if published.get(cell) != outcome]
    assert not differing, "docs/faults-compaction.md is not what was seen\n" + "\n".join(differing)
