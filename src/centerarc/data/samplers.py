"""Samplers: the order and frequency of images in an epoch."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from centerarc.data.source import FaceSource, as_source

Indices = npt.NDArray[np.int64]

# Each purpose draws from a stream of its own: (seed, epoch, stream).
_ORDER, _REST = 0, 16


class Sampler(Protocol):
    """Chooses the images of an epoch.

    The order is a function of seed and epoch alone: every process works it out and takes its part
    of each batch, and a run that resumes in the middle of an epoch needs no state.

    Attributes:
        note: What a user should know about it, in a line; empty if nothing.
        batch_size: N that the order was made for; None if any will do.
    """

    @property
    def note(self) -> str: ...

    @property
    def batch_size(self) -> int | None: ...

    def __len__(self) -> int:
        """Returns the number of images in an epoch, the same in each."""
        ...

    def order(self, seed: int, epoch: int) -> Indices:
        """Returns `(len,)` image numbers; batch b of N takes those from b N to (b + 1) N."""
        ...


def image_weights(source: FaceSource) -> npt.NDArray[np.float64]:
    """Returns `(len,)`, how often an epoch shows each image: the source's weights, or 1."""
    weights = as_source(source).weights
    return np.ones(len(source)) if weights is None else weights


class Shuffled:
    """Every image once an epoch, in random order; or as often as the source's weights say.

    A weight of 2 shows an image twice an epoch, one of 0.5 in every other epoch: a source's images
    of one weight take turns, so that none comes a third time before all came twice. How many of
    them an epoch shows is rounded to whole images.

    Args:
        source: A source; its `weights` count if it has any (`MixedSource`).
        distinct: The loader's batch size N, to deal an epoch's images out so that an identity
            comes into a batch once, as long as it has no more images than the epoch has batches;
            then the paper's center update sees each center once a step. None shuffles freely.

    Raises:
        ValueError: If there is no full batch to keep identities apart in.
    """

    def __init__(self, source: FaceSource, *, distinct: int | None = None) -> None:
        weights = image_weights(source)
        self._labels = source.labels
        self._groups = [_Group(weight, weights) for weight in np.unique(weights)]
        self._size = sum(len(group) for group in self._groups)
        self.batch_size = distinct
        self._distinct = distinct
        self.note = ""
        if distinct is not None:
            self._batches = self._size // distinct
            if self._batches < 1:
                raise ValueError(
                    f"an epoch has {self._size} images, too few for one batch of {distinct} in "
                    f"which people are distinct; batch_size must be at most {self._size}"
                )
            counts = np.bincount(self._labels, weights=weights)
            crowded = int((counts > self._batches).sum())
            if crowded:
                self.note = (
                    f"{crowded} people have more images than an epoch has batches "
                    f"({self._batches}), so these come more than once into a batch"
                )

    def __len__(self) -> int:
        return self._size

    def order(self, seed: int, epoch: int) -> Indices:
        """Returns the epoch's image numbers; see `Sampler`."""
        rng = np.random.default_rng((seed, epoch, _ORDER))
        if len(self._groups) == 1 and self._groups[0].whole == 1 and not self._groups[0].rest:
            chosen = rng.permutation(self._size)
        else:
            chosen = np.concatenate([group.chosen(seed, epoch) for group in self._groups])
            rng.shuffle(chosen)
        if self._distinct is None:
            return chosen
        return _dealt(chosen, self._labels, self._batches, self._distinct, rng)


class _Group:
    """The images of one weight."""

    def __init__(self, weight: float, weights: npt.NDArray[np.float64]) -> None:
        self.images = np.flatnonzero(weights == weight)
        self.whole = int(weight)
        self.rest = round((weight - self.whole) * len(self.images))

    def __len__(self) -> int:
        return self.whole * len(self.images) + self.rest

    def chosen(self, seed: int, epoch: int) -> Indices:
        """The images that this epoch shows, those of a whole weight as often as it says."""
        parts = [self.images[:0], *[self.images] * self.whole]
        # The rest walks through one permutation after the other, epoch by epoch.
        first, last = epoch * self.rest, (epoch + 1) * self.rest
        size = len(self.images)
        while first < last:
            turn, begin = divmod(first, size)
            end = min(begin + last - first, size)
            stream = (seed, turn, _REST, int(self.images[0]))
            parts.append(self.images[np.random.default_rng(stream).permutation(size)[begin:end]])
            first += end - begin
        return np.concatenate(parts)


