"""Parts of collective operations that need no runtime: tensors of other libraries, and who gets into a mesh."""

from __future__ import annotations

import socket
import sys
import threading
import time
import types

import numpy as np
import pytest

from obsray.core.node.doorman import Doorman
from obsray.core.transport.links import Reactor
from obsray.exceptions import CollectiveError, CollectiveMemberDiedError, CollectiveTimeoutError
from obsray.util.collective.mesh import DATA, DESCRIPTION, Mesh, Receiving, Sending
from obsray.util.collective.types import Backend, ReduceOp, Tensor, ufunc_of

TOKEN, GROUP = b"t" * 32, b"g" * 16


class TorchTensor:
    """What is used of a tensor of torch."""

    def __init__(self, values, device):
        self.values, self.device = values, types.SimpleNamespace(type=device)

    def detach(self):
        return self

    def cpu(self):
        return TorchTensor(self.values.copy(), "cpu")

    def numpy(self):
        assert self.device.type == "cpu", "a tensor of a GPU has no array"
        return self.values

    def copy_(self, other):
        self.values[...] = other.values


@pytest.fixture
def torch(monkeypatch):
    module = types.ModuleType("torch")
    module.Tensor = TorchTensor
    module.from_numpy = lambda array: TorchTensor(array, "cpu")
    monkeypatch.setitem(sys.modules, "torch", module)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_tensor_of_torch_is_changed_in_place_wherever_it_lies(torch, device):
    given = TorchTensor(np.arange(6.0).reshape(2, 3), device)
    tensor = Tensor(given, writes=True)
    assert tensor.work.shape == (2, 3)
    tensor.flat[:] = 7
    tensor.finish()
    assert (given.values == 7).all()


def test_what_is_no_array_of_numbers_is_refused():
    for wrong in ([1.0], 3, np.array(["a"]), np.array([object()])):
        with pytest.raises(TypeError):
            Tensor(wrong, writes=False)
    with pytest.raises(TypeError, match="MIN"):
        ufunc_of(ReduceOp.MIN, np.dtype("c16"))
    assert Backend.of("NCCL") is Backend.NCCL and Backend.of(Backend.GLOO) is Backend.GLOO


@pytest.fixture
def meshes(tmp_path):
    made = [Mesh(tmp_path, TOKEN, "group") for _ in range(2)]
    yield made
    for mesh in made:
        mesh.close()


def connect(meshes, seconds=20.0):
    addresses = [mesh.address for mesh in meshes]
    deadline = time.monotonic() + seconds
    other = threading.Thread(target=meshes[1].connect, args=(GROUP, 1, addresses, deadline))
    other.start()
    meshes[0].connect(GROUP, 0, addresses, deadline)
    other.join()


def test_strangers_do_not_get_into_a_mesh(meshes):
    strangers = []
    for said in (b"", b"x" * 52, TOKEN + b"other group....!" + bytes(4), TOKEN + GROUP + b"\x07\0\0\0"):
        stranger = socket.socket(socket.AF_UNIX)
        strangers.append(stranger)
        stranger.connect(meshes[0].address)
        stranger.sendall(said)
        if not said:
            stranger.shutdown(socket.SHUT_WR)
    connect(meshes)
    assert list(meshes[0].peers) == [1]
    for stranger in strangers:
        assert stranger.recv(1) == b""
        stranger.close()


def test_data_goes_both_ways_at_the_same_time_however_much_it_is(meshes):
    connect(meshes)
    sent = [np.random.default_rng(rank).bytes(3_000_000) for rank in range(2)]
    got = [bytearray(3_000_000) for _ in range(2)]
    deadline = time.monotonic() + 20

    def talk(rank):
        jobs = [Receiving(1 - rank, DATA, memoryview(got[rank])), Sending(1 - rank, DATA, sent[rank])]
        meshes[rank].run(jobs, deadline)

    other = threading.Thread(target=talk, args=(1,))
    other.start()
    talk(0)
    other.join()
    assert [bytes(each) for each in got] == sent[::-1]


def test_the_reason_of_whoever_gives_up_reaches_the_others(meshes):
    connect(meshes)
    meshes[1].abort(CollectiveTimeoutError("rank 2 is late"))
    with pytest.raises(CollectiveTimeoutError, match="rank 2 is late"):
        meshes[0].run([Receiving(1, DESCRIPTION)], time.monotonic() + 20)


def test_an_end_without_a_reason_and_a_frame_that_nobody_expects_are_told_apart(meshes):
    connect(meshes)
    meshes[1].run([Sending(0, DATA, b"abc")], time.monotonic() + 20)
    with pytest.raises(CollectiveError, match="another point of the program"):
        meshes[0].run([Receiving(1, DESCRIPTION)], time.monotonic() + 20)
    meshes[1].close()
    with pytest.raises(CollectiveMemberDiedError, match="rank 1 is gone"):
        meshes[0].run([Receiving(1, DESCRIPTION)], time.monotonic() + 20)


def test_nobody_waits_longer_than_was_said(meshes):
    with pytest.raises(CollectiveTimeoutError, match=r"\[1\] did not connect"):
        meshes[0].connect(GROUP, 0, [mesh.address for mesh in meshes], time.monotonic() + 0.05)


def serve(reactor, ending):
    while not ending.is_set():
        reactor.run_once(0.05)


def test_members_on_other_machines_are_reached_through_their_nodes(tmp_path, monkeypatch):
    """The token that shows who is a member stays on its machine: between machines the handshake has done that."""
    directories = [tmp_path / name for name in ("first", "second")]
    ending = threading.Event()
    reactors, doors, threads = [], [], []
    for number, directory in enumerate(directories):
        (directory / "sockets").mkdir(parents=True)
        reactor = Reactor(lambda link, messages: None, lambda link: None)
        doors.append(
            Doorman(
                reactor,
                b"node___%d" % number,
                directory,
                TOKEN,
                "127.0.0.1:0",
                lambda link: None,
                lambda sock, hello: None,
                lambda line: None,
            )
        )
        reactors.append(reactor)
        threads.append(threading.Thread(target=serve, args=(reactor, ending)))
    # Neither sees the other's files.
    monkeypatch.setattr("obsray.util.collective.mesh.os.path.exists", lambda path: False)
    made = [
        Mesh(directory / "sockets", TOKEN, "group", door.address)
        for directory, door in zip(directories, doors, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        connect(made)
        assert {sock.family for mesh in made for sock in mesh.peers.values()} == {socket.AF_INET}
        data = np.random.default_rng(1).bytes(1_000_000)
        into = bytearray(len(data))
        receiving = threading.Thread(
            target=made[0].run, args=([Receiving(1, DATA, memoryview(into))], time.monotonic() + 20)
        )
        receiving.start()
        made[1].run([Sending(0, DATA, data)], time.monotonic() + 20)
        receiving.join()
        assert bytes(into) == data
        made[1].close()
        with pytest.raises(CollectiveMemberDiedError):
            made[0].run([Receiving(1, DATA, memoryview(into))], time.monotonic() + 20)
        with pytest.raises(CollectiveMemberDiedError, match="nobody with the name"):
            made[0]._call(1, made[1].address, time.monotonic() + 5)
    finally:
        ending.set()
        for thread, reactor in zip(threads, reactors, strict=True):
            thread.join()
            reactor.shutdown()
        for mesh in made:
            mesh.close()
