"""Planes: which way they lie, how frames are drawn, outlines along voxel edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from deepmir.report.cuts import Frame, Plane, outline_path, sample

SHAPE = (5, 6, 7)


def marked(i: int, j: int, k: int) -> np.ndarray:
    data = np.zeros(SHAPE)
    data[i, j, k] = 1
    return data


def whole(rows: int, columns: int, zoom: int = 10) -> Frame:
    return Frame(0, 0, rows, columns, rows * zoom, columns * zoom)


@pytest.mark.parametrize(
    ("plane", "voxel", "index", "corner"),
    [
        (Plane.AXIAL, (4, 5, 3), 3, (0, 0)),  # right and front: upper left
        (Plane.AXIAL, (0, 5, 3), 3, (0, -1)),  # left and front: upper right
        (Plane.CORONAL, (4, 2, 6), 2, (0, 0)),  # right and top: upper left
        (Plane.CORONAL, (4, 2, 0), 2, (-1, 0)),  # right and bottom: lower left
        (Plane.SAGITTAL, (1, 5, 6), 1, (0, 0)),  # front and top: upper left
        (Plane.SAGITTAL, (1, 0, 6), 1, (0, -1)),  # back and top: upper right
    ],
)
def test_pictures_are_radiological(plane, voxel, index, corner):
    cut = plane.cut(marked(*voxel), index)
    assert cut[corner] == 1
    assert cut.sum() == 1
    assert plane.letters in {"RL", "AP"}


@pytest.mark.parametrize("plane", Plane)
def test_a_voxels_place_is_where_the_cut_shows_it(plane):
    voxel = (1, 4, 2)
    cut = plane.cut(marked(*voxel), voxel[plane.slice_axis])
    row, column = plane.place(np.array(voxel, dtype=float), SHAPE)
    assert cut[int(row), int(column)] == 1
    assert (row % 1, column % 1) == (0.5, 0.5)


def test_spacing_follows_rows_and_columns():
    steps = (0.5, 0.75, 2.0)
    assert [plane.spacing(steps) for plane in Plane] == [(0.75, 0.5), (2.0, 0.5), (2.0, 0.75)]


def test_frame_is_centred_and_in_millimetres():
    frame = Frame.around((3.5, 2.5), field_mm=(8.0, 8.0), cell_mm=(2.0, 0.5), pixels_per_mm=10)
    assert (frame.height, frame.width) == (80, 80)
    assert (frame.cells_down, frame.cells_across) == (4.0, 16.0)
    assert frame.pixel(3.5, 2.5) == pytest.approx((40, 40))


def test_sampling_keeps_a_constant_and_fills_outside():
    drawn = sample(np.full((4, 4), 7.0), Frame(-4, 0, 8, 4, 80, 40), fill=1.0, smooth=False)
    assert drawn.shape == (80, 40)
    assert set(np.unique(drawn)) == {1.0, 7.0}
    assert (drawn[45:] == 7.0).all()
    assert (drawn[:35] == 1.0).all()


def test_sampling_wholly_outside_gives_the_fill():
    drawn = sample(np.ones((4, 4)), Frame(50, 50, 4, 4, 8, 8), fill=0.5)
    assert drawn == pytest.approx(0.5)


def test_one_voxel_is_outlined_along_its_edges():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2] = True
    path = outline_path(mask, whole(4, 5))
    assert path == "M20.0 10.0h10.0M20.0 20.0h10.0M20.0 10.0v10.0M30.0 10.0v10.0"


def test_runs_are_one_stroke_and_nothing_is_an_empty_path():
    assert outline_path(np.ones((2, 3), dtype=bool), whole(2, 3)).count("M") == 4
    assert outline_path(np.zeros((2, 3), dtype=bool), whole(2, 3)) == ""
    far = Frame(100, 100, 2, 2, 20, 20)
    assert outline_path(np.ones((2, 3), dtype=bool), far) == ""


def test_an_outline_is_not_closed_where_the_frame_cuts_it():
    mask = np.ones((20, 20), dtype=bool)
    assert outline_path(mask, Frame(8, 8, 4, 4, 40, 40)).count("M") == 4  # outside the frame
    for step in outline_path(mask, Frame(8, 8, 4, 4, 40, 40)).split("M")[1:]:
        x, y = (float(value) for value in step.split("h")[0].split("v")[0].split())
        assert min(x, y) < 0 or max(x, y) > 40


@given(hnp.arrays(bool, (5, 6)))
@settings(deadline=None, max_examples=60)
def test_outline_length_is_the_number_of_border_edges(mask):
    path = outline_path(mask, whole(5, 6, zoom=1))
    lengths = [float(step.replace("v", "h").split("h")[1]) for step in path.split("M")[1:]]
    padded = np.pad(mask, 1)
    edges = (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    assert sum(lengths) == edges
