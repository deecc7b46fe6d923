"""Echo servers for quickstart.yaml: python3 echo.py PORT... answers each line or datagram with
the port in front of it, over TCP and UDP on 127.0.0.1."""

import asyncio
import sys


async def serve(port: int) -> None:
    prefix = f"{port} ".encode()

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(prefix + line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple) -> None:
            self.transport.sendto(prefix + data, addr)

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", port))
    server = await asyncio.start_server(session, "127.0.0.1", port)
    print(f"echo on 127.0.0.1:{port} (tcp, udp)", flush=True)
    await server.serve_forever()


async def main() -> None:
    await asyncio.gather(*(serve(int(port)) for port in sys.argv[1:]))


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
