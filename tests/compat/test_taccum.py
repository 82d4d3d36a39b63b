"""vl_taccum: sums of arrays and numbers."""

import numpy as np
import pytest
import torch

from matconvnet.compat.taccum import vl_taccum

A, B = np.array([[1.0, 2.0]]), np.array([[10.0], [20.0]])


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_the_sum_has_the_shape_of_a(kind):
    a, b = kind(A), kind(B)
    y = vl_taccum(2, a, 0.5, b)
    assert type(y) is type(a)
    assert y.tolist() == [[7.0, 14.0]]
    assert a.tolist() == A.tolist()


def test_numbers_are_added_to_every_element():
    assert vl_taccum(1, A, -1, 0).tolist() == A.tolist()  # state 0, as solvers begin
    assert vl_taccum(3, 2.0, 1, torch.from_numpy(B)).tolist() == [[16.0], [26.0]]
    assert vl_taccum(1, torch.ones(1, 1), 1, torch.ones(3, 2, dtype=torch.float64)).shape == (3, 2)
    assert vl_taccum(3, 2.0, 1, 4) == 10


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"b has shape \(2,\); wanted that of a, \(3,\)"):
        vl_taccum(1, np.ones(3), 1, np.ones(2))
    with pytest.raises(TypeError, match="a and b are float64 and float32"):
        vl_taccum(1, A, 1, A.astype("f4"))
