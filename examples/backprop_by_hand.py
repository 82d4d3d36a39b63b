"""Back-propagation by hand: two exercises with the blocks, vl_simplenn, and central differences.

python examples/backprop_by_hand.py
"""

import numpy as np

import matconvnet as mcn


def relative_difference(a, b):
    """Largest difference, relative to the largest value."""
    return np.abs(a - b).max() / np.abs(b).max()


def central_difference(objective, array, index, step=1e-5):
    """Derivative of `objective()` with respect to one element of `array`, numerically."""
    kept = array[index]
    array[index] = kept + step
    up = objective()
    array[index] = kept - step
    down = objective()
    array[index] = kept
    return (up - down) / (2 * step)


def conv_relu():
    """Exercise 1: z = <p, relu(conv(x, w, b))>, differentiated block by block."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 12, 3, 2))  # H x W x C x N: two images of three channels
    w = rng.standard_normal((5, 5, 3, 4))  # four filters
    b = rng.standard_normal(4)

    # Forward: each block computes a value from a value.
    y = mcn.vl_nnconv(x, w, b, "pad", 2)
    z = mcn.vl_nnrelu(y)

    # A projection p makes a scalar of the output, <p, z>: the derivative of a scalar with respect
    # to a tensor is a tensor of the same size.
    p = rng.standard_normal(z.shape)

    # Backward: each block, given the derivative of <p, z> with respect to its output, returns it
    # with respect to its inputs. The output of one call is the input of the next.
    dzdy = mcn.vl_nnrelu(y, p)
    dzdx, dzdw, dzdb = mcn.vl_nnconv(x, w, b, dzdy, "pad", 2)

    # The same by vl_simplenn, which does just this, layer by layer.
    net = {"layers": [{"type": "conv", "weights": [w, b], "pad": 2}, {"type": "relu"}]}
    res = mcn.vl_simplenn(net, x, p)
    print("Conv + ReLU: by hand against vl_simplenn")
    print(f"  dzdx {relative_difference(dzdx, res[0].dzdx):.1e}")
    print(f"  dzdw {relative_difference(dzdw, res[0].dzdw[0]):.1e}")
    print(f"  dzdb {relative_difference(dzdb, res[0].dzdw[1]):.1e}")

    # And numerically: move one element a little, and see how <p, z> moves.
    def objective():
        return np.sum(p * mcn.vl_nnrelu(mcn.vl_nnconv(x, w, b, "pad", 2)))

    print("  one element of each, analytic and numeric")
    for name, array, der, index in (
        ("x", x, dzdx, (3, 4, 1, 0)),
        ("w", w, dzdw, (0, 2, 1, 3)),
        ("b", b, dzdb, (2,)),
    ):
        numeric = central_difference(objective, array, index)
        print(f"    d{name}{list(index)}: {der[index]:.8f} {numeric:.8f}")


def conv_relu_conv():
    """Exercise 2: the same filter bank in both convolutions; its two derivatives add up."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((8, 8, 4, 2))
    w = rng.standard_normal((3, 3, 4, 4))  # as many filters as channels: it fits both times

    y1 = mcn.vl_nnconv(x, w, [], "pad", 1)
    y2 = mcn.vl_nnrelu(y1)
    y3 = mcn.vl_nnconv(y2, w, [], "pad", 1)
    p = rng.standard_normal(y3.shape)

    # The last convolution reads y2 and w, and so does <p, y3> through it ...
    dzdy2, dzdw_last, _ = mcn.vl_nnconv(y2, w, [], p, "pad", 1)
    dzdy1 = mcn.vl_nnrelu(y1, dzdy2)
    # ... and once more through the first. A change of w acts on both paths: the derivative is the
    # sum. Assigning both to one name, as a listing copied twice does, keeps the first path alone.
    dzdx, dzdw_first, _ = mcn.vl_nnconv(x, w, [], dzdy1, "pad", 1)
    dzdw = dzdw_first + dzdw_last

    # vl_simplenn keeps one derivative per layer; both layers hold the same bank, so add them.
    conv = {"type": "conv", "weights": [w, []], "pad": 1}
    net = {"layers": [conv, {"type": "relu"}, dict(conv)]}
    res = mcn.vl_simplenn(net, x, p)
    total = res[0].dzdw[0] + res[2].dzdw[0]
    print("Conv + ReLU + Conv with one bank: by hand against vl_simplenn")
    print(f"  dzdx {relative_difference(dzdx, res[0].dzdx):.1e}")
    print(f"  dzdw {relative_difference(dzdw, total):.1e}")

    def objective():
        first = mcn.vl_nnrelu(mcn.vl_nnconv(x, w, [], "pad", 1))
        return np.sum(p * mcn.vl_nnconv(first, w, [], "pad", 1))

    index = (1, 0, 2, 3)
    numeric = central_difference(objective, w, index)
    print(f"  dw{list(index)}")
    print(f"    central difference      {numeric:14.8f}")
    print(f"    sum of both paths       {dzdw[index]:14.8f}")
    print(f"    overwritten (a mistake) {dzdw_first[index]:14.8f}")


if __name__ == "__main__":
    conv_relu()
    print()
    conv_relu_conv()
