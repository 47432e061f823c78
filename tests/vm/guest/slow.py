"""slow.py PATH TARGET RATE: passes what comes to a unix socket on to another one, with so many bytes a second, and what
comes back as it comes."""

import asyncio
import sys

path, target, rate = sys.argv[1], sys.argv[2], float(sys.argv[3])


async def pass_on(reader, writer, seconds_per_byte):
    while part := await reader.read(16384):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(len(part) * seconds_per_byte)
    writer.close()


async def serve(reader, writer):
    there = await asyncio.open_unix_connection(target)
    await asyncio.gather(pass_on(reader, there[1], 1 / rate), pass_on(there[0], writer, 0))


async def main():
    await (await asyncio.start_unix_server(serve, path)).serve_forever()


asyncio.run(main())
