"""Which samples form which batch, and how the batches come off the disk."""

import atexit
import math
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lib.errors import InputError


class SampleStream:
    """An endless list of (epoch, index) keys, cut into batches: one seeded permutation of the data set after another.

    Batch k holds entries k * batch_size up to (k + 1) * batch_size. So every batch is full, an epoch sees each sample
    exactly once, and the step alone says where the stream stands. Iterating yields this process's contiguous slice of
    the batches start .. stop - 1; the slices of all processes, joined, are the batch of a single process.

    Raises InputError for an empty data set or when batch_size is not a multiple of the number of processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, world: int = 1):
        if size < 1:
            raise InputError("the training set is empty")
        if batch_size % world:
            raise InputError(f"batch size {batch_size} cannot be split evenly over {world} processes: give a multiple")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.stop = start, stop
        self.rank, self.share = rank, batch_size // world

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, None
        for step in range(self.start, self.stop):
            first = step * self.batch_size + self.rank * self.share
            keys = []
            for entry in range(first, first + self.share):
                if entry // self.size != epoch:
                    epoch = entry // self.size
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
                keys.append((epoch, int(order[entry % self.size])))
            yield keys


def steps_for(epochs: int, size: int, batch_size: int) -> int:
    """The number of batches that cover ``epochs`` passes over ``size`` samples; the last one may reach beyond them."""
    return math.ceil(epochs * size / batch_size)


def load_batches(
    samples: Dataset, batches: Iterable[list[Any]], collate: Callable[[list[Any]], Any], workers: int, pin: bool = False
) -> Generator[Any, None, None]:
    """Yields ``collate([samples[key] for key in batch])`` for each batch of keys, read ahead by ``workers`` processes.

    pin: put tensors into page-locked memory, from where a GPU copies them while it computes. An InputError of a reader
    arrives as it was raised, whichever process met it. Close the generator (``contextlib.closing``) when it is left
    before its end: that ends the workers.
    """
    loader = DataLoader(
        _Guarded(samples),
        batch_sampler=batches,
        collate_fn=_GuardedCollate(collate),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # its own: starting the loader must not advance the global generator
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


class _Guarded(Dataset):
    """Hands an InputError on as a value: raised in a worker it would come back wrapped into a page of traceback."""

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.samples[key]
        except InputError as error:
            return error


class _GuardedCollate:
    def __init__(self, collate: Callable[[list[Any]], Any]):
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        errors = [sample for sample in samples if isinstance(sample, InputError)]
        return errors[0] if errors else self.collate(samples)


def _ignore_signals(worker: int) -> None:
    """Ctrl-C reaches the whole process group, but the main process decides when its workers stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Kills workers left behind: multiprocessing would send them SIGTERM, which ours ignore, and wait for ever."""
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()
