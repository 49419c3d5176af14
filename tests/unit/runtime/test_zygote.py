"""What a forked worker must not share with its brothers, and what is left when the zygote ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from obsray.core.runtime.zygote import Zygote, _reseed

#: A zygote with a child of a worker that has died, and a node that asks for nonsense.
ASKED_FOR_NONSENSE = """
import socket, subprocess
import msgpack
from obsray.core.runtime.zygote import Zygote
from obsray.core.system.processes import adopt_orphans

adopt_orphans()
node, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
left = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session=True)
print(left.pid, flush=True)
node.send(msgpack.packb(("nonsense",)))
Zygote(mine).serve()
"""


def test_a_node_that_was_killed_with_packets_unread_is_gone_as_any_other():
    node, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    zygote = Zygote(mine)
    zygote._say("ended")
    node.close()
    assert zygote._receive() is False
    mine.close()
    os.close(zygote._wake_read)
    os.close(zygote._wake_write)


def test_a_zygote_that_fails_leaves_nothing_of_what_workers_had_started():
    ended = subprocess.run([sys.executable, "-c", ASKED_FOR_NONSENSE], capture_output=True, text=True, timeout=60)
    assert "the node asked for something that is unknown here" in ended.stderr
    assert not os.path.exists(f"/proc/{int(ended.stdout)}")


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
