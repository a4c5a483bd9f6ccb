"""Direct send: octets go to the socket at once when nothing waits before them.

Twisted's ``write`` only remembers the octets and asks the reactor to tell when the socket is
writable: two system calls and another turn for each write.  :func:`send_now` spares them.  It looks
at private attributes of :class:`twisted.internet.abstract.FileDescriptor`, hence one function, with
a test for it and ``write`` as fall-back wherever something is not as expected.
"""

from __future__ import annotations

from typing import Any


def send_now(transport: Any, data: bytes) -> None:
    """Send octets over a stream transport: at once what the socket takes, the rest by ``write``.

    Order is kept: if something waits in the transport's buffers, or the connection is being closed,
    everything goes by ``write``.  A socket error is left for ``write`` to meet.
    """
    try:
        waiting = (
            not transport.connected
            or transport.disconnecting
            or transport._tempDataLen
            or len(transport.dataBuffer) != transport.offset
        )
        send = transport.socket.send
    except AttributeError:
        transport.write(data)
        return
    if not waiting:
        try:
            sent = send(data)
        except OSError:  # would block, or the connection is lost: the reactor will find out which
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)
