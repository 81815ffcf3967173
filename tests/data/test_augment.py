import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.data.augment import Augmentation, Canvases, augment, draw_choices
from cifar_hapi.errors import RecipeError


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def augmented(images, augmentation, *, indices=None, epoch=0, stream=0, seed=0, **more):
    indices = np.arange(len(images)) if indices is None else indices
    rng = np.random.default_rng(stream)
    choices = draw_choices(images.shape[1:3], indices, epoch, rng, augmentation, seed=seed)
    return augment(images, choices, augmentation, **more)


def windows_one_by_one(image, padding, mode):
    """Every window of the padded image, each pixel looked up on its own."""
    height, width = image.shape[:2]

    def pixel(row, column):
        if mode == "zero" and not (0 <= row < height and 0 <= column < width):
            return (0, 0, 0)
        return image[mirrored(row, height), mirrored(column, width)]

    return [
        [[pixel(row, column) for column in range(left, left + width)] for row in range(top, top + height)]
        for top in range(-padding, padding + 1)
        for left in range(-padding, padding + 1)
    ]


def mirrored(place, size):
    """Where a place outside of 0..size-1 lies when the border pixels are mirrors."""
    while not 0 <= place < size:
        place = -place if place < 0 else 2 * (size - 1) - place
    return place


@given(
    height=st.integers(2, 5),
    width=st.integers(2, 5),
    padding=st.integers(1, 3),
    mode=st.sampled_from(["reflect", "zero"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_a_crop_is_a_window_of_the_padded_image(height, width, padding, mode, seed):
    images = random_images(3, height, width, seed=seed)

    crops = augmented(images, Augmentation(crop_padding=padding, padding_mode=mode), stream=seed)

    assert crops.shape == images.shape and crops.dtype == np.uint8
    for image, crop in zip(images, crops, strict=True):
        assert crop.tolist() in np.array(windows_one_by_one(image, padding, mode)).tolist()


def test_crops_take_every_window_about_equally_often():
    image = random_images(1, 4, 4)

    crops = augmented(image.repeat(9000, axis=0), Augmentation(crop_padding=1, padding_mode="zero"))

    windows, counts = np.unique(crops.reshape(9000, -1), axis=0, return_counts=True)
    assert len(windows) == 9
    assert counts.min() > 850 and counts.max() < 1150


def test_a_random_flip_mirrors_half_of_the_images_left_to_right():
    images = random_images(1000, 4, 6)

    result = augmented(images, Augmentation(flip="random"))

    flipped = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (result == images).all(axis=(1, 2, 3))
    assert np.all(flipped ^ same)
    assert 440 < flipped.sum() < 560


@given(epoch=st.integers(0, 50), seed=st.integers(0, 2**40), order=st.permutations(range(12)))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_alternating_flips_show_both_orientations_in_two_epochs(epoch, seed, order):
    images, indices = random_images(12, 3, 4), np.array(order)
    alternating = Augmentation(flip="alternating")

    first = augmented(images, alternating, epoch=epoch, seed=seed, stream=1)
    second = augmented(images[indices], alternating, indices=indices, epoch=epoch + 1, seed=seed, stream=2)

    for image, one, other in zip(images[indices], first[indices], second, strict=True):
        mirror_image = image[:, ::-1]
        assert {one.tobytes(), other.tobytes()} == {image.tobytes(), mirror_image.tobytes()}


def test_alternating_flips_start_with_half_of_the_images_and_depend_on_the_seed():
    images = random_images(1000, 2, 2)

    flipped = [
        (augmented(images, Augmentation(flip="alternating"), seed=seed) != images).any(axis=(1, 2, 3))
        for seed in (0, 1)
    ]

    assert 440 < flipped[0].sum() < 560
    assert 400 < (flipped[0] ^ flipped[1]).sum() < 600


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_cutout_fills_a_square_around_a_pixel_cut_off_at_the_border(side):
    height, width, fill = 5, 7, (9, 8, 7)
    images = np.zeros((2000, height, width, 3), np.uint8)

    result = augmented(images, Augmentation(cutout=side), fill=fill)

    squares = set()
    for row in range(height):
        for column in range(width):
            top, left = row - side // 2, column - side // 2
            expected = images[0].copy()
            expected[max(top, 0) : top + side, max(left, 0) : left + side] = fill
            squares.add(expected.tobytes())
    assert {image.tobytes() for image in result} == squares


def test_cutout_leaves_the_rest_of_the_image_alone():
    images = random_images(50, 6, 6) // 2

    result = augmented(images, Augmentation(cutout=3), fill=(255, 255, 255))

    outside = (result != 255).any(axis=-1)
    assert np.array_equal(result[outside], images[outside])
    assert (~outside).sum(axis=(1, 2)).max() == 9


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip="random"),
        Augmentation(flip="alternating"),
        Augmentation(cutout=2),
        Augmentation(crop_padding=2, padding_mode="zero", flip="random", cutout=2),
    ],
)
def test_the_input_is_left_as_it_was(augmentation):
    images = random_images(20, 4, 5)
    before = images.copy()

    result = augmented(images, augmentation)

    assert np.array_equal(images, before)
    assert not np.shares_memory(result, images)
    assert np.array_equal(result, images) == (augmentation == Augmentation())


def test_the_generator_decides():
    images, everything = random_images(8, 6, 6), Augmentation(crop_padding=2, flip="random", cutout=2)

    first, again, other = (augmented(images, everything, stream=stream) for stream in (5, 5, 6))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"crop_padding": -1}, r"augment\.crop_padding is -1"),
        ({"cutout": -4}, r"augment\.cutout is -4"),
        ({"padding_mode": "edge"}, r"augment\.padding_mode is 'edge': it must be reflect or zero"),
        ({"flip": "both"}, r"augment\.flip is 'both'"),
    ],
)
def test_what_cannot_be_is_refused(keys, message):
    with pytest.raises(RecipeError, match=message):
        Augmentation(**keys)


@given(
    size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    padding=st.integers(0, 3),
    mode=st.sampled_from(["reflect", "zero"]),
    flip=st.sampled_from(["none", "random", "alternating"]),
    cutout=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_canvases_of_a_set_give_the_pixels_that_each_batch_alone_would(size, padding, mode, flip, cutout, seed):
    images = random_images(7, *size, seed=seed)
    augmentation = Augmentation(crop_padding=padding, padding_mode=mode, flip=flip, cutout=cutout)
    indices = np.random.default_rng(seed).permutation(7)[:5]
    choices = draw_choices(size, indices, 0, np.random.default_rng(seed), augmentation)

    canvases = Canvases(images, augmentation)

    expected = augment(images[indices], choices, augmentation, fill=(7, 8, 9))
    assert np.array_equal(canvases.augment(indices, choices, fill=(7, 8, 9)), expected)
    assert canvases._pixels.nbytes == Canvases.size(images.shape, augmentation)
