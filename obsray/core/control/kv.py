"""Keys and values, and functions by their hash. Both are opaque bytes here.

Invariant: the bytes kept never exceed their limits; a function's blob has the hash it is kept under.
"""

from __future__ import annotations

from hashlib import sha256

from obsray.core.control.step import NAME_BYTES_MAX, Outcome, Refusal, Refused, check_bytes, check_text
from obsray.core.protocol import control_pb2 as pb

KEY_BYTES_MAX = 4_096
VALUE_BYTES_MAX = 16 << 20
VALUES_BYTES_MAX = 256 << 20
KEYS_MAX = 1_000_000
HASH_BYTES = 32
FUNCTIONS_BYTES_MAX = 512 << 20


class Keys:
    """The table of keys and values."""

    def __init__(self) -> None:
        self.spaces: dict[str, dict[bytes, bytes]] = {}
        self.kept_bytes = 0
        self.kept_keys = 0

    def put(self, request: pb.PutKeyRequest) -> Outcome:
        """Write a value, unless the key exists and may not be overwritten. Raises Refused beyond a limit."""
        self._check(request.namespace, request.key)
        if len(request.value) > VALUE_BYTES_MAX:
            raise Refused(Refusal.INVALID, f"a value has at most {VALUE_BYTES_MAX} bytes, got {len(request.value)}")
        before = self.spaces.get(request.namespace, {}).get(request.key)
        if before is not None and not request.overwrite:
            return Outcome(pb.PutKeyReply(written=False, existed=True), [])
        more_bytes = len(request.value) - len(before or b"") + (0 if before is not None else len(request.key))
        if self.kept_bytes + more_bytes > VALUES_BYTES_MAX:
            raise Refused(Refusal.FULL, f"keys and values take {self.kept_bytes} of {VALUES_BYTES_MAX} bytes")
        if before is None and self.kept_keys >= KEYS_MAX:
            raise Refused(Refusal.FULL, f"there are {KEYS_MAX} keys, and no room for more")
        self.spaces.setdefault(request.namespace, {})[request.key] = request.value
        self.kept_bytes += more_bytes
        self.kept_keys += before is None
        change = pb.KeyChange(namespace=request.namespace, key=request.key)
        return Outcome(pb.PutKeyReply(written=True, existed=before is not None), [change])

    def get(self, request: pb.GetKeyRequest) -> Outcome:
        """Read a value."""
        self._check(request.namespace, request.key)
        value = self.spaces.get(request.namespace, {}).get(request.key)
        return Outcome(pb.GetKeyReply(found=value is not None, value=value or b""), [])

    def delete(self, request: pb.DeleteKeyRequest) -> Outcome:
        """Delete one key, or all that begin with it."""
        if not request.prefix:
            self._check(request.namespace, request.key)
        space = self.spaces.get(request.namespace, {})
        if request.prefix:
            doomed = [key for key in space if key.startswith(request.key)]
        else:
            doomed = [request.key] if request.key in space else []
        for key in doomed:
            self.kept_bytes -= len(key) + len(space.pop(key))
        self.kept_keys -= len(doomed)
        if not space:
            self.spaces.pop(request.namespace, None)
        changes = [pb.KeyChange(namespace=request.namespace, key=key, deleted=True) for key in doomed]
        return Outcome(pb.DeleteKeyReply(keys_deleted=len(doomed)), list(changes))

    def listed(self, request: pb.ListKeysRequest) -> Outcome:
        """The keys that begin with a prefix, in order."""
        space = self.spaces.get(request.namespace, {})
        return Outcome(pb.ListKeysReply(keys=sorted(key for key in space if key.startswith(request.prefix))), [])

    def _check(self, namespace: str, key: bytes) -> None:
        check_text("namespace", namespace, NAME_BYTES_MAX)
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise Refused(Refusal.INVALID, f"a key has 1 to {KEY_BYTES_MAX} bytes, got {len(key)}")

    def save(self, snapshot: pb.Snapshot) -> None:
        """Write all of it down."""
        for namespace, space in self.spaces.items():
            for key, value in space.items():
                snapshot.keys.add(namespace=namespace, key=key, value=value)

    def restore(self, snapshot: pb.Snapshot) -> None:
        """Be what was saved."""
        for each in snapshot.keys:
            self.spaces.setdefault(each.namespace, {})[each.key] = each.value
        self.kept_keys = len(snapshot.keys)
        self.kept_bytes = sum(len(each.key) + len(each.value) for each in snapshot.keys)

    def check_invariants(self) -> None:
        """Raise AssertionError if the totals are wrong."""
        kept = sum(len(key) + len(value) for space in self.spaces.values() for key, value in space.items())
        assert kept == self.kept_bytes <= VALUES_BYTES_MAX
        assert sum(map(len, self.spaces.values())) == self.kept_keys <= KEYS_MAX


class Functions:
    """The table of functions and classes."""

    def __init__(self) -> None:
        self.entries: dict[bytes, tuple[str, bytes]] = {}
        self.kept_bytes = 0

    def put(self, request: pb.PutFunctionRequest) -> Outcome:
        """Keep a blob under its hash. Raises Refused if that is not its hash or there is no room."""
        check_bytes("hash", request.hash, HASH_BYTES)
        check_text("name", request.name, NAME_BYTES_MAX)
        if request.hash in self.entries:
            return Outcome(pb.PutFunctionReply(), [])
        if sha256(request.blob).digest() != request.hash:
            raise Refused(Refusal.INVALID, "the blob has another hash")
        if self.kept_bytes + len(request.blob) > FUNCTIONS_BYTES_MAX:
            raise Refused(Refusal.FULL, f"functions take {self.kept_bytes} of {FUNCTIONS_BYTES_MAX} bytes")
        self.entries[request.hash] = (request.name, request.blob)
        self.kept_bytes += len(request.blob)
        row = pb.FunctionRow(hash=request.hash, name=request.name, blob_bytes=len(request.blob))
        return Outcome(pb.PutFunctionReply(), [row])

    def get(self, request: pb.GetFunctionRequest) -> Outcome:
        """Read a blob. Raises Refused if nobody brought it."""
        check_bytes("hash", request.hash, HASH_BYTES)
        entry = self.entries.get(request.hash)
        if entry is None:
            raise Refused(Refusal.NOT_FOUND, f"there is no function {request.hash.hex()}")
        return Outcome(pb.GetFunctionReply(name=entry[0], blob=entry[1]), [])

    def save(self, snapshot: pb.Snapshot) -> None:
        """Write all of it down."""
        for digest, (name, blob) in self.entries.items():
            snapshot.functions.add(hash=digest, name=name, blob=blob)

    def restore(self, snapshot: pb.Snapshot) -> None:
        """Be what was saved."""
        self.entries = {each.hash: (each.name, each.blob) for each in snapshot.functions}
        self.kept_bytes = sum(len(each.blob) for each in snapshot.functions)

    def check_invariants(self) -> None:
        """Raise AssertionError if the total is wrong."""
        assert sum(len(blob) for _, blob in self.entries.values()) == self.kept_bytes <= FUNCTIONS_BYTES_MAX
