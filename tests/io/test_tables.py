"""Tables: exact text, refusals, and that what is written is read back."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.errors import InputError
from deepmir.io.tables import Column, cell_text, read_table, table_text, write_table

COLUMNS = (
    Column("finding", "What it is", levels={"CMB": "cerebral microbleed"}),
    Column("volume_mm3", "Volume", units="mm^3", decimals=2),
    Column("mean_chi_ppm", "Mean susceptibility", units="ppm"),
    Column("counted", "Whether it counts"),
)


def test_a_table_and_its_dictionary_are_written(tmp_path):
    rows = [("CMB", 3.14159, 0.1 + 0.2, True), ("IRON", -0.001, None, False)]
    write_table(tmp_path / "t.tsv", COLUMNS, rows)
    assert (tmp_path / "t.tsv").read_text() == (
        "finding\tvolume_mm3\tmean_chi_ppm\tcounted\nCMB\t3.14\t0.3\ttrue\nIRON\t0.00\tn/a\tfalse\n"
    )
    dictionary = json.loads((tmp_path / "t.json").read_text())
    assert list(dictionary) == [column.name for column in COLUMNS]
    assert dictionary["volume_mm3"] == {"Description": "Volume", "Units": "mm^3"}
    assert dictionary["finding"]["Levels"] == {"CMB": "cerebral microbleed"}


def test_a_table_is_read_back(tmp_path):
    write_table(tmp_path / "t.tsv", COLUMNS, [("CMB", 1, None, True)])
    table = read_table(tmp_path / "t.tsv")
    assert table.rows == (("CMB", "1.00", None, "true"),)
    assert table.column("mean_chi_ppm") == (None,)
    with pytest.raises(InputError, match=r"no column 'size'; its columns are finding"):
        table.column("size")


def test_a_table_without_rows_is_its_header(tmp_path):
    write_table(tmp_path / "t.tsv", COLUMNS, [])
    assert read_table(tmp_path / "t.tsv").rows == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        ("", "n/a"),
        ("a\tb\nc", "a b c"),
        (math.nan, "n/a"),
        (0.0, "0"),
        (-0.0, "0"),
        (1e-9, "1e-09"),
        (1234567.0, "1.23457e+06"),
        (12345678, "12345678"),
        (np.int64(12345678), "12345678"),
        (np.float32(0.5), "0.5"),
    ],
)
def test_cells_have_one_spelling(value, text):
    assert cell_text(value) == text


def test_an_infinite_number_or_a_short_row_is_refused():
    with pytest.raises(ValueError, match="infinite"):
        cell_text(math.inf)
    with pytest.raises(ValueError, match="a row has 1 values, wanted 4"):
        table_text(COLUMNS, [("CMB",)])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"a\tb\n1\n", "line 2 of .* has 1 values, wanted 2"), (b"\xff", "UTF-8")],
)
def test_what_is_no_table_is_refused(tmp_path, content, said):
    path = tmp_path / "t.tsv"
    with pytest.raises(InputError, match=r"cannot read the table .*No such file"):
        read_table(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_table(path)


@given(st.lists(st.tuples(st.floats(allow_infinity=False), st.integers(), st.text(max_size=20))))
def test_every_row_stays_one_line_of_as_many_cells(rows):
    columns = [Column(name, "d") for name in "abc"]
    lines = table_text(columns, rows).removesuffix("\n").split("\n")
    assert len(lines) == len(rows) + 1
    assert all(len(line.split("\t")) == 3 for line in lines)
    assert [int(line.split("\t")[1]) for line in lines[1:]] == [row[1] for row in rows]
