"""A connection that comes back by itself, and ends when it is told to."""

import aio_pika
from aio_pika.abc import AbstractRobustChannel, AbstractRobustConnection
from aio_pika.connection import make_url


async def open_connection(url: str, name: str) -> AbstractRobustConnection:
    """Connect once, and again whenever the connection is lost.

    Unlike `aio_pika.connect_robust` this leaves nothing behind when it is cancelled: the task that connects there lives
    on, refuses to be cancelled, and keeps the process from its end.

    Parameters
    ----------
    url
        Address with user and password.
    name
        Name of the connection, for people who look at the broker.
    """
    connection = aio_pika.RobustConnection(
        make_url(url, reconnect_interval=1), client_properties={"connection_name": name}
    )
    try:
        await connection.connect()
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_publisher(connection: AbstractRobustConnection) -> AbstractRobustChannel:
    """Open a channel on which everything is confirmed, and what nobody takes comes back."""
    publisher = connection.channel(publisher_confirms=True, on_return_raises=True)
    await publisher.initialize()
    return publisher
