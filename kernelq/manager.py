"""What may be asked of the managers (managed.py), done: shows of pools, sites and requests, orders,
reload and upgrade.
"""

import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from kernelq import __version__, log
from kernelq.config import ApplicationSettings, ServerSettings, SiteSettings
from kernelq.desk import Pending
from kernelq.letters import FromService
from kernelq.managed import take_page, unknown_name
from kernelq.pool.executor import PoolExecutor
from kernelq.pool.member import Member
from kernelq.pool.model import Event, Kind
from kernelq.pool.probes import cpu_ns, memory_kib
from kernelq.reload import Reload
from kernelq.shapes import (
    RELOADING,
    STARTED,
    STOPPED,
    UPGRADING,
    Application,
    Difference,
    Match,
    Names,
    Pool,
    Pools,
    PoolState,
    Processes,
    Queue,
    Reloaded,
    Request,
    Requests,
    Site,
    Sites,
    SiteState,
    Stacks,
    Status,
    Upgraded,
    Worker,
)
from kernelq.units import MS

if TYPE_CHECKING:
    from kernelq.service import Service


class Manager:
    """Implements managed.Managers for the service, on its main thread."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._reload: Reload | None = None
        self._code: set[str] = set()  # pools whose code is being loaded again
        self._code_failed: list[str] = []
        self._reload_asked: list[Pending[Reloaded]] = []
        self._upgrade_asked: list[Pending[Upgraded]] = []
        self._notes: list[str] = []

    @property
    def under_way(self) -> str:
        """reloading, upgrading or ""."""
        if self._reload is not None or self._code:
            return RELOADING
        return UPGRADING if self._upgrade_asked else ""

    # Shows.

    def status(self) -> Status:
        service = self._service
        return Status(
            version=__version__,
            pid=os.getppid(),
            service_pid=os.getpid(),
            state=service.state,
            started=_time(service.started_at),
            uptime_s=round(time.time() - service.started_at, 3),
            config_file=service.settings.config_file,
            listeners=service.routing.urls(),
            counters=service.core.stats(),
            pools=len(service.settings.pools),
            sites=len(service.settings.sites),
        )

    def names(self) -> Names:
        return Names(pools=self._service.pools.names(), sites=self._site_names())

    def pools(self, most: int, after: str) -> Pools:
        names, is_whole = take_page(self._service.pools.names(), most, after)
        found = [self._service.pools.find(name) for name in names]
        return Pools(pools=[self._show_pool(one) for one in found if one], complete=is_whole)

    def sites(self, most: int, after: str) -> Sites:
        names, is_whole = take_page(self._site_names(), most, after)
        by_name = {site.name: site for site in self._service.settings.sites}
        return Sites(sites=[self._show_site(by_name[name]) for name in names], complete=is_whole)

    def requests(self, pool: str, most: int) -> Requests:
        wanted = -1 if not pool else self._pool(pool).number
        found = self._service.core.requests(most + 1, wanted)
        applications = self._applications()
        shown = [self._show_request(one, applications) for one in found[:most]]
        return Requests(requests=shown, complete=len(found) <= most)

    def match(self, url: str) -> Match:
        nobody = Match(
            found=False, reason="Hostname", site="", state="", application="", app="", pool=""
        )
        try:
            parts = urlsplit(url)
            host, port = parts.netloc.rpartition("@")[2], parts.port
        except ValueError as found:
            raise ValueError(f"url: found {url!r}: {found}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(
                f"url: found {url!r}, allowed is a URL such as http://example.org/shop"
            )
        route = self._find_route(host, port or (443 if parts.scheme == "https" else 80), parts.path)
        one = None if route is None else self._applications().get(route[0])
        if one is None:
            return nobody
        return Match(
            found=True,
            reason="",
            site=one.site,
            state=self._site_state(one.site),
            application=one.path,
            app=one.app,
            pool=one.pool,
        )

    def _applications(self) -> dict[int, ApplicationSettings]:
        """By number."""
        sites = self._service.settings.sites
        return {one.number: one for site in sites for one in site.applications}

    def _find_route(self, host: str, port: int, path: str) -> Any:
        routing = self._service.routing
        for number in routing.numbers_at(port):
            route = routing.find(number, b"", host, unquote_to_bytes(path or "/"))
            if route is not None:
                return route
        return None

    def _show_pool(self, pool: PoolExecutor) -> Pool:
        info = self._service.core.pool_info(pool.number)
        settings = pool.settings
        return Pool(
            name=pool.name,
            state=pool.state.phase.name,
            start_mode=settings.start_mode,
            queue=Queue(
                length=info["queued"],
                limit=settings.core.queue_length,
                oldest_ms=info["oldest_ns"] // MS,
                rejected=info["rejected"],
                arrived=info["arrived"],
            ),
            processes=Processes(
                now=len(pool.state.workers), min=settings.min_processes, max=settings.max_processes
            ),
            executing=info["executing"],
            workers=[self._show_worker(pool, member) for member in pool.members],
            recycles=pool.recycles,
            failures=pool.failures,
            last_event=self._service.journal.last_of(pool.name),
        )

    def _show_worker(self, pool: PoolExecutor, member: Member) -> Worker:
        state = pool.state_of(member)
        info: dict[str, Any] = {}
        if member.info is not None:  # an orphan: the core has forgotten it
            info = member.info
        elif member.number >= 0:
            info = self._service.core.worker_info(member.number)
        memory = memory_kib(member.pid)
        return Worker(
            number=member.number,
            pid=member.pid,
            state="" if state is None else state.state.name,
            generation=member.generation,
            served=info.get("served", 0),
            executing=0 if member.is_orphan else info.get("in_hand", 0),
            rss_kib=memory[0],
            private_kib=memory[1],
            cpu_s=round(cpu_ns(member.pid) / 1e9, 3) if member.pid else -1,
            started=_time(member.started_at),
            age_s=round(time.time() - member.started_at, 3),
            unhealthy=bool(info.get("unhealthy")),
            latency_us=info.get("latency_ns", 0) // 1000,
            suspended=state is not None and state.is_suspended,
        )

    def _show_site(self, site: SiteSettings) -> Site:
        return Site(
            name=site.name,
            state=self._site_state(site.name),
            bindings=[str(binding) for binding in site.bindings],
            applications=[
                Application(
                    path=one.path,
                    app=one.app,
                    pool=one.pool,
                    number=one.number,
                    url=_url(site, one.path),
                )
                for one in site.applications
            ],
        )

    def _show_request(
        self, found: dict[str, Any], applications: dict[int, ApplicationSettings]
    ) -> Request:
        pool = self._service.pools.numbered(found["pool"])
        member = None if pool is None else pool.numbered(found["worker"])
        one = applications.get(found["application"])
        return Request(
            pool="" if pool is None else pool.name,
            site="" if one is None else one.site,
            application="" if one is None else one.path,
            worker=found["worker"],
            pid=0 if member is None else member.pid,
            state=found["state"],
            client=found["client"],
            method=found["method"],
            host=found["host"],
            target=found["target"],
            elapsed_ms=found["elapsed_ns"] // MS,
        )

    def _site_names(self) -> list[str]:
        return sorted(site.name for site in self._service.settings.sites)

    def _site_state(self, name: str) -> str:
        return STARTED if self._service.routing.is_enabled(name) else STOPPED

    # Orders.

    def _pool(self, name: str) -> PoolExecutor:
        pool = self._service.pools.find(name)
        if pool is None:
            raise ValueError(unknown_name("pool", name, self._service.pools.names()))
        return pool

    def _order(self, name: str, event: Event) -> PoolState:
        if not self._service.is_serving:
            raise ValueError("the server ends")
        pool = self._pool(name)
        pool.apply(event)
        return PoolState(pool=name, state=pool.state.phase.name)

    def recycle(self, pool: str) -> PoolState:
        # A preloaded pool's workers are forked from what was loaded: new code needs a new zygote.
        is_preloaded = self._pool(pool).settings.preload
        return self._order(pool, Event(Kind.RELOAD if is_preloaded else Kind.RECYCLE))

    def pool_start(self, pool: str) -> PoolState:
        return self._order(pool, Event(Kind.START))

    def pool_stop(self, pool: str) -> PoolState:
        grace_ns = self._pool(pool).settings.shutdown_limit_ns
        return self._order(pool, Event(Kind.STOP, number=grace_ns))

    def site_start(self, site: str) -> SiteState:
        return self._enable_site(site, True)

    def site_stop(self, site: str) -> SiteState:
        return self._enable_site(site, False)

    def _enable_site(self, site: str, is_enabled: bool) -> SiteState:
        if site not in self._site_names():
            raise ValueError(unknown_name("site", site, self._site_names()))
        if self._service.routing.is_enabled(site) != is_enabled:
            self._service.routing.enable_site(site, is_enabled)
            self._service.log(log.INFO, f"site {site} is {self._site_state(site)}")
        return SiteState(site=site, state=self._site_state(site))

    def stacks(self, worker: int) -> Pending[Stacks]:
        for pool in self._service.pools:
            member = pool.find_member(worker)
            if member is not None:
                return pool.ask_stacks(member)
        raise ValueError(f"there is no worker with the pid or number {worker}")

    # Reload.

    def reload(self) -> Pending[Reloaded]:
        if self.under_way or not self._service.is_serving:
            raise ValueError(f"the server is {self._service.state}")
        pending: Pending[Reloaded] = Pending()
        self._reload_asked.append(pending)
        self._service.supervisor.send(FromService.RELOAD)
        return pending

    def reload_code(self) -> None:
        """The settings are a command line, which does not change; the code may have."""
        if not self._service.is_serving or self._reload is not None:
            return
        self._service.notify_reloading()
        self._code = {pool.name for pool in self._service.pools}
        self._code_failed = []
        for pool in self._service.pools:
            pool.apply(Event(Kind.RELOAD))

    def begin_reload(
        self,
        settings: ServerSettings,
        names: Sequence[tuple[str, str]],
        notes: Sequence[str],
        descriptors: Sequence[int],
    ) -> None:
        """The main process has read and checked new settings. Takes the descriptors."""
        service = self._service
        service.notify_reloading()
        self._notes = list(notes)
        service.log(log.INFO, f"reload: {settings.config_file}")
        for note in notes:
            service.log(log.WARNING, f"reload: {note}")
        self._reload = Reload(self, service.pools, service.routing, service.settings, settings)
        self._reload.begin(names, descriptors)
        if not service.is_serving:
            self.cancel("the server ends")

    def refuse_reload(self, text: str) -> None:
        """The main process found the new settings wrong."""
        if self._service.is_serving:  # systemd waits for both words
            self._service.notify_reloading()
            self._service.notify("READY=1\nSTATUS=reload refused, old settings serve")
        self._service.log(log.ERROR, f"reload refused, nothing has changed:\n{text}")
        self._answer_reload(None, text)

    def cancel(self, text: str) -> None:
        if self._reload is not None:
            self._reload.fail(text)
        self._answer_reload(None, text)

    def log(self, level: int, text: str) -> None:
        self._service.log(level, text)

    def on_reload_done(self, reload: Reload) -> None:
        self._reload = None
        self._service.settings = reload.after
        self._service.supervisor.send(FromService.RELOADED, 1)
        self._service.log(log.INFO, "reload: the new settings are in force")
        self._service.notify("READY=1\nSTATUS=serving")
        self._answer_reload(
            Reloaded(pools=reload.pools_changed(), sites=reload.sites_changed(), notes=self._notes),
            "",
        )

    def on_reload_failed(self, reload: Reload, text: str) -> None:
        del reload
        self._reload = None
        self._service.supervisor.try_send(FromService.RELOADED, 0)
        self._service.notify("READY=1\nSTATUS=reload failed, old settings serve")
        self._answer_reload(None, text)

    def on_pool_serving(self, pool: PoolExecutor) -> None:
        if self._reload is not None:
            self._reload.on_serving(pool)

    def on_pool_reloaded(self, pool: PoolExecutor, outcome: int) -> None:
        if self._reload is not None:
            self._reload.on_reloaded(pool, outcome)
        if pool.name not in self._code:
            return
        self._code.discard(pool.name)
        if outcome == 0:
            self._code_failed.append(pool.name)
        if not self._code:
            self._end_code_reload()

    def _end_code_reload(self) -> None:
        names = [pool.name for pool in self._service.settings.pools]
        if self._code_failed:
            self._service.notify("READY=1\nSTATUS=reload failed, old code serves")
            self._answer_reload(None, f"pool {', '.join(self._code_failed)}: the old code serves")
            return
        self._service.log(log.INFO, "reload: the new code serves; the old workers finish and end")
        self._service.notify("READY=1\nSTATUS=serving")
        nothing = Difference(
            added=[], changed=[], removed=[], same=len(self._service.settings.sites)
        )
        changed = Difference(added=[], changed=names, removed=[], same=0)
        self._answer_reload(Reloaded(pools=changed, sites=nothing, notes=[]), "")

    def on_pool_give_up(self, pool: PoolExecutor, text: str) -> bool:
        """True: it is no pool of the settings in force, and takes nothing else along."""
        if self._service.pools.find(pool.name) is not pool:
            return True  # it leaves already
        return self._reload is not None and self._reload.on_give_up(pool, text)

    def on_pool_gone(self, pool: PoolExecutor) -> None:
        """A removed pool has ended."""
        self._service.pools.forget(pool)

    def _answer_reload(self, answer: Reloaded | None, text: str) -> None:
        asked, self._reload_asked = self._reload_asked, []
        for pending in asked:
            if answer is None:
                pending.fail(text)
            else:
                pending.done(answer)

    # Upgrade.

    def upgrade(self) -> Pending[Upgraded]:
        if self.under_way or not self._service.is_serving:
            raise ValueError(f"the server is {self._service.state}")
        pending: Pending[Upgraded] = Pending()
        self._upgrade_asked.append(pending)
        self._service.supervisor.send(FromService.UPGRADE)
        return pending

    def upgraded(self, heiress: str) -> None:
        """Another main process serves; heiress: what it says of itself, which may be anything."""
        version, service_pid = "", 0
        try:
            words = json.loads(heiress)
            service_pid = int(words.get("service_pid", 0))
            version = str(words.get("version", ""))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            pass
        asked, self._upgrade_asked = self._upgrade_asked, []
        for pending in asked:
            pending.done(
                Upgraded(
                    version=version,
                    service_pid=service_pid,
                    previous_version=__version__,
                    previous_service_pid=os.getpid(),
                )
            )

    def upgrade_failed(self, text: str) -> None:
        asked, self._upgrade_asked = self._upgrade_asked, []
        for pending in asked:
            pending.fail(text)


def _time(seconds: float) -> str:
    return log.format_time(round(seconds * 1e9))


def _url(site: SiteSettings, path: str) -> str:
    if not site.bindings:
        return path
    binding = site.bindings[0]
    if binding.endpoint.kind != "tcp":
        return f"{binding.endpoint} {path}"
    host = binding.endpoint.host
    name = binding.host if binding.host not in ("", "+") else host
    shown = "localhost" if name == "*" else f"[{name}]" if ":" in name else name
    return f"http://{shown}:{binding.endpoint.port}{path}"
