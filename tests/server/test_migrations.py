"""Schema changes: equal to `create_all`, one at a time, after a copy, all or nothing."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import Engine, MetaData, text

from cl_server import migrations
from cl_server.migrations import (
    BackupFailed,
    ForeignTable,
    SchemaTooNew,
    Service,
    migrate,
    runner,
    schema_state,
)
from cl_server_shared.engine import create_database_engine, sqlite_module
from cl_server_shared.errors import DatabaseUnavailable
from postgresql_server import PostgresqlServer

SERVICES: tuple[Service, ...] = get_args(Service)


def metadata_of(service: Service) -> MetaData:
    metadata: MetaData = import_module(f"cl_server.{service}.models").Base.metadata
    return metadata


Databases = Callable[[str], AbstractContextManager[Engine]]


@contextmanager
def disposed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    """Makes an empty database of a kind; each SQLite one in a folder of its own."""
    numbers = count()

    @contextmanager
    def make(kind: str) -> Iterator[Engine]:
        if kind == "sqlite":
            directory = tmp_path / f"database {next(numbers)}"
            directory.mkdir()
            url = f"sqlite:///{directory}/a database.db"
            with disposed(create_database_engine(url, module=sqlite_module())) as engine:
                yield engine
        else:
            server: PostgresqlServer = request.getfixturevalue("postgresql_server")
            with server.database(with_tables=False) as url:
                with disposed(create_database_engine(url)) as engine:
                    yield engine

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Engine]:
    with databases(request.param) as engine:
        yield engine


@pytest.fixture
def sqlite_engine(databases: Databases) -> Iterator[Engine]:
    with databases("sqlite") as engine:
        yield engine


# What a database's tables, constraints and indexes are, each under its name.
POSTGRESQL_SCHEMA = """
SELECT 'column ' || table_name || '.' || column_name,
       concat_ws(' ', data_type, character_maximum_length, is_nullable,
                 regexp_replace(column_default, '.*nextval.*', 'serial'))
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'constraint ' || conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
"""

SQLITE_SCHEMA = "SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL"


def schema_of(engine: Engine) -> dict[str, str]:
    is_sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        rows = connection.execute(text(SQLITE_SCHEMA if is_sqlite else POSTGRESQL_SCHEMA)).all()
    return {
        name: normalised(definition)
        for name, definition in rows
        if "alembic_version" not in name and name != "table sqlite_sequence"
    }


def normalised(definition: str) -> str:
    """Without what means the same: white space, and the order of a table's parts."""
    flat = re.sub(r"\s+", " ", definition)
    head, parenthesis, parts = flat.partition("(")
    listed = re.split(r", (?=[a-zA-Z_\"]+ )", parts.strip()[:-1])
    return head + parenthesis + ", ".join(sorted(part.strip() for part in listed))


def file_of(engine: Engine) -> Path:
    return Path(str(engine.url.database))


def backups_of(engine: Engine) -> list[Path]:
    return sorted(file_of(engine).parent.glob("*.before-*"))


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_migrations_make_what_create_all_makes(
    databases: Databases, service: Service, kind: str
) -> None:
    with databases(kind) as migrated, databases(kind) as created:
        migrate(service, migrated)
        metadata_of(service).create_all(created)
        assert schema_of(migrated) == schema_of(created)


@pytest.mark.parametrize("service", SERVICES)
def test_a_new_database_is_made_and_then_left_alone(engine: Engine, service: Service) -> None:
    assert schema_state(service, engine) == "missing"
    migrate(service, engine)
    assert schema_state(service, engine) == "current"
    migrate(service, engine)
    if engine.dialect.name == "sqlite":
        assert backups_of(engine) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_database_of_create_all_is_taken_over(engine: Engine, service: Service) -> None:
    metadata_of(service).create_all(engine)
    before = schema_of(engine)
    assert schema_state(service, engine) == "current"
    migrate(service, engine)
    assert schema_of(engine) == before
    with engine.connect() as connection:
        version = connection.scalar(text(f"SELECT version_num FROM alembic_version_{service}"))
    assert version == runner._newest(service)


def test_a_library_users_database_gets_the_stores_own_tables(engine: Engine) -> None:
    from cl_server_shared.models import Base

    library = [Base.metadata.tables[name] for name in runner.LIBRARY_TABLES["store"]]
    Base.metadata.create_all(engine, tables=library)
    migrate("store", engine)
    names = {name.split()[1].partition(".")[0] for name in schema_of(engine)}
    assert set(metadata_of("store").tables) <= names


def test_one_database_serves_both_services(engine: Engine) -> None:
    for service in SERVICES:
        migrate(service, engine)
    assert [schema_state(service, engine) for service in SERVICES] == ["current", "current"]


def test_services_that_start_at_once_migrate_once(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate("auth", engine), range(4)))
    assert schema_state("auth", engine) == "current"


