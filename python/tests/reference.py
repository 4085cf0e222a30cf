"""What calls should give, in NumPy and double precision."""

import numpy as np


def inputs(rank, shape, seed=0):
    """Small integers: sums are exact in every order and dtype."""
    generator = np.random.default_rng(1000 * seed + rank)
    return generator.integers(-4, 5, shape).astype(np.float32)


def total(size, shape, seed=0):
    return sum(inputs(rank, shape, seed) for rank in range(size))


def rmsnorm(x, gamma, eps=1e-6, bias=0.0):
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * (gamma.astype(np.float64) + bias)


def e4m3(byte):
    """The value of an FP8 e4m3 byte."""
    byte = np.asarray(byte).astype(np.int64)
    exponent, fraction = (byte >> 3) & 15, byte & 7
    value = np.where(
        exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0)
    )
    return np.where(byte & 128, -value, value)
