"""What a forked worker must not share with its brothers."""

from __future__ import annotations

import os

from obsray.core.runtime.zygote import _reseed


def test_forked_workers_draw_different_random_numbers():
    import numpy

    numpy.random.seed(1)
    drawn = []
    for _ in range(3):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _reseed()
            os.write(write, numpy.random.bytes(8))
            os._exit(0)
        os.waitpid(pid, 0)
        drawn.append(os.read(read, 8))
        os.close(read)
        os.close(write)
    assert len(set(drawn)) == 3
