"""A TCP proxy that injects the faults of a network or of an S3 service."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Literal, TypeVar

T = TypeVar("T")
NetworkFault = Literal["pass", "reset", "silent", "slow", "unavailable", "broken"]

ANSWERS = {"unavailable": b"503 Service Unavailable", "broken": b"500 Internal Server Error"}
DELAY_S = 0.4


class Proxy:
    """Forwards 127.0.0.1:`port`, by default a free one, to 127.0.0.1:`target`, and injects one fault at a time.

    pass: no fault. reset: open and new connections are cut. silent: no data passes, and the connections are cut when
    the fault ends, as half-open connections are. slow: every piece of data is delayed by DELAY_S. unavailable and
    broken: HTTP requests are answered with 503 and 500.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self.fault: NetworkFault = "pass"
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", port))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def set(self, fault: NetworkFault) -> None:
        """Change the fault."""
        cut = "reset" in (fault, self.fault) or ("silent" in (fault, self.fault) and fault != "silent")
        self.fault = fault
        if cut:
            self._loop.call_soon_threadsafe(self._cut)

    def close(self) -> None:
        """Cut all connections and stop."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(5)

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self.fault == "reset":
                return
            if self.fault in ANSWERS:
                await self._answer(reader, writer)
                return
            near, far = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(far)
            try:
                await asyncio.gather(self._forward(reader, far, writer), self._forward(near, writer, None))
            finally:
                self._writers.discard(far)
                far.transport.abort()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter | None
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if self.fault == "slow":
                    await asyncio.sleep(DELAY_S)
                while self.fault == "silent":
                    await asyncio.sleep(0.05)
                if self.fault in ANSWERS and client is not None:  # a request on a connection that is kept alive
                    client.write(self._response())
                    await client.drain()
                    client.transport.close()
                    break
                sink.write(data)
                await sink.drain()
        sink.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(65536)
            writer.write(self._response())
            await writer.drain()
            await asyncio.sleep(0.05)

    def _response(self) -> bytes:
        status = ANSWERS.get(self.fault, ANSWERS["unavailable"])
        return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
