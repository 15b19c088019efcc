"""A reload under way: from the old settings to the new ones, or back.

Theory of operation. The difference is one of pools and of sockets. New pools are opened and
started, changed ones get a candidate with the new settings, and as long as not all of them are
ready the routes are as they were: no request goes to anything new. When the last one is ready, what
needs no new process is applied (limits), the routes are swapped, sockets that are not named any
more are closed, and pools that are gone drain. When one fails, the new pools are removed, the
changed ones get their old settings back, with overlap like every change, and the old routes never
went away.

Rule: whatever happens, each pool ends up with either its old or its new settings, and no request is
lost in between.
"""

import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from kernelq import log
from kernelq.binding import Listener, listener_of
from kernelq.config import PoolSettings, ServerSettings
from kernelq.pool.executor import PoolExecutor
from kernelq.pools import Pools
from kernelq.routing import Routing
from kernelq.shapes import Difference
from kernelq.sites import find_sockets


class Owner(Protocol):
    """Who hears how it ended."""

    def on_reload_done(self, reload: "Reload") -> None: ...
    def on_reload_failed(self, reload: "Reload", text: str) -> None: ...
    def log(self, level: int, text: str) -> None: ...


class Reload:
    """One change of all settings. begin() may end it at once."""

    def __init__(
        self,
        owner: Owner,
        pools: Pools,
        routing: Routing,
        before: ServerSettings,
        after: ServerSettings,
    ) -> None:
        self._owner = owner
        self._pools = pools
        self._routing = routing
        self._before = before
        self.after = after
        self._awaited: set[str] = set()  # pools that are not ready yet
        self._added: list[PoolExecutor] = []
        self._restarted: list[PoolExecutor] = []
        self._opened: list[tuple[str, Listener]] = []  # by the endpoint's name
        self._is_over = False
        old = {pool.name: pool for pool in before.pools}
        self._old = old
        self._new = {pool.name: pool for pool in after.pools}

    def begin(self, names: Sequence[tuple[str, str]], descriptors: Sequence[int]) -> None:
        """names: (endpoint, URL) of each socket; takes the descriptors."""
        # They listen, and nobody accepts yet: who comes early waits in the backlog.
        for (name, _), descriptor in zip(names, descriptors, strict=True):
            self._opened.append((name, listener_of(socket.socket(fileno=descriptor))))
        self._awaited.add("")  # until everything has been begun
        for settings in self.after.pools:
            before = self._old.get(settings.name)
            if before is None:
                self._add(settings)
            elif before.index != settings.index:
                self._restart(settings)
            if self._is_over:
                return
        self._settle("")

    def _add(self, settings: PoolSettings) -> None:
        pool = self._pools.open(settings, gives_up=settings.starts_at_once)
        self._added.append(pool)
        if settings.starts_at_once:
            self._awaited.add(settings.name)
        pool.start()

    def _restart(self, settings: PoolSettings) -> None:
        pool = self._pools.find(settings.name)
        assert pool is not None
        self._restarted.append(pool)
        self._awaited.add(settings.name)
        pool.configure(settings)

    # What the pools say.

    def on_serving(self, pool: PoolExecutor) -> None:
        self._settle(pool.name)

    def on_reloaded(self, pool: PoolExecutor, outcome: int) -> None:
        if pool.name not in self._awaited:
            return
        if outcome == 0:
            self._restarted.remove(pool)
            pool.restore(self._old[pool.name])
            self.fail(f"pool {pool.name}: its workers with the new settings do not start")
        else:
            self._settle(pool.name)

    def on_give_up(self, pool: PoolExecutor, text: str) -> bool:
        """True: the pool came with this reload."""
        if pool not in self._added:
            return False
        self.fail(f"pool {pool.name}: {text}")
        return True

    def _settle(self, name: str) -> None:
        self._awaited.discard(name)
        if not self._awaited and not self._is_over:
            self._is_over = True
            self._commit()

    # Ends.

    def _commit(self) -> None:
        for settings in self.after.pools:
            pool = self._pools.find(settings.name)
            if pool is not None and pool.settings != settings:
                pool.configure(settings)
        removed = [self._pools.find(name) for name in self._old if name not in self._new]
        wanted = {str(one) for one in find_sockets(self.after.sites)}
        self._routing.remove_listeners(self._routing.endpoint_names() - wanted)
        for name, listener in self._opened:
            self._routing.add_listener(name, listener)
        self._routing.publish(self.after)
        for gone in removed:
            if gone is not None:
                self._pools.remove(gone)
        self._owner.on_reload_done(self)

    def fail(self, text: str) -> None:
        """Back to the old settings."""
        if self._is_over:
            return
        self._is_over = True
        self._owner.log(log.ERROR, f"reload failed, the old settings stay: {text}")
        for _, listener in self._opened:
            listener.socket.close()
        for pool in self._added:
            self._pools.remove(pool)
        for pool in self._restarted:
            old = self._old[pool.name]
            if pool.settings != old:
                pool.configure(old)
        self._owner.on_reload_failed(self, text)

    # What it is about.

    def pools_changed(self) -> Difference:
        return _difference(self._old, self._new)

    def sites_changed(self) -> Difference:
        return _difference(
            {site.name: site for site in self._before.sites},
            {site.name: site for site in self.after.sites},
        )


def _difference(before: Mapping[str, object], after: Mapping[str, object]) -> Difference:
    both = before.keys() & after.keys()
    return Difference(
        added=sorted(after.keys() - before.keys()),
        removed=sorted(before.keys() - after.keys()),
        changed=sorted(name for name in both if before[name] != after[name]),
        same=sum(before[name] == after[name] for name in both),
    )
