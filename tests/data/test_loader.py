import threading
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hapi.data.augment import Augmentation, augment
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.loader import BatchLoader
from cifar_hapi.data.normalisation import normalise
from cifar_hapi.data.resize import resize
from cifar_hapi.errors import DataError, RecipeError

EVERYTHING = Augmentation(crop_padding=1, flip="random", cutout=2)


def numbered(count, height=4, width=4):
    """A set whose labels are the places of the images."""
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(count), ("only",))


def labels_of(batches):
    return np.concatenate([labels for _, labels in batches]).tolist()


def as_bytes(batches):
    return [(images.tobytes(), labels.tobytes()) for images, labels in batches]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batch-loader")]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 50])
def test_evaluation_yields_every_image_once_and_in_order(prefetch):
    image_set = numbered(10, height=3, width=5)

    batches = list(BatchLoader(image_set, 4, data_format="NHWC", prefetch=prefetch))

    images, labels = map(np.concatenate, zip(*batches, strict=True))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert images.dtype == np.float32 and labels.dtype == np.int64
    assert labels.tolist() == list(range(10))
    np.testing.assert_allclose(images, image_set.images / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 100, False, [3]),
        (3, 3, True, [3]),
    ],
)
def test_the_length_is_the_number_of_batches(count, batch_size, drop_last, sizes):
    loader = BatchLoader(numbered(count), batch_size, shuffle=True, drop_last=drop_last)

    assert [len(labels) for _, labels in loader] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_each_iteration_is_another_permutation_of_the_set(prefetch):
    loader = BatchLoader(numbered(40), 16, shuffle=True, prefetch=prefetch)

    epochs = [labels_of(loader) for _ in range(3)]

    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_random_choices_are_the_same_with_every_numpy():
    """A run begun with one NumPy and resumed with another relies on it; NumPy itself doesn't promise it."""
    loader = BatchLoader(numbered(8), 8, augmentation=EVERYTHING, shuffle=True, seed=7, data_format="NHWC")

    images, labels = loader.batch(2, 0)

    assert labels.tolist() == [5, 2, 4, 3, 6, 0, 1, 7]
    assert crc32(np.rint(images * 255).astype(np.uint8)) == 2787637346


def test_the_seed_decides_order_and_augmentation():
    def first_batch(seed, **more):
        return as_bytes([BatchLoader(numbered(20), 20, seed=seed, **more).batch(0, 0)])

    for more in ({"shuffle": True}, {"augmentation": EVERYTHING}):
        assert first_batch(1, **more) == first_batch(1, **more)
        assert first_batch(1, **more) != first_batch(2, **more)


def test_augmentation_differs_between_epochs_and_steps():
    same_image = ImageSet(numbered(1).images.repeat(64, axis=0), np.zeros(64, np.int64), ("only",))
    loader = BatchLoader(same_image, 32, augmentation=EVERYTHING)

    distinct = {loader.batch(epoch, step)[0].tobytes() for epoch in range(3) for step in range(2)}

    assert len(distinct) == 6


def test_alternating_flips_follow_the_image_through_the_shuffled_epochs():
    image_set = numbered(30)
    loader = BatchLoader(image_set, 8, augmentation=Augmentation(flip="alternating"), shuffle=True, seed=5)

    shown = {place: set() for place in range(30)}
    for _ in range(2):
        for images, labels in loader:
            for image, place in zip(images, labels.tolist(), strict=True):
                shown[place].add(image.tobytes())

    plain, _ = BatchLoader(image_set, 30).batch(0, 0)
    for place, image in enumerate(plain):
        assert shown[place] == {image.tobytes(), image[:, :, ::-1].tobytes()}


@given(
    count=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    epoch=st.integers(0, 4),
    prefetch=st.integers(0, 3),
    data=st.data(),
)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_an_epoch_entered_at_step_k_is_the_tail_of_the_whole(count, batch_size, epoch, prefetch, data):
    def new_loader(prefetch):
        return BatchLoader(
            numbered(count), batch_size, augmentation=EVERYTHING, shuffle=True, seed=3, prefetch=prefetch
        )

    uninterrupted, resumed = new_loader(2), new_loader(prefetch)
    first_step = data.draw(st.integers(0, len(resumed)))
    for _ in range(epoch):
        labels_of(uninterrupted)

    resumed.set_epoch(epoch, first_step)

    assert as_bytes(resumed) == as_bytes(uninterrupted)[first_step:]
    assert as_bytes(resumed) == as_bytes(uninterrupted)


