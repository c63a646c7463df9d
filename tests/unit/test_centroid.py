import numpy as np

from shared.science.centroid import windowed_centroids

X, Y = 30.37, 33.61


def star(sigma=1.6, side=64):
    rows, columns = np.mgrid[:side, :side]
    return (1000 * np.exp(-((columns - X) ** 2 + (rows - Y) ** 2) / (2 * sigma**2))).astype(np.float32)


def test_centre_of_a_star():
    x, y = windowed_centroids(star(), np.array([31.0]), np.array([33.0]), 3.8)
    assert abs(x[0] - X) < 0.002
    assert abs(y[0] - Y) < 0.002


def test_scatter_is_that_of_the_photons():
    random = np.random.default_rng(1)
    found = []
    for _ in range(200):
        x, y = windowed_centroids(
            star() + random.normal(0, 10, (64, 64)).astype(np.float32), np.array([30.0]), np.array([34.0]), 3.8
        )
        found.append((x[0] - X, y[0] - Y))
    scatter = np.std(found, axis=0)
    # S/N of a matched filter is 1000 / 10 * sqrt(pi) * sigma: sigma / (S/N), and no better
    best = 1.6 / (100 * np.sqrt(np.pi) * 1.6)
    assert (scatter > 0.8 * best).all()
    assert (scatter < 2.0 * best).all()
    assert (np.abs(np.mean(found, axis=0)) < 4 * best / np.sqrt(200)).all()


def test_masked_and_infinite_pixels_are_left_out():
    image = star()
    image[33, 36] = 1e6
    image[30, 30] = np.nan
    mask = np.zeros(image.shape, bool)
    mask[33, 36] = True
    x, y = windowed_centroids(image, np.array([30.0]), np.array([34.0]), 3.8, mask)
    assert np.hypot(x[0] - X, y[0] - Y) < 0.1


def test_what_does_not_settle_stays():
    x, y = windowed_centroids(np.zeros((20, 20), np.float32), np.array([5.0, -30.0]), np.array([6.0, 8.0]), 3.0)
    np.testing.assert_array_equal(x, [5.0, -30.0])
    np.testing.assert_array_equal(y, [6.0, 8.0])
    x, y = windowed_centroids(star(), np.array([X + 6]), np.array([Y]), 3.0)
    assert (x[0], y[0]) == (X + 6, Y)
