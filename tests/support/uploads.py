"""Files that are sent to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.serving import Served


def content(file: Path | bytes) -> bytes:
    """What a file contains."""
    return file if isinstance(file, bytes) else file.read_bytes()


@asynccontextmanager
async def uploading(
    served: Served, sent: bytes = b"--x\r\n"
) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request whose body starts and does not end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("port"))
    writer.write(
        b"POST /transcribe HTTP/1.1\r\nHost: it\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + sent
    )
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()
