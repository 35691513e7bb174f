"""What a scanner adds to the field and the signal: shim, receive coil, noise."""

import array_api_compat
import numpy as np
from scipy import ndimage

from deepmir.physics.arrays import Array, along_axis, as_like, complex_of, namespace, real_dtype


def shim_field(field_ppm: Array, where: Array, *, every: int = 3) -> Array:
    """Field of shim coils that takes the most off inside a mask: all orders up to the second.

    Coils lie outside the head, so what they make has no sources there: second orders are xy, yz,
    zx, x² − y² and 2z² − x² − y², of Laplacian 0. A polynomial with all squares free has a source
    everywhere, which no background removal could tell from susceptibility.

    Parameters
    ----------
    field_ppm : (I, J, K) array
        On voxels as long along one axis as along the others.
    where : (I, J, K) bool array
        What is shimmed, as a rule the brain.
    every : int
        Only every so-manieth voxel along each axis is fitted.
    """
    xp = namespace(field_ppm)
    half = max(field_ppm.shape) / 2
    x, y, z = (
        along_axis(as_like((np.arange(n) - n / 2) / half, field_ppm), axis)
        for axis, n in enumerate(field_ppm.shape)
    )
    terms = [xp.ones_like(x), x, y, z, x * y, y * z, z * x, x**2 - y**2, 2 * z**2 - x**2 - y**2]
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
