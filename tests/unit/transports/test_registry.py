from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bus.errors import ConfigurationError, MissingExtraError, quoted
from bus.transports.memory import MemoryDriver
from bus.transports.registry import DriverContext, create_driver, schemes
from bus.transports.sql.sqlite_driver import SqliteDriver

ROOT = Path(__file__).parents[3]


def create(dsn: str, **options: object) -> object:
    return create_driver("async", dsn, options, DriverContext(environment={}))


def test_every_scheme_of_this_package_has_a_driver(tmp_path: Path) -> None:
    context = DriverContext(connections={"default": f"sqlite:///{tmp_path}/bus.db"})
    made = {
        scheme: type(create_driver("async", f"{scheme}://{tmp_path if scheme == 'sqlite' else ''}", {}, context))
        for scheme in ("doctrine", "in-memory", "sql", "sqlite")
    }

    assert made == {"doctrine": SqliteDriver, "in-memory": MemoryDriver, "sql": SqliteDriver, "sqlite": SqliteDriver}
    assert set(made) <= set(schemes())


def test_every_scheme_stands_in_a_conformance_module() -> None:
    text = "".join(path.read_text() for path in (ROOT / "tests/conformance").glob("test_*.py"))
    same_driver = {
        "amqps": "amqp",
        "doctrine": "sqlite",
        "mysql": "mariadb",
        "postgres": "postgresql",
        "rediss": "redis",
        "sql": "sqlite",
    }

    assert [each for each in schemes() if f"{same_driver.get(each, each)}://" not in re.sub(r"\s", "", text)] == []


def test_building_a_driver_touches_no_file(tmp_path: Path) -> None:
    create(f"sqlite:///{tmp_path}/var/bus.db")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["kafka", "dramatiq+redis"])
def test_a_transport_of_a_later_version_is_named_as_such(scheme: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        create(f"{scheme}://user:s3cr3t@host")

    assert str(raised.value) == (
        f'Transport "async": "{scheme}://" is not part of this version; it has: {quoted(("sync", *schemes()))}'
    )


def test_an_unknown_scheme_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError, match=r'no driver for "sqlight://"; there are: .*; did you mean "sqlite"\?'):
        create("sqlight:///x")


def test_a_dsn_that_cannot_be_read_names_its_transport() -> None:
    with pytest.raises(ConfigurationError, match=r'^Transport "async": a DSN begins with a scheme'):
        create("nonsense")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install a distribution with an entry point and return what puts a module beside it."""
    metadata = tmp_path / "carrier-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[bus.transports]\npigeon = carrier_pigeon:create\n")
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "carrier_pigeon.py").write_text(text)

    yield write
    sys.modules.pop("carrier_pigeon", None)


def test_an_installed_package_adds_a_scheme(install: Callable[[str], None]) -> None:
    install("def create(name, dsn, options, context): return (name, dsn.scheme, dict(options))")

    assert create("pigeon://loft", speed=5) == ("async", "pigeon", {"speed": 5})
    assert "pigeon" in schemes()


def test_a_missing_library_is_one_sentence_with_the_commands(install: Callable[[str], None]) -> None:
    install("import feathers_and_wings")

    with pytest.raises(MissingExtraError) as raised:
        create("pigeon://loft")

    assert str(raised.value) == (
        'Transport "async": "pigeon://" needs the package "feathers_and_wings", which is not installed; '
        "install it with: pip install feathers_and_wings, or: uv add feathers_and_wings"
    )


def test_another_error_of_a_package_passes_untouched(install: Callable[[str], None]) -> None:
    install("raise RuntimeError('sick')")

    with pytest.raises(RuntimeError, match="sick"):
        create("pigeon://loft")


def test_in_memory_takes_symfonys_option_only_as_it_is_here() -> None:
    create("in-memory://?serialize=true")

    with pytest.raises(ConfigurationError, match='"serialize" cannot be false'):
        create("in-memory://?serialize=false")


def test_options_reach_the_driver(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'unknown option "queue"; .*; did you mean "queue_name"'):
        create(f"sqlite:///{tmp_path}/x.db", queue="failed")
