"""Batches of normalised images, made ahead in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache

import numpy as np

from cifar_hapi.data.augment import Augmentation, Canvases, Choices, augment, draw_choices
from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.data.normalisation import DataFormat, normalise
from cifar_hapi.data.resize import resize
from cifar_hapi.distributed.shares import share
from cifar_hapi.errors import DataError, RecipeError

Batch = tuple[np.ndarray, np.ndarray]


class BatchLoader:
    """Yields batches (images, labels), and is a loader that paddle.Model accepts.

    images: float32 [B, C, H, W] or [B, H, W, C]; labels: int64 [B]. Every random choice is a pure function of
    (seed, epoch, step): a loader that starts at step k of an epoch yields what it would have yielded there.
    Each iteration is one epoch, and the next iteration is the next epoch.

    image_size: side in pixels that the images of a batch are brought to (as `resize` does), before they are augmented;
    None leaves them as they are. The set itself is never resized: 50,000 images of 224x224 take 7.5 GB. small_size: the
    side to which they are shrunk in the first `small_epochs` epochs, after they are augmented. mean, std: one number a
    channel, in units where pixels span [0, 1]. shuffle: a new order every epoch; else that of the set.
    drop_last: leave out the last batch of an epoch where it is short. prefetch: how many batches one thread makes
    ahead; 0 makes them in line. Cutout is filled with the mean colour. rank, ranks: where so many processes share each
    batch, which of them this loader is for; it yields that part of what a single process would have, in the same order.

    Raises DataError for a set without images, RecipeError for arguments that cannot be.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        image_size: int | None = None,
        augmentation: Augmentation | None = None,
        small_size: int | None = None,
        small_epochs: int = 0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        data_format: DataFormat = "NCHW",
        prefetch: int = 2,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.image_set = image_set
        self.batch_size = batch_size
        sides = image_set.images.shape[1:3]
        self.resized = image_size is not None and sides != (image_size, image_size)
        self.sides = sides if image_size is None else (image_size, image_size)
        self.augmentation = augmentation
        self.small_size = small_size
        self.small_epochs = small_epochs
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.data_format = data_format
        self.prefetch = prefetch
        self.rank = rank
        self.ranks = ranks
        self._check()
        self._next_epoch, self._next_step = 0, 0

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        whole, rest = divmod(len(self.image_set), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        return self.every(1)

    def every(self, nth: int, first: int = 0) -> Iterator[Batch]:
        """As an iteration, but of every `nth` step only, from the `first` one on."""
        epoch, steps = self._next_epoch, range(self._next_step, len(self))[first::nth]
        self.set_epoch(epoch + 1)
        return self._ahead(epoch, steps) if self.prefetch else (self.batch(epoch, step) for step in steps)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Make the next iteration that of `epoch`, from `first_step` on; those after it are whole again."""
        if epoch < 0 or not 0 <= first_step <= len(self):
            raise RecipeError(
                f"epoch {epoch}, step {first_step}: epochs count from 0, and one has {len(self)} steps here"
            )
        self._next_epoch, self._next_step = epoch, first_step

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step, both counted from 0; new arrays at each call."""
        indices = self._order(epoch)[self._share(step)]
        images = self._augmented(indices, epoch, step) if self.augmentation else self._gathered(indices)
        if small := self._small_in(epoch):
            images = resize(images, small)
        return normalise(images, self.mean, self.std, self.data_format), self.image_set.labels[indices]

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """The places in the set of the images of one step, int64 [B]; of all processes, where several share it."""
        return self._order(epoch)[self._part(step)]

    def choices(self, epoch: int, step: int) -> Choices:
        """What chance decides for the images of one step; of all processes, where several share it."""
        indices = self.indices(epoch, step)
        rng = _generator(self.seed, _AUGMENTATION, epoch, step)
        return draw_choices(self.sides, indices, epoch, rng, self.augmentation or Augmentation(), seed=self.seed)

    @property
    def fill(self) -> np.ndarray:
        """The colour of cutout, uint8 [C]."""
        return np.rint(255 * np.asarray(self.mean)).astype(np.uint8)

    def _augmented(self, indices: np.ndarray, epoch: int, step: int) -> np.ndarray:
        part, own = self._part(step), self._share(step)
        choices = self.choices(epoch, step).of(slice(own.start - part.start, own.stop - part.start))
        if epoch and self._canvases:  # to make them takes as long as the padding of one epoch: not for a single one
            return self._canvases.augment(indices, choices, fill=self.fill)
        return augment(self._gathered(indices), choices, self.augmentation or Augmentation(), fill=self.fill)

    def _small_in(self, epoch: int) -> int | None:
        """The side to which images are shrunk in this epoch, None where they are not."""
        return self.small_size if epoch < self.small_epochs else None

    def _gathered(self, indices: np.ndarray) -> np.ndarray:
        images = self.image_set.images.take(indices, axis=0)
        return resize(images, self.sides[0]) if self.resized else images

    @cached_property
    def _canvases(self) -> Canvases | None:
        """Made when they are first asked for; None where images are resized, mapped, or too large to be kept."""
        images, augmentation = self.image_set.images, self.augmentation or Augmentation()
        if not isinstance(images, np.ndarray) or self.resized or Canvases.size(images.shape, augmentation) > _KEPT:
            return None
        return Canvases(images, augmentation)

    def _part(self, step: int) -> slice:
        """Which of an epoch's images, in its order, are those of one step."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step}: an epoch has {len(self)}, counted from 0")
        return slice(step * self.batch_size, min((step + 1) * self.batch_size, len(self.image_set)))

    def _share(self, step: int) -> slice:
        """Which of them are this rank's."""
        part = self._part(step)
        own = share(part.stop - part.start, self.rank, self.ranks)
        return slice(part.start + own.start, part.start + own.stop)

    def _order(self, epoch: int) -> np.ndarray:
        size = len(self.image_set)
        return _shuffled(size, self.seed, epoch) if self.shuffle else np.arange(size)

    def _ahead(self, epoch: int, steps: range) -> Iterator[Batch]:
        """The batches of `steps`, `prefetch` of them under way; leaving the iteration ends the thread."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch-loader") as thread:
            batches: deque[Future[Batch]] = deque()
            for step in steps:
                batches.append(thread.submit(self.batch, epoch, step))
                if len(batches) > self.prefetch:
                    yield batches.popleft().result()
            while batches:
                yield batches.popleft().result()

    def _check(self) -> None:
        shape = self.image_set.images.shape
        if not len(self.image_set):
            raise DataError("the image set is empty: there is nothing to load")
        if self.batch_size < 1:
            raise RecipeError(f"batch_size is {self.batch_size}: it must be 1 or more")
        if self.drop_last and self.batch_size > shape[0]:
            raise RecipeError(
                f"batch_size is {self.batch_size}, and drop_last leaves no batch of {shape[0]} images: "
                f"make it {shape[0]} or less"
            )
        whole, rest = divmod(shape[0], self.batch_size)
        least = self.batch_size if whole and (self.drop_last or not rest) else rest
        if self.ranks > least:
            raise RecipeError(
                f"batch_size is {self.batch_size}: {self.ranks} processes cannot share a batch of {least}; "
                "take larger batches, or fewer processes"
            )
        if not len(self.mean) == len(self.std) == shape[-1]:
            raise RecipeError(f"mean {self.mean}, std {self.std}: each needs {shape[-1]} numbers, one a channel")
        if not all(0 <= value <= 1 for value in self.mean) or not all(value > 0 for value in self.std):
            raise RecipeError(
                f"mean {self.mean}, std {self.std}: in units where pixels span [0, 1], means lie in it "
                "and standard deviations are above 0"
            )
        if self.data_format not in ("NCHW", "NHWC"):
            raise RecipeError(f"data_format is {self.data_format!r}: it must be NCHW or NHWC")
        if min(self.sides) < 1:
            raise RecipeError(f"image_size is {self.sides[0]}: it must be 1 or more")
        if self.small_size is not None and not 1 <= self.small_size < min(self.sides):
            raise RecipeError(f"small_size is {self.small_size}: it must be 1 or more, and below {min(self.sides)}")
        if self.seed < 0 or self.prefetch < 0:
            raise RecipeError(f"seed is {self.seed}, prefetch {self.prefetch}: neither may be negative")


_KEPT = 512 * 2**20  # bytes of canvases; those of CIFAR with the usual crops take 240 million
_ORDER, _AUGMENTATION = range(2)  # streams of random numbers that share nothing


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=stream)))


@lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, epoch: int) -> np.ndarray:
    order = _generator(seed, _ORDER, epoch).permutation(size)
    order.flags.writeable = False
    return order
