"""Send a recording to a server in real time, and print its text while it changes.

uv run parakeet-stt serve --model tiny
uv run examples/websocket_client.py samples/dictation.flac
"""

import argparse
import asyncio
import json

import soundfile
import websockets


async def main(url: str, path: str, speed: float) -> None:
    pcm, rate = soundfile.read(path, dtype="int16")
    if pcm.ndim != 1:
        raise SystemExit("expected a mono file; or add &channels=2 to the address")
    async with websockets.connect(f"{url}?sample_rate={rate}&vad=true") as socket:

        async def send() -> None:
            for start in range(0, len(pcm), rate // 10):
                await socket.send(pcm[start : start + rate // 10].tobytes())
                await asyncio.sleep(0.1 / speed)
            await socket.send('{"type": "close"}')

        sending = asyncio.create_task(send())
        async for message in socket:
            result = json.loads(message)
            if result["type"] == "result":
                print("final:" if result["is_final"] else "...", result["text"])
        await sending


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file")
parser.add_argument("--url", default="ws://localhost:8000/v1/stream")
parser.add_argument("--speed", type=float, default=1.0, help="1 is real time")
arguments = parser.parse_args()
asyncio.run(main(arguments.url, arguments.file, arguments.speed))
