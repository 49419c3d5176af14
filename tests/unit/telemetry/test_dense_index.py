"""Ids of one owner are numbered in the order of their sequences, however they come."""

from __future__ import annotations

import random

import numpy as np
import pytest

from obsray.telemetry.table import DenseIndex


@pytest.mark.parametrize("spread", [1, 3, 1000])
def test_each_id_gets_one_row_in_whatever_order_and_however_often_it_comes(spread):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    owners = [chance.randbytes(8) for _ in range(3)]
    index, known = DenseIndex(), {}
    for _ in range(6):
        some = [
            chance.choice(owners) + bytes([chance.choice([0, 2])]) + (chance.randrange(200) * spread).to_bytes(7)
            for _ in range(300)
        ]
        for identifier, row in zip(some, index.rows(np.frombuffer(b"".join(some), "V16")).tolist(), strict=True):
            assert known.setdefault(identifier, row) == row == index.row(identifier)
    assert sorted(known.values()) == list(range(len(known))) == list(range(index.count))