def test_a_newer_schema_is_refused(engine: Engine) -> None:
    migrate("auth", engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version_auth SET version_num = '9999_later'"))
    assert schema_state("auth", engine) == "newer"
    with pytest.raises(SchemaTooNew, match=r"'9999_later'.*newer CL Server"):
        migrate("auth", engine)


def test_somebody_elses_table_is_not_touched(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE users (id INTEGER, email TEXT)"))
    before = schema_of(engine)
    with pytest.raises(ForeignTable, match="a table 'users' that is not CL Server's"):
        migrate("auth", engine)
    assert schema_of(engine) == before


@pytest.fixture
def with_second_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations with a revision more, which a test writes."""
    folder = tmp_path / "100 % of the migrations"
    shutil.copytree(Path(migrations.__file__).parent, folder)
    monkeypatch.setattr(runner, "FOLDER", folder)
    revision = folder / "auth" / "versions" / "0002_later.py"
    revision.write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        'revision, down_revision = "0002_later", "0001_users"\n'
        "def upgrade():\n"
        '    op.add_column("users", sa.Column("note", sa.Text))\n'
    )
    return revision


@pytest.fixture
def older_engine(engine: Engine) -> Engine:
    """A database as the first release left it, with a row in it."""
    migrate("auth", engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (username, password_hash, is_admin, is_active, permissions,"
                " created_at) VALUES ('ada', 'x', true, true, '[]', 0)"
            )
        )
    return engine


def test_an_older_database_is_brought_up_and_keeps_its_rows(
    older_engine: Engine, with_second_revision: Path
) -> None:
    assert schema_state("auth", older_engine) == "behind"
    migrate("auth", older_engine)
    assert schema_state("auth", older_engine) == "current"
    with older_engine.connect() as connection:
        assert connection.execute(text("SELECT username, note FROM users")).all() == [("ada", None)]
    if older_engine.dialect.name == "sqlite":
        assert len(backups_of(older_engine)) == 1


def test_a_change_that_fails_changes_nothing(
    older_engine: Engine, with_second_revision: Path
) -> None:
    before = schema_of(older_engine)
    with with_second_revision.open("a") as file:
        file.write('    raise ArithmeticError("halfway")\n')
    with pytest.raises(ArithmeticError):
        migrate("auth", older_engine)
    assert schema_of(older_engine) == before
    assert schema_state("auth", older_engine) == "behind"


def test_the_copy_holds_what_was_there_and_is_as_private(sqlite_engine: Engine) -> None:
    metadata_of("auth").create_all(sqlite_engine)
    file_of(sqlite_engine).chmod(0o600)
    before = schema_of(sqlite_engine)
    migrate("auth", sqlite_engine)
    (copy,) = backups_of(sqlite_engine)
    assert copy.name.startswith("a database.db.before-0001_users-")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with disposed(create_database_engine(f"sqlite:///{copy}", module=sqlite_module())) as kept:
        assert schema_of(kept) == before
        with kept.connect() as connection:
            assert not kept.dialect.has_table(connection, "alembic_version_auth")


def test_without_a_copy_nothing_is_changed(
    monkeypatch: pytest.MonkeyPatch, sqlite_engine: Engine
) -> None:
    metadata_of("auth").create_all(sqlite_engine)

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.open", no_room)
    with pytest.raises(BackupFailed, match="No space left on device"):
        migrate("auth", sqlite_engine)
    monkeypatch.undo()
    with sqlite_engine.connect() as connection:
        assert not sqlite_engine.dialect.has_table(connection, "alembic_version_auth")
    assert backups_of(sqlite_engine) == []


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/x.db", "postgresql://nobody:secret@127.0.0.1:1/x"]
)
def test_a_database_that_is_away_is_one_sentence_without_the_password(url: str) -> None:
    with disposed(create_database_engine(url, module=sqlite_module())) as engine:
        for ask in (schema_state, migrate):
            with pytest.raises(DatabaseUnavailable, match="cannot be used") as caught:
                ask("auth", engine)
            assert "secret" not in str(caught.value)


def test_what_is_no_database_is_said(sqlite_engine: Engine) -> None:
    file_of(sqlite_engine).write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        migrate("auth", sqlite_engine)


@pytest.mark.parametrize("service", SERVICES)
def test_the_history_is_one_line_and_revisions_are_named_after_their_files(
    service: Service,
) -> None:
    from alembic.script import ScriptDirectory

    folder = runner.FOLDER
    scripts = ScriptDirectory(str(folder), version_locations=[str(folder / service / "versions")])
    history = [each.revision for each in scripts.walk_revisions()]
    assert history[::-1] == runner._revisions(service)
    assert scripts.get_heads() == [runner._newest(service)]
    assert all(len(name) <= 32 for name in history)  # what Alembic's version table holds


def test_alembic_is_not_imported_where_nothing_is_to_do(sqlite_engine: Engine) -> None:
    migrate("auth", sqlite_engine)
    program = (
        "import sys; from cl_server.migrations import migrate\n"
        "from cl_server_shared.engine import create_database_engine, sqlite_module\n"
        "engine = create_database_engine(sys.argv[1], module=sqlite_module())\n"
        "migrate('auth', engine); engine.dispose(); print('alembic' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(sqlite_engine.url)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "False\n"
