"""Randomness that belongs to a sample or a batch, not to a process."""

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """A 64-bit seed from integers below 2**63: neighbouring epochs and images get unrelated ones."""
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Run with the generators that timm's augmentation draws from seeded, and restore them afterwards.

    Those are Python's, NumPy's and torch's CPU generator.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    seed = derive_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])