def _dealt(
    chosen: Indices,
    labels: npt.NDArray[np.int64],
    batches: int,
    batch_size: int,
    rng: np.random.Generator,
) -> Indices:
    """Deals shuffled images out to batches like cards, the images of an identity in a row.

    Sorted by identity, identities in random order, image i goes to batch i modulo the number of
    batches: neighbors never meet. Then batches, and the places in them, are shuffled.
    """
    dealt = chosen[: batches * batch_size]  # those left over were chosen at random
    turn = rng.permutation(int(labels.max()) + 1)
    dealt = dealt[np.argsort(turn[labels[dealt]], kind="stable")]
    table = dealt.reshape(batch_size, batches).T[rng.permutation(batches)]
    rest = chosen[batches * batch_size :]
    return np.concatenate([rng.permuted(table, axis=1).reshape(-1), rest])


class InBlocks:
    """Every image once an epoch, read in runs of neighbors.

    For shards or records on storage that is slow at random places. Blocks of consecutive images
    come in random order, and the images of `pool` blocks at a time are shuffled among each other.
    A block of one identity makes poor batches: pack such data with a shuffle first.

    Args:
        source: A source.
        block: Images in a block, at least 1; the last may have fewer.
        pool: Blocks shuffled together, at least 1.

    Raises:
        ValueError: If a size is out of range.
    """

    note = ""
    batch_size = None

    def __init__(self, source: FaceSource, *, block: int, pool: int = 16) -> None:
        for name, value in (("block", block), ("pool", pool)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._size = len(source)
        self._block = block
        self._pool = pool

    def __len__(self) -> int:
        return self._size

    def order(self, seed: int, epoch: int) -> Indices:
        """Returns the epoch's image numbers; see `Sampler`."""
        rng = np.random.default_rng((seed, epoch, _ORDER))
        begins = rng.permutation(np.arange(0, self._size, self._block))
        parts = []
        for first in range(0, len(begins), self._pool):
            blocks = begins[first : first + self._pool]
            images = (blocks[:, None] + np.arange(self._block)).reshape(-1)
            # Only the last block can be shorter, and it ends where the source does.
            parts.append(rng.permutation(images[images < self._size]))
        return np.concatenate(parts)


class Repeated:
    """One whole batch an epoch from fewer images than that: several epochs of another sampler.

    Where those have n images and a batch N, each image comes N / n times, rounded up or down.

    Args:
        sampler: The order of the images.
        batch_size: N, of all processes together.
    """

    def __init__(self, sampler: Sampler, batch_size: int) -> None:
        self._sampler = sampler
        self._turns = -(-batch_size // len(sampler))
        self.batch_size: int | None = batch_size
        self.note = (
            f"an epoch has {len(sampler)} images, fewer than a batch of {batch_size}, which shows "
            f"each up to {self._turns} times, changed otherwise each time. So an epoch is one "
            "step; more epochs or a smaller batch make more of them"
        )

    def __len__(self) -> int:
        assert self.batch_size is not None
        return self.batch_size

    def order(self, seed: int, epoch: int) -> Indices:
        """Returns the epoch's image numbers; see `Sampler`."""
        turns = range(epoch * self._turns, (epoch + 1) * self._turns)
        return np.concatenate([self._sampler.order(seed, turn) for turn in turns])[: len(self)]


class IdentityBatches:
    """P identities with K images each in every batch, as metric learning has it.

    Identities take turns: no one comes a second time before everyone has appeared once, and never
    twice in a batch. So do the images of an identity; one with fewer than K images repeats them.

    Args:
        source: A source.
        batch_size: N = P K, over all processes.
        images_per_identity: K, at least 1; it must divide N.

    Raises:
        ValueError: If K does not divide N, or there are fewer than P identities.
    """

    def __init__(self, source: FaceSource, *, batch_size: int, images_per_identity: int) -> None:
        if images_per_identity < 1 or batch_size % images_per_identity:
            raise ValueError(
                f"images_per_identity must divide batch_size {batch_size}, "
                f"got {images_per_identity}"
            )
        self.batch_size: int | None = batch_size
        self._people = batch_size // images_per_identity
        self._images = images_per_identity
        self._turns = _Turns(source)
        if self._people > len(source.identities):
            raise ValueError(
                f"a batch of {batch_size} with images_per_identity {images_per_identity} needs "
                f"{self._people} identities, but the source has {len(source.identities)}; "
                f"batch_size must be at most {len(source.identities) * images_per_identity}"
            )
        self._batches = max(len(source) // batch_size, 1)
        few = int((self._turns.counts < images_per_identity).sum())
        self.note = (
            f"{few} people have fewer than {images_per_identity} images, which come more than "
            "once into a batch"
            if few
            else ""
        )

    def __len__(self) -> int:
        return self._batches * self._people * self._images

    def order(self, seed: int, epoch: int) -> Indices:
        """Returns the epoch's image numbers; see `Sampler`."""
        rng = np.random.default_rng((seed, epoch, _ORDER))
        people = self._turns.people(self._batches * self._people, self._people, rng)
        return self._turns.images(people, self._images, rng)


class Balanced:
    """Every identity equally often, however many images it has.

    Identities come in turns, each with its next image: with as many draws an epoch as there are
    images, those of rare people come several times and those of frequent people not all.

    Args:
        source: A source.
    """

    note = ""
    batch_size = None

    def __init__(self, source: FaceSource) -> None:
        self._turns = _Turns(source)
        self._size = len(source)

    def __len__(self) -> int:
        return self._size

    def order(self, seed: int, epoch: int) -> Indices:
        """Returns the epoch's image numbers; see `Sampler`."""
        rng = np.random.default_rng((seed, epoch, _ORDER))
        return self._turns.images(self._turns.people(self._size, 1, rng), 1, rng)


class _Turns:
    """Identities that take turns, and the images of each that do."""

    def __init__(self, source: FaceSource) -> None:
        self._labels = source.labels
        self.counts = np.bincount(source.labels, minlength=len(source.identities))
        self._start = np.cumsum(self.counts) - self.counts
        self._with_images = np.flatnonzero(self.counts)

    def people(self, count: int, apart: int, rng: np.random.Generator) -> Indices:
        """Labels in turns; none comes twice among those from k `apart` to (k + 1) `apart`."""
        parts: list[Indices] = []
        drawn = 0
        while drawn < count:
            turn = rng.permutation(self._with_images)
            open_places = -drawn % apart
            if open_places and parts:
                # Who already stands in the batch that the last turn left open comes later.
                present = np.isin(turn, parts[-1][open_places - apart :])
                fitting = np.flatnonzero(~present)[:open_places]
                turn = np.concatenate([turn[fitting], np.delete(turn, fitting)])
            parts.append(turn)
            drawn += len(turn)
        return np.concatenate(parts)[:count]

    def images(self, people: Indices, each: int, rng: np.random.Generator) -> Indices:
        """The next `each` images of every label, going round in a random order of its own."""
        shuffled = rng.permutation(len(self._labels))
        by_label = shuffled[np.argsort(self._labels[shuffled], kind="stable")]
        visit = _occurrence(people)
        turn = visit[:, None] * each + np.arange(each)
        place = self._start[people][:, None] + turn % self.counts[people][:, None]
        return by_label[place].reshape(-1)


def _occurrence(labels: Indices) -> Indices:
    """How many times each label stood before: [3, 5, 3, 3] gives [0, 0, 1, 2]."""
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    begins = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    lengths = np.diff(np.r_[begins, len(ranked)])
    occurrence = np.empty(len(labels), dtype=np.int64)
    occurrence[order] = np.arange(len(labels)) - np.repeat(begins, lengths)
    return occurrence
