"""How the loops of service, spawner and main process wait: each registers, with a descriptor, what
is to be called when it is readable.
"""

from selectors import BaseSelector


def call_ready(selector: BaseSelector, seconds: float | None) -> None:
    """Wait for so long at most (None: for ever), and call what is due."""
    for key, _ in selector.select(seconds):
        # An earlier call of the same turn may have closed this one's descriptor, and even opened
        # another under its number.
        if selector.get_map().get(key.fd) is key:
            key.data()
