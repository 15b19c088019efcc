"""Any document: it is a configuration, or everything that is wrong is said, with a line that is
there; nothing else comes out.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kernelq.configuration import ConfigurationErrors, read, table
from kernelq.configuration.toml import toml_key, toml_text

SCALARS = st.one_of(
    st.sampled_from(
        ["", "default", "shop", "off", "auto", "30s", "1M", "/", "/x", "*:80:", "a:b", "iis5"]
    ),
    st.sampled_from(["none", "-", "0-1", "03:30", "fd://3:", "unix:/x", "{", "\0", "ä", "50%"]),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 5),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(
        [{"env": "SECRET"}, {"file": "/absent"}, {"env": 1}, {"env": "A", "file": "B"}]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["nofile", "core", "A", "B=", ""]), inner, max_size=2),
    ),
    max_leaves=4,
)


def tables(*sections: table.Section, **inner: Any) -> Any:
    names = st.sampled_from([*(key.name for one in sections for key in one.keys), "nonsense"])
    plain = st.dictionaries(names, VALUES, max_size=5)
    return st.builds(
        lambda values, parts: {**values, **{k: v for k, v in parts.items() if v is not None}},
        plain,
        st.fixed_dictionaries({name: st.none() | one | VALUES for name, one in inner.items()}),
    )


POOL_PARTS = {part.name.partition(".")[2]: tables(part) for part in table.POOL_PARTS}
POOLS = tables(table.POOL, **POOL_PARTS)
APPLICATIONS = st.lists(tables(table.APPLICATION), max_size=3)
SITES = tables(table.SITE, application=APPLICATIONS)
DOCUMENTS = st.builds(
    lambda parts: {name: value for name, value in parts.items() if value is not None},
    st.fixed_dictionaries(
        {
            "server": st.none() | tables(table.SERVER) | VALUES,
            "limits": st.none() | tables(table.LIMITS),
            "cache": st.none() | tables(table.CACHE),
            "defaults": st.none() | st.fixed_dictionaries({"pool": POOLS}) | VALUES,
            "pool": st.none() | st.lists(POOLS, max_size=3) | VALUES,
            "site": st.none() | st.lists(SITES, max_size=3) | VALUES,
        }
    ),
)


def write(document: dict[str, Any]) -> str:
    return "".join(f"{toml_key(name)} = {toml_text(value)}\n" for name, value in document.items())


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The same with what is needed, so that more of it is looked at."""
    for number, one in enumerate(document.get("pool", ())):
        if isinstance(one, dict):
            one["name"] = f"pool{number}"
    for number, one in enumerate(document.get("site", ())):
        if isinstance(one, dict):
            one["name"] = f"site{number}"
            one.pop("bindings", None) if number == 0 else one.update(bindings=f"*:{number}")
            applications = one.get("application")
            for at, application in enumerate(
                applications if isinstance(applications, list) else ()
            ):
                if isinstance(application, dict):
                    application |= {"app": "a:b", "pool": "pool0", "path": f"/{at}"}
    return document


def try_one(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernelq.toml")
        text = write(document)
        file.write_text(text)
        try:
            read(str(file), (), {"SECRET": "hid den"})
        except ConfigurationErrors as refused:
            lines = refused.lines
        else:
            lines = ()
        for line in lines:
            found = re.match(rf"{file}:(\d+): \S", line)
            assert found or "there is no [[site]]" in line, line
            assert not found or int(found[1]) <= text.count("\n")
            assert "hid den" not in line
            assert "\n" not in line


@given(DOCUMENTS)
def test_any_document(document: dict[str, Any]) -> None:
    try_one(document)


@given(DOCUMENTS)
def test_any_document_that_has_names(document: dict[str, Any]) -> None:
    for name in ("pool", "site"):
        if not isinstance(document.get(name, []), list):
            del document[name]
    try_one(complete(document))
