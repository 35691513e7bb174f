"""Shim, coil and noise: what they must take off, leave, and keep."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from deepmir.physics.scanner import complex_noise, receive_field, shim_field, smooth_field

_SPEC = importlib.util.spec_from_file_location(
    "libraries", Path(__file__).with_name("libraries.py")
)
libraries = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(libraries)

SHAPE = (20, 24, 18)
CENTRE = np.pad(np.ones((1, 1, 1)), 1)


def quadratic() -> np.ndarray:
    i, j, k = (np.indices(SHAPE) - 9.0) / 9
    return 1 + 2 * i - j + 0.5 * k + i * j - 0.7 * k**2 + 0.2 * i**2 + 0.5 * j**2


def test_a_second_order_field_is_shimmed_away():
    where = np.zeros(SHAPE, bool)
    where[4:16, 3:20, 5:15] = True
    field = quadratic()
    assert shim_field(field, where) == pytest.approx(field, abs=1e-4)


def test_what_lies_outside_the_mask_does_not_count():
    where = np.zeros(SHAPE, bool)
    where[4:16, 3:20, 5:15] = True
    spoiled = np.where(where, quadratic(), 1e3)
    assert shim_field(spoiled, where) == pytest.approx(quadratic(), abs=1e-4)


def test_shim_coils_make_no_source_inside():
    field = ((np.indices(SHAPE) - 9.0) ** 2).sum(axis=0)
    shim = shim_field(field, np.ones(SHAPE, bool))
    laplacian = ndimage.convolve(shim, ndimage.generate_binary_structure(3, 1) - 7.0 * CENTRE)
    assert laplacian[1:-1, 1:-1, 1:-1] == pytest.approx(0, abs=1e-6)


def test_a_smooth_field_passes_through_its_knots():
    lattice = np.random.default_rng(0).normal(size=(4, 5, 3))
    image = smooth_field(lattice, (13, 17, 9))
    assert image[::4, ::4, ::4] == pytest.approx(lattice, abs=1e-9)
    assert image == pytest.approx(ndimage.zoom(lattice, (13 / 4, 17 / 5, 3)), abs=1e-6)


def test_a_coil_of_strength_zero_turns_phase_only():
    bias, phase = np.random.default_rng(1).normal(size=(2, 4, 4, 4))
    coil = receive_field(bias, phase, SHAPE, strength=0.0, turn_rad=0.5)
    assert np.abs(coil) == pytest.approx(1)
    assert np.angle(coil[0, 0, 0]) == pytest.approx(0.5 * phase[0, 0, 0])


def test_noise_has_its_level_in_both_parts():
    real, imaginary = np.random.default_rng(2).normal(size=(2, 40, 40, 40))
    noise = complex_noise(real, imaginary, level=0.2)
    assert [noise.real.std(), noise.imag.std()] == pytest.approx([0.2, 0.2], rel=0.02)
    assert abs(np.mean(noise**2)) < 0.002  # circular: both parts alike and independent


@pytest.mark.parametrize("name", libraries.NAMES)
def test_every_library_gives_the_same(name):
    xp = libraries.library(name)
    bias, phase = np.random.default_rng(3).normal(size=(2, 4, 4, 4))
    coil = receive_field(
        *(xp.asarray(part, dtype=xp.float32) for part in (bias, phase)),
        SHAPE,
        strength=0.2,
        turn_rad=0.7,
    )
    assert coil.dtype == xp.complex64
    here = receive_field(bias, phase, SHAPE, strength=0.2, turn_rad=0.7)
    assert np.abs(libraries.to_numpy(coil) - here).max() < 1e-5
    field = xp.asarray(quadratic(), dtype=xp.float32)
    where = xp.asarray(quadratic() > 0)
    assert libraries.to_numpy(shim_field(field, where)) == pytest.approx(quadratic(), abs=1e-3)
