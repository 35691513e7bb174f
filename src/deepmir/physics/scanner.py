"""What a scanner adds to the field and the signal: shim, receive coil, noise."""

import array_api_compat
import numpy as np
from scipy import ndimage

from deepmir.physics.arrays import Array, along_axis, as_like, complex_of, namespace, real_dtype


def shim_field(field_ppm: Array, where: Array, *, every: int = 3) -> Array:
    """Second-order field that shimming takes off: the polynomial that fits best inside a mask.

    Parameters
    ----------
    field_ppm : (I, J, K) array
    where : (I, J, K) bool array
        What is shimmed, as a rule the brain.
    every : int
        Only every so-manieth voxel along each axis is fitted.
    """
    xp = namespace(field_ppm)
    axes = [
        along_axis(as_like((np.arange(n) - n / 2) / (n / 2), field_ppm), axis)
        for axis, n in enumerate(field_ppm.shape)
    ]
    terms = [xp.ones_like(axes[0]), *axes]
    terms += [axes[a] * axes[b] for a in range(3) for b in range(a, 3)]
    thin = (slice(None, None, every),) * 3
    chosen = xp.astype(where[thin], real_dtype(field_ppm))
    columns = [
        xp.reshape(chosen * xp.broadcast_to(term, field_ppm.shape)[thin], (-1,)) for term in terms
    ]
    matrix = xp.astype(xp.stack(columns, axis=1), xp.float64)
    target = xp.astype(xp.reshape(chosen * field_ppm[thin], (-1, 1)), xp.float64)
    square = xp.matmul(matrix.T, matrix) + 1e-9 * xp.eye(
        len(terms), dtype=xp.float64, device=array_api_compat.device(field_ppm)
    )
    weights = xp.linalg.solve(square, xp.matmul(matrix.T, target))
    total = xp.zeros_like(field_ppm)
    for n, term in enumerate(terms):
        total = total + float(weights[n, 0]) * term
    return total


def smooth_field(lattice: Array, shape: tuple[int, int, int]) -> Array:
    """Cubic spline through the knots of a small lattice (A, B, C), drawn over an image.

    First and last knots lie on the first and last voxels.
    """
    xp = namespace(lattice)
    out = lattice
    for axis, (n, knots) in enumerate(zip(shape, lattice.shape, strict=True)):
        # The spline through a unit knot is that knot's weight at every voxel.
        weights = ndimage.zoom(np.eye(knots), (n / knots, 1), order=3)[:n]
        out = xp.tensordot(as_like(weights, lattice), out, axes=((1,), (axis,)))
        out = xp.moveaxis(out, 0, axis)
    return out


def receive_field(
    bias: Array, phase: Array, shape: tuple[int, int, int], *, strength: float, turn_rad: float
) -> Array:
    """Complex sensitivity of a receive coil: exp(strength · bias) · exp(i · turn · phase).

    Parameters
    ----------
    bias, phase : (A, B, C) arrays
        Knots of the smooth fields, standard normal where they are drawn at random.
    """
    xp = namespace(bias)
    magnitude = xp.exp(strength * smooth_field(bias, shape))
    angle = turn_rad * smooth_field(phase, shape)
    return complex_of(magnitude * xp.cos(angle), magnitude * xp.sin(angle))


def complex_noise(real: Array, imaginary: Array, *, level: float) -> Array:
    """Noise of a quadrature receiver: `level` times two images of standard normal numbers."""
    return complex_of(level * real, level * imaginary)