def test_an_abandoned_iteration_still_moves_on_to_the_next_epoch():
    loader, reference = (BatchLoader(numbered(20), 4, shuffle=True) for _ in range(2))

    next(iter(loader))

    reference.set_epoch(1)
    assert labels_of(loader) == labels_of(reference)


def test_two_iterations_at_once_do_not_disturb_each_other():
    loader = BatchLoader(numbered(20), 4, shuffle=True)
    alone = [labels_of(loader), labels_of(loader)]

    loader.set_epoch(0)
    pairs = list(zip(loader, loader, strict=True))

    assert [labels_of(batches) for batches in zip(*pairs, strict=True)] == alone


def test_mean_and_std_are_applied_to_each_channel_and_cutout_becomes_zero():
    image_set = numbered(6)
    loader = BatchLoader(image_set, 6, augmentation=Augmentation(cutout=100), mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    plain = BatchLoader(image_set, 6, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3), data_format="NHWC")

    np.testing.assert_allclose(loader.batch(0, 0)[0], 0, atol=1e-6)
    expected = (image_set.images / 255 - (0.2, 0.4, 0.6)) / (0.1, 0.2, 0.3)
    np.testing.assert_allclose(plain.batch(0, 0)[0], expected, atol=1e-5)


def test_images_of_the_first_epochs_are_shrunk_after_they_are_augmented_and_later_ones_are_not():
    options = {"augmentation": EVERYTHING, "shuffle": True, "seed": 3, "data_format": "NHWC"}
    whole, loader = (
        BatchLoader(numbered(8), 8, **options),
        BatchLoader(numbered(8), 8, small_size=2, small_epochs=2, **options),
    )

    for epoch in range(4):
        (images, labels), (expected, expected_labels) = loader.batch(epoch, 0), whole.batch(epoch, 0)
        if epoch < 2:
            pixels = np.rint(255 * expected).astype(np.uint8)
            expected = normalise(resize(pixels, 2), loader.mean, loader.std, "NHWC")
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_the_layouts_are_transposes_of_each_other():
    nchw, nhwc = (
        BatchLoader(numbered(9, 3, 5), 9, augmentation=EVERYTHING, data_format=name).batch(0, 0)[0]
        for name in ("NCHW", "NHWC")
    )

    assert nchw.shape == (9, 3, 3, 5)
    assert np.array_equal(nchw.transpose(0, 2, 3, 1), nhwc)


def test_batches_are_made_ahead_in_one_thread():
    made = []

    class Recording(BatchLoader):
        def batch(self, epoch, step):
            made.append((step, threading.current_thread().name))
            return super().batch(epoch, step)

    batches = iter(Recording(numbered(20), 2, prefetch=3))
    next(batches)
    batches.close()  # waits for the thread

    assert [step for step, _ in made] == [0, 1, 2, 3]
    assert {name for _, name in made} == {"batch-loader_0"}


def test_leaving_an_iteration_ends_its_thread():
    for _ in BatchLoader(numbered(20), 2):
        assert len(loader_threads()) == 1
        break

    assert loader_threads() == []


