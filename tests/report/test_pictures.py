"""Pictures: what is drawn where, and that one window serves the whole page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from deepmir.report.cuts import Plane
from deepmir.report.findings import (
    anchor_voxels,
    choose_slices,
    finding_picture,
    locator,
    overview,
)
from deepmir.report.layers import brain_frame, layers, window_of
from deepmir.report.picture import Panel, Window, compose
from deepmir.report.quality import REGION_COLOURS, brain_picture, registration_picture
from deepmir.volume import Modality, Volume


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_panels_are_laid_out_in_rows():
    grey = Panel(np.full((20, 30), 200, dtype=np.uint8))
    colour = Panel(np.full((10, 30, 3), (250, 0, 0), dtype=np.uint8))
    picture = compose([[grey, grey], [colour]], "a picture")
    assert (picture.width, picture.height) == (64, 34)
    assert [(placed.x, placed.y) for placed in picture.panels] == [(0, 0), (34, 0), (0, 24)]
    pixels = decoded(picture.uri)
    assert pixels.shape == (34, 64, 3)
    assert pixels[10, 10] == pytest.approx([200, 200, 200], abs=6)
    assert pixels[30, 12, 0] > pixels[30, 12, 1] + 100


def test_window_maps_its_ends_to_black_and_white():
    grey = Window(-0.2, 0.2).grey(np.array([-1.0, -0.2, 0.0, 0.2, 9.0], dtype=np.float32))
    assert grey.tolist() == [0, 0, 127, 255, 255]


def test_chi_has_a_window_of_fixed_width_around_the_brain():
    data = np.full((4, 5, 6), 0.05, dtype=np.float32)
    brain = np.ones(data.shape, dtype=bool)
    window = window_of(Volume(data, np.eye(4), Modality.CHIMAP), brain)
    assert (window.low, window.high) == pytest.approx((-0.15, 0.25))
    empty = window_of(Volume(data * 0, np.eye(4), Modality.SWI), ~brain)
    assert (empty.low, empty.high) == (0.0, 1.0)


def test_layers_name_their_windows(view):
    titles = [layer.window_text for layer in layers(view)]
    assert titles[1].startswith("QSM −0.20 to +0.20 ppm")
    assert [title[:3] for title in titles] == ["SWI", "QSM", "T2w"]


def test_anchor_is_a_voxel_of_its_finding(view):
    anchors = anchor_voxels(view)
    assert set(anchors) == {1, 2, 3, 4}
    assert all(view.measured.instances[anchor] == index for index, anchor in anchors.items())
    assert anchors[2] == (30, 30, 12)


def test_finding_picture_shows_three_planes_of_every_scan(view):
    lesion = view.lesions[0]
    shown = layers(view)
    picture = finding_picture(view, lesion, anchor=anchor_voxels(view)[1], shown=shown)
    assert len(picture.panels) == 9
    assert [placed.panel.title for placed in picture.panels[:4]] == [
        "SWI · axial",
        "SWI · coronal",
        "SWI · sagittal",
        "QSM",
    ]
    panel = picture.panels[0].panel
    assert (panel.crosshair.x, panel.crosshair.y) == pytest.approx((120, 120), abs=1)
    assert panel.outlines[-1].kind == "cmb own"
    assert panel.bar_px == pytest.approx(60)
    assert panel.pixels[120, 120] < 60 < panel.pixels[200, 120]


def test_overview_rings_every_finding_once(view):
    picture = overview(view, layers(view)[0], anchors=anchor_voxels(view))
    marks = [mark for placed in picture.panels for mark in placed.panel.marks]
    assert sorted(mark.text for mark in marks) == ["1", "2", "3", "4"]
    assert {mark.link for mark in marks} == {f"#finding-{n}" for n in (1, 2, 3, 4)}
    by_title = {placed.panel.title: placed.panel for placed in picture.panels}
    assert [mark.text for mark in by_title["slice 13"].marks] == ["2"]
    assert len(picture.panels) == 12


def test_overview_keeps_findings_that_have_no_slice_of_their_own():
    chosen = choose_slices(range(100), slice(0, 100))
    assert len(chosen) == 30
    assert (chosen[0], chosen[-1]) == (0, 99)
    assert choose_slices([], slice(3, 6)) == [3, 4, 5]


def test_locator_shows_the_field_around_the_finding(view):
    picture = locator(view, layers(view)[0], anchor=(30, 30, 12))
    (placed,) = picture.panels
    frame = brain_frame(view, Plane.AXIAL, width_px=230, square=False)
    assert placed.panel.crosshair.x == pytest.approx(
        frame.pixel(*Plane.AXIAL.place(np.array([30.0, 30, 12]), (40, 48, 20)))[0]
    )
    assert placed.panel.title == "slice 13"
    assert placed.panel.outlines[0].kind == "field"


def test_brain_picture_colours_the_regions_that_are_there(view):
    picture = brain_picture(view, layers(view)[0])
    assert picture.legend == ((REGION_COLOURS[9], "frontal"), (REGION_COLOURS[22], "putamen"))
    outlined, coloured = picture.panels[0].panel, picture.panels[3].panel
    assert outlined.outlines[0].kind == "brain"
    assert coloured.pixels.shape == (*outlined.pixels.shape, 3)
    red, green, blue = coloured.pixels[115, 180].astype(int)
    assert red > green
    assert red > blue


def test_registration_picture_takes_squares_of_both(view):
    swi, _, t2w = layers(view)
    picture = registration_picture(view, swi, t2w)
    checked = picture.panels[0].panel.pixels
    below = brain_picture(view, swi).panels[0].panel.pixels
    above = brain_picture(view, t2w).panels[0].panel.pixels
    assert np.array_equal(checked[:28, :28], below[:28, :28])
    assert np.array_equal(checked[:28, 28:56], above[:28, 28:56])
    assert picture.panels[3].panel.pixels.ndim == 3


def test_an_empty_brain_mask_still_gives_pictures(view_of):
    view = view_of("swi", findings=np.zeros((40, 48, 20), dtype=np.uint8))
    view.brain_mask[:] = False
    view.regions[:] = 0
    assert len(brain_picture(view, layers(view)[0]).panels) == 6
    assert len(overview(view, layers(view)[0], anchors={}).panels) == 12
