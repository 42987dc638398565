"""The table of seeded faults matches the code; `make test-faults` runs it."""

import re

import pytest
from checkout import PROJECT
from seeded_faults import FAULTS

from realnet.registry import STAGES


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_fits_the_code_and_names_an_existing_test(fault):
    assert (PROJECT / fault.path).read_text("utf-8").count(fault.old) == 1
    file, _, name = fault.test.partition("::")
    text = (PROJECT / "tests" / file).read_text("utf-8")
    assert not name or re.search(rf"^def {name}\(", text, re.M)
    assert not name or not re.search(rf"^@pytest.mark.slow\n(@.*\n)*def {name}\(", text, re.M)


def test_names_are_unique():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_every_stage_has_a_fault():
    assert {*STAGES, "report", "tracking"} <= {fault.name.partition(":")[0] for fault in FAULTS}