def test_an_error_in_the_consumer_ends_the_thread():
    def consume():
        for _ in BatchLoader(numbered(20), 2):
            raise RuntimeError("the step failed")

    with pytest.raises(RuntimeError, match="the step failed"):
        consume()

    assert loader_threads() == []


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_in_the_making_of_a_batch_surfaces_at_its_step(prefetch):
    class Failing(BatchLoader):
        def batch(self, epoch, step):
            if step == 3:
                raise OSError("disk gone")
            return super().batch(epoch, step)

    seen = []
    with pytest.raises(OSError, match="disk gone"):
        for _, labels in Failing(numbered(20), 2, prefetch=prefetch):
            seen.append(labels.tolist())

    assert seen == [[0, 1], [2, 3], [4, 5]]
    assert loader_threads() == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        (
            {"batch_size": 11, "drop_last": True},
            "batch_size is 11, and drop_last leaves no batch of 10 images",
        ),
        ({"mean": (0.5,)}, "each needs 3 numbers"),
        ({"mean": (125.3, 123.0, 113.9)}, "pixels span"),
        ({"std": (0.2, 0.0, 0.2)}, "pixels span"),
        ({"data_format": "CHWN"}, "data_format is 'CHWN'"),
        ({"seed": -1}, "seed is -1"),
        ({"prefetch": -1}, "prefetch -1"),
        ({"small_size": 4}, "small_size is 4: it must be 1 or more, and below 4"),
        ({"small_size": 0}, "small_size is 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(more, message):
    with pytest.raises(RecipeError, match=message):
        BatchLoader(numbered(10), **{"batch_size": 4, **more})


def test_an_empty_set_is_refused():
    with pytest.raises(DataError, match="empty"):
        BatchLoader(numbered(0), 4)


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (0, 4)])
def test_a_place_outside_of_the_epoch_is_refused(place):
    loader = BatchLoader(numbered(10), 4)

    with pytest.raises(RecipeError, match=f"epoch {place[0]}, step {place[1]}: .* 3 steps"):
        loader.set_epoch(*place)


@pytest.mark.parametrize("step", [-1, 3])
def test_a_step_outside_of_the_epoch_has_no_batch(step):
    with pytest.raises(IndexError, match=f"step {step}"):
        BatchLoader(numbered(10), 4).batch(0, step)


@pytest.mark.parametrize("kept, kept_them", [(2**20, True), (0, False)])
def test_batches_are_the_same_with_canvases_and_for_a_set_too_large_for_them(monkeypatch, kept, kept_them):
    monkeypatch.setattr("cifar_hapi.data.loader._KEPT", kept)
    augmentation = Augmentation(crop_padding=1, flip="random", cutout=2)
    loader = BatchLoader(numbered(12), 5, augmentation=augmentation, shuffle=True, prefetch=0)

    for epoch in range(2):
        for step in range(3):
            alone = augment(
                loader.image_set.images[loader.indices(epoch, step)], loader.choices(epoch, step), augmentation
            )
            expected = normalise(alone, loader.mean, loader.std, "NCHW")
            assert np.array_equal(loader.batch(epoch, step)[0], expected)

    assert ("_canvases" in vars(loader) and loader._canvases is not None) == kept_them


@given(count=st.integers(1, 40), batch_size=st.integers(1, 12), ranks=st.integers(1, 5), drop_last=st.booleans())
@settings(deadline=None, derandomize=True)
def test_ranks_share_the_very_batches_of_one(count, batch_size, ranks, drop_last):
    options = {"augmentation": EVERYTHING, "shuffle": True, "seed": 3, "prefetch": 0}
    drop_last = drop_last and count >= batch_size
    alone = BatchLoader(numbered(count), batch_size, drop_last=drop_last, **options)
    try:
        shared = [
            BatchLoader(numbered(count), batch_size, drop_last=drop_last, rank=rank, ranks=ranks, **options)
            for rank in range(ranks)
        ]
    except RecipeError as error:
        assert min(len(labels) for _, labels in alone) < ranks and f"{ranks} processes cannot share" in str(error)
        return
    for epoch in range(2):  # the second is augmented from canvases
        for step in range(len(alone)):
            parts = [loader.batch(epoch, step) for loader in shared]
            sizes = [len(part) for part in np.array_split(np.arange(len(alone.batch(epoch, step)[1])), ranks)]
            assert [len(labels) for _, labels in parts] == sizes
            together = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
            assert as_bytes([together]) == as_bytes([alone.batch(epoch, step)])


def test_steps_can_be_dealt_out():
    loader = BatchLoader(numbered(10), 2)
    assert labels_of(loader.every(3)) == [0, 1, 6, 7] and labels_of(loader.every(3, 1)) == [2, 3, 8, 9]
    loader.set_epoch(0, 2)
    assert labels_of(loader.every(2, 1)) == [6, 7]
    assert list(loader.every(7, 6)) == []
