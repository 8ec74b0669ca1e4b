"""One small finished run, measured and reported once for all tests of the report."""

from __future__ import annotations

import pytest
from synthetic_pool import synthetic_pool

from reasoning.comparisons import compare
from reasoning.curves import all_curves, measure_pool
from reasoning.iso_compute import iso_compute
from reasoning.pool import Pool
from reasoning.report import write_report


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    synthetic_pool(folder, problems=48, chains=16).close()
    return folder


@pytest.fixture(scope="session")
def written(run_folder):
    with Pool.open(run_folder, read_only=True) as pool:
        return write_report(
            run_folder,
            pool,
            oracle="numeric",
            scorers=["learned"],
            title="A <finished> run",
            seconds={"base@0": 12.4},
        )


@pytest.fixture(scope="session")
def measured(run_folder):
    with Pool.open(run_folder, read_only=True) as pool:
        return measure_pool(pool, oracle="numeric", scorers=["learned"])


@pytest.fixture(scope="session")
def curves(measured):
    return all_curves(measured)


@pytest.fixture(scope="session")
def comparisons(measured):
    return compare(measured)


@pytest.fixture(scope="session")
def iso(measured):
    return iso_compute(measured)
