"""Sites and their applications: made from checked tables, and checked against each other."""

import functools
import re
from collections.abc import Sequence

from kernelq import isolation
from kernelq.application import parse_reference
from kernelq.binding import Binding, SiteBinding, parse_binding
from kernelq.config import ApplicationSettings, ServerSettings, SiteSettings
from kernelq.configuration import machine, table
from kernelq.configuration.errors import Path, describe
from kernelq.configuration.read import Checked, CheckedSite, Document, Reader
from kernelq.configuration.toml import toml_text
from kernelq.errors import OptionError
from kernelq.options import DEFAULT_BINDING
from kernelq.sites import Use, find_conflicts, find_host, parse_site_binding, parse_site_path

_POOLS_SHOWN = 8
_NO_SITE = (
    "there is no [[site]]; needed is at least one, with an application (`kernelq config example` "
    "prints a file to start from)"
)


# An application's settings, and the table that they were made from.
Made = tuple[ApplicationSettings, Checked]
Seen = dict[str, Path]  # where a name was given first


class Sites:
    """Makes the sites and their applications."""

    def __init__(
        self,
        reader: Reader,
        document: Document,
        settings: ServerSettings,
        passed: Sequence[Binding],
    ) -> None:
        self._reader = reader
        self._document = document
        self._is_iis5 = settings.isolation_mode == "iis5"
        self.applications: list[Made] = []  # of all sites, in the order of the file
        self._passed = passed
        self._pool_names = [pool.name for pool in document.pools] or [table.DEFAULT_POOL]
        self._only_pool = self._pool_names[0] if len(self._pool_names) == 1 else ""
        # Of pools whose own name is wrong, nothing can be said about who names them.
        self._knows_pools = all(pool.own.values["name"] for pool in document.pools)
        self._directory = document.defaults.own.values["directory"] or reader.base
        self._directories = dict.fromkeys(self._pool_names, self._directory)
        for pool in document.pools:
            if pool.own.values["directory"]:
                self._directories[pool.name] = pool.own.values["directory"]

    def make(self) -> list[SiteSettings]:
        """All sites; their applications stand in `applications` too."""
        if not self._document.sites:
            self._reader.report((), _NO_SITE)
        made = []
        names: Seen = {}
        for site in self._document.sites:
            name = site.own.values["name"]
            report_twice(self._reader, names, name, site.own.path_of("name"), "site")
            bindings = self._bindings(site)
            made.append(
                SiteSettings(
                    name=name or "",
                    bindings=bindings,
                    applications=tuple(self._applications(site, find_host(bindings))),
                    auto_start=site.own.values["auto_start"],
                )
            )
        self._report_conflicts(made)
        return made

    def _bindings(self, site: CheckedSite) -> tuple[SiteBinding, ...]:
        words = site.own.values["bindings"]
        if words is None:
            if "bindings" in site.own.origins:
                return ()  # what is wrong with them is said already
            named = {
                one for each in self._document.sites for one in each.own.values["bindings"] or ()
            }
            free = [one for one in self._passed if str(one) not in named]
            return tuple(SiteBinding(one) for one in free or [parse_binding(DEFAULT_BINDING)])
        path = site.own.path_of("bindings")
        made = []
        for number, text in enumerate(words):
            try:
                made.append(parse_site_binding(text))
            except ValueError as wrong:
                place = (*path, number) if len(words) > 1 else path
                self._reader.report_words(place, str(wrong))
        return tuple(made)

    def _report_conflicts(self, sites: list[SiteSettings]) -> None:
        for conflict in find_conflicts(sites):
            path = self._place_of(sites, conflict.second)
            self._reader.report(path, conflict.text, self._place_of(sites, conflict.first))

    def _place_of(self, sites: list[SiteSettings], use: Use) -> Path:
        own = self._document.sites[use.site].own
        path = own.path_of("bindings")
        words = own.values["bindings"] or ()
        # Of those that are refused nothing is made, and then the numbers say nothing.
        is_known = 1 < len(words) == len(sites[use.site].bindings)
        return (*path, use.binding) if is_known else path

    def _applications(self, site: CheckedSite, host: str) -> list[ApplicationSettings]:
        if not site.applications:
            self._reader.report(
                site.own.path,
                "there is no application; needed is at least one [[site.application]]",
            )
        made: list[ApplicationSettings] = []
        paths: Seen = {}
        for application in site.applications:
            made += self._application(site, application, paths, host)
        return made

    def _application(
        self, site: CheckedSite, application: Checked, paths: Seen, host: str
    ) -> list[ApplicationSettings]:
        values = application.values
        app, targets = values["app"], values["path"]
        pool = self._pool_of(site, application)
        wrong = _refusal_of(app) if app is not None else ""
        if wrong:
            self._reader.refuse(application.path_of("app"), app, wrong)
        for number, target in enumerate(values["warm_up"]):
            if not _is_target(target):
                place = (*application.path_of("warm_up"), number)
                self._reader.refuse(place, target, 'a target such as "/health"')
        machine.check_directory(self._reader, application, "directory")
        made = []
        for number, text in enumerate(targets):
            place = application.path_of("path")
            place = (*place, number) if len(targets) > 1 else place
            path = self._path(text, place)
            if not path or report_twice(self._reader, paths, path, place, "an application of path"):
                continue
            settings = ApplicationSettings(
                path=path,
                app=app or "",
                pool=pool,
                directory=values["directory"] or self._directories.get(pool, self._directory),
                environment=values["environment"],
                warm_up=values["warm_up"],
                site=site.own.values["name"] or "",
                host=host,
            )
            made.append(settings)
            self.applications.append((settings, application))
        return made

    def _path(self, text: str, place: Path) -> str:
        try:
            if re.search(r"%[0-9A-Fa-f]{2}|[?#]", text):
                raise ValueError(
                    f"found the path {describe(text)}, allowed is one as it reads decoded "
                    '("/a b" and not "/a%20b"), without query and fragment'
                )
            return parse_site_path(text)
        except ValueError as wrong:
            self._reader.report_words(place, str(wrong))
            return ""

    def _pool_of(self, site: CheckedSite, application: Checked) -> str:
        """The name of its pool, or of its host process."""
        word = application.values["isolation"]
        if self._is_iis5:
            path = application.values["path"][0]
            return isolation.host_name(word or "", str(site.own.values["name"]), path)
        if word is not None:
            self._reader.report(
                application.path_of("isolation"),
                'has a meaning only with isolation_mode = "iis5" in [server]; here an application '
                "is isolated by a pool of its own",
            )
        name = application.values["pool"]
        if not self._knows_pools:
            return str(name)
        known = ", ".join(self._pool_names[:_POOLS_SHOWN])
        known += ", ..." if len(self._pool_names) > _POOLS_SHOWN else ""
        if name is None:
            if "pool" not in application.origins and not self._only_pool:
                self._reader.report(application.path, f"there is no pool; allowed are {known}")
            return self._only_pool
        if name not in self._directories:
            self._reader.refuse_name(application.path_of("pool"), "pool", name, known)
        return str(name)


def report_twice(reader: Reader, seen: Seen, name: str | None, path: Path, what: str) -> bool:
    """Whether the name was there already; then it is reported, else remembered."""
    if not name:
        return False
    if name in seen:
        reader.report(path, f"{what} {toml_text(name)} is there already", seen[name])
        return True
    seen[name] = path
    return False


@functools.lru_cache(4096)
def _refusal_of(app: str) -> str:
    """What would be allowed in place of an application's name; empty if it is right."""
    try:
        parse_reference(app)
    except OptionError as refused:
        return str(refused).partition("allowed is ")[2] or str(refused).partition("allowed are ")[2]
    return ""


def _is_target(text: str) -> bool:
    return text.startswith("/") and text.isascii() and text.isprintable() and " " not in text
