"""Users in SQL: the only place of the auth service that does."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, delete, exists, select, text
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from cl_server.migrations import migrate, schema_state
from cl_server_shared.engine import create_database_engine, sqlite_module
from cl_server_shared.errors import DatabaseUnavailable

from . import models
from .errors import EverythingIsAdmins, LastAdmin, NameTaken

__all__ = ["User", "UserRepository", "open_users"]

MAX_ID = 2**63 - 1

# An admin's, and nobody else's: it is not kept, but follows from `is_admin`.
EVERYTHING = "*"

# What a demoted admin loses.
ADMIN_PERMISSIONS = frozenset({"admin", EVERYTHING})


@dataclass(frozen=True)
class User:
    """A user as they are in the database.

    Attributes:
        id: Never given twice.
        username: What they sign in with.
        password_hash: argon2id.
        is_admin: Whether they may do everything.
        is_active: Whether they may sign in.
        permissions: What was granted, in the order given; an admin's begin with `*`.
        created_at: In milliseconds since the epoch, UTC.
    """

    id: int
    username: str
    password_hash: str
    is_admin: bool
    is_active: bool
    permissions: tuple[str, ...]
    created_at: int


def open_users(database_url: str) -> UserRepository:
    """Return the users of a database; connects at the first use. What it wrote survives loss of power.

    Args:
        database_url: A SQLAlchemy URL.
    """
    return UserRepository(
        create_database_engine(database_url, module=sqlite_module(), synchronous="FULL")
    )


class UserRepository:
    """Users of one database. Threads may share it.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions = sessionmaker(engine)

    def migrate(self) -> None:
        """Make the tables, or bring them to what this program expects.

        Raises:
            MigrationError: That cannot be done; says what to do.
            DatabaseUnavailable: The database does not answer.
        """
        migrate("auth", self._engine)

    def is_there(self) -> bool:
        """Return whether the database has been made; looks without making anything."""
        file = self._file()
        if file is not None and not file.is_file():
            return False
        return schema_state("auth", self._engine) == "current"

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def check(self) -> None:
        """Return where the database answers.

        Raises:
            DatabaseUnavailable: It does not.
        """
        with self._reading() as session:
            session.execute(text("SELECT 1"))

    def add_user(
        self,
        username: str,
        password_hash: str,
        *,
        is_admin: bool,
        is_active: bool,
        permissions: Sequence[str],
        only_as_first: bool = False,
    ) -> User | None:
        """Store a new user.

        Args:
            username: Nobody else's.
            password_hash: argon2id.
            is_admin: Whether they may do everything.
            is_active: Whether they may sign in.
            permissions: What is granted.
            only_as_first: Do nothing, and return `None`, where there is any user.

        Raises:
            NameTaken: Another user has this name.
            EverythingIsAdmins: `*` is granted to somebody who is no admin.
        """
        _check_everything(permissions, is_admin=is_admin)
        row = models.User(
            username=username,
            password_hash=password_hash,
            is_admin=is_admin,
            is_active=is_active,
            permissions=_stored(permissions),
            created_at=time.time_ns() // 1_000_000,
        )
        try:
            with self._writing() as session:
                if only_as_first and session.scalar(select(exists().select_from(models.User))):
                    return None
                session.add(row)
                session.flush()
                return _user(row)
        except IntegrityError as error:
            if only_as_first:  # another process was first, on PostgreSQL
                return None
            raise NameTaken(username) from error

    def find_user(self, user_id: int) -> User | None:
        """Return the user with this id."""
        if not 0 < user_id <= MAX_ID:
            return None
        with self._reading() as session:
            row = session.get(models.User, user_id)
            return _user(row) if row is not None else None

    def find_user_by_name(self, username: str) -> User | None:
        """Return the user with this name, in whichever way its accents are written."""
        username = unicodedata.normalize("NFC", username)
        if "\0" in username:  # PostgreSQL refuses to look for it
            return None
        with self._reading() as session:
            row = session.scalar(select(models.User).where(models.User.username == username))
            return _user(row) if row is not None else None

    def find_oldest_admin(self) -> User | None:
        """Return the active admin who has been there longest."""
        with self._reading() as session:
            row = session.scalar(_active_admins().limit(1))
            return _user(row) if row is not None else None

    def list_users(self, *, skip: int, limit: int) -> list[User]:
        """Return users in the order in which they came, `limit` of them after the first `skip`."""
        query = select(models.User).order_by(models.User.id).offset(skip).limit(limit)
        with self._reading() as session:
            return [_user(row) for row in session.scalars(query)]

    def update_user(
        self,
        user_id: int,
        *,
        password_hash: str | None = None,
        is_admin: bool | None = None,
        is_active: bool | None = None,
        permissions: Sequence[str] | None = None,
    ) -> User | None:
        """Change a user; the last active admin stays one. `None` leaves a value as it is.

        Args:
            user_id: Whose row.
            password_hash: argon2id.
            is_admin: Whether they may do everything. Without it they lose `ADMIN_PERMISSIONS`
                too, unless `permissions` names them.
            is_active: Whether they may sign in.
            permissions: What is granted.

        Returns:
            The user as they are now; `None`: there is no such user.

        Raises:
            LastAdmin: No active admin would be left.
            EverythingIsAdmins: `*` is granted to somebody who is no admin.
        """
        if not 0 < user_id <= MAX_ID:
            return None
        with self._writing() as session:
            admins = session.scalars(_active_admins().with_for_update()).all()
            row = session.get(models.User, user_id, with_for_update=True)
            if row is None:
                return None
            if is_admin is False and row.is_admin and permissions is None:
                permissions = [
                    each for each in _user(row).permissions if each not in ADMIN_PERMISSIONS
                ]
            row.password_hash = row.password_hash if password_hash is None else password_hash
            row.is_admin = row.is_admin if is_admin is None else is_admin
            row.is_active = row.is_active if is_active is None else is_active
            _check_everything(permissions or (), is_admin=row.is_admin)
            row.permissions = row.permissions if permissions is None else _stored(permissions)
            if [admin.id for admin in admins] == [user_id] and not (row.is_admin and row.is_active):
                raise LastAdmin(row.username)
            session.flush()
            return _user(row)

    def delete_user(self, user_id: int) -> bool:
        """Remove a user; `False`: there is no such user.

        Raises:
            LastAdmin: No active admin would be left.
        """
        if not 0 < user_id <= MAX_ID:
            return False
        with self._writing() as session:
            admins = session.scalars(_active_admins().with_for_update()).all()
            if [admin.id for admin in admins] == [user_id]:
                raise LastAdmin(admins[0].username)
            removal = delete(models.User).where(models.User.id == user_id)
            return session.scalar(removal.returning(models.User.id)) is not None

    def _file(self) -> Path | None:
        """The SQLite file; `None`: another database, or one in memory."""
        name = self._engine.url.database
        is_file = self._engine.dialect.name == "sqlite" and name not in (None, "", ":memory:")
        return Path(str(name)) if is_file else None

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with _mapped_errors(), self._sessions() as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction that no other write comes between: what it read still holds at its end.

        On PostgreSQL the rows that a decision rests on are locked as they are read.
        """
        with _mapped_errors(), self._sessions.begin() as session:
            if self._engine.dialect.name == "sqlite":
                session.connection().exec_driver_sql("BEGIN IMMEDIATE")
            yield session


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise DatabaseUnavailable(f"the users' database: {error.orig}") from error


def _check_everything(permissions: Sequence[str], *, is_admin: bool) -> None:
    if EVERYTHING in permissions and not is_admin:
        raise EverythingIsAdmins


def _stored(permissions: Sequence[str]) -> str:
    kept = [each for each in permissions if each != EVERYTHING]
    return json.dumps(kept, ensure_ascii=False)


def _active_admins() -> Any:
    return (
        select(models.User)
        .where(models.User.is_admin, models.User.is_active)
        .order_by(models.User.id)
    )


def _user(row: models.User) -> User:
    # Where `*` is kept nevertheless, by an earlier version or another program, it makes no admin.
    granted = [each for each in json.loads(row.permissions) if each != EVERYTHING]
    return User(
        id=row.id,
        username=row.username,
        password_hash=row.password_hash,
        is_admin=row.is_admin,
        is_active=row.is_active,
        permissions=(EVERYTHING, *granted) if row.is_admin else tuple(granted),
        created_at=row.created_at,
    )
