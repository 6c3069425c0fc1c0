"""Publishes through the channel layer what comes on standard input, a line `channel TAB event` each."""
import asyncio
import json
import sys

import channels_app  # noqa: F401: brings the settings
from channels.layers import get_channel_layer

# As many at once as a busy web process would have.
AT_ONCE = 16


async def main():
    layer = get_channel_layer()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    room = asyncio.Semaphore(AT_ONCE)

    async def send(line):
        async with room:
            channel, event = line.decode().rstrip("\n").split("\t", 1)
            await layer.group_send(channel, {"type": "event", "event": json.loads(event)})

    running = set()
    while line := await reader.readline():
        async with room:
            pass
        task = asyncio.create_task(send(line))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


asyncio.run(main())
