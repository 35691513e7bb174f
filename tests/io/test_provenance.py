"""Provenance: what is recorded, and that the same run gives the same text."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

from deepmir.config import Config, as_dict
from deepmir.errors import InputError
from deepmir.io.provenance import (
    Provenance,
    StageTime,
    StageTimer,
    WeightsUsed,
    checksum,
    describe_input,
    describe_software,
    peak_memory_bytes,
    provenance_text,
)
from deepmir.volume import Notice


@pytest.fixture
def provenance(tmp_path):
    scan = tmp_path / "scan-ü.nii"
    scan.write_bytes(b"scan")
    return Provenance(
        subject="01",
        command_line=("deepmir", "segment", "--swi", "scan-ü.nii"),
        started="2026-01-02T03:04:05+00:00",
        inputs=(describe_input("swi", scan),),
        config=Config(),
        weights=WeightsUsed("released", "1", "abc"),
        software=describe_software(),
        stages=(StageTime("read", 0.25),),
        peak_memory_bytes=1,
        notices=(Notice("read", "told"),),
    )


def test_the_record_holds_everything(provenance, tmp_path):
    record = json.loads(provenance_text(provenance))
    assert record["inputs"] == [
        {
            "path": str(tmp_path / "scan-ü.nii"),
            "role": "swi",
            "sha256": hashlib.sha256(b"scan").hexdigest(),
            "size_bytes": 4,
        }
    ]
    assert record["config"] == as_dict(Config())
    assert record["weights"] == {"name": "released", "sha256": "abc", "version": "1"}
    assert record["software"]["dependencies"]["numpy"] == np.__version__
    assert record["stages"] == [{"seconds": 0.25, "stage": "read"}]
    assert record["notices"] == [{"level": "warning", "message": "told", "stage": "read"}]
    assert set(record) == {field.name for field in dataclasses.fields(Provenance)}


def test_the_text_is_sorted_and_the_same_each_time(provenance):
    text = provenance_text(provenance)
    assert text == provenance_text(dataclasses.replace(provenance))
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert json.loads(provenance_text(dataclasses.replace(provenance, weights=None)))
    assert text.endswith("}\n")


def test_an_unreadable_input_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nothing\.nii: No such file"):
        checksum(tmp_path / "nothing.nii")
    with pytest.raises(InputError, match="Is a directory"):
        describe_input("swi", tmp_path)


def test_absent_dependencies_are_left_out():
    software = describe_software(("numpy", "no-such-package-anywhere"))
    assert set(software.dependencies) == {"numpy"}
    assert re.fullmatch(r"3\.\d+\.\d+.*", software.python)
    assert software.deepmir
    assert software.platform


def test_stages_are_timed_also_when_they_fail():
    timer = StageTimer()
    with timer.stage("read"):
        pass
    with pytest.raises(RuntimeError), timer.stage("segment"):
        raise RuntimeError
    assert [stage.stage for stage in timer.stages] == ["read", "segment"]
    assert all(0 <= stage.seconds < 1 for stage in timer.stages)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", timer.started)


def test_peak_memory_is_in_bytes_and_never_falls():
    before = peak_memory_bytes()
    block = np.ones(30_000_000, dtype=np.uint8)
    assert 30_000_000 < before <= peak_memory_bytes() < 1e12
    assert block.all()
