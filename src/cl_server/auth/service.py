"""What the auth service does: signing in, and looking after users."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cl_server.http.access import OPERATOR, Identity
from cl_server.http.errors import NotFound, Unauthorized

from .errors import UnknownUser
from .passwords import hash_password, is_outdated, make_password, verify_password
from .repository import User, UserRepository
from .schemas import NewUser, UserChanges
from .tokens import IssuedToken, TokenSigner

__all__ = ["AuthService", "FirstAdmin", "make_first_admin"]

logger = logging.getLogger(__name__)

# Which program a token was given to: the claim `client_id`.
SIGN_IN_CLIENT = "cl-server"
LOCAL_CLIENT = "local-server"

# What may be done on the server's own machine without signing in.
LOCAL_PERMISSIONS = frozenset({"media_store_read", "media_store_write", "ai_inference_support"})


@dataclass(frozen=True)
class FirstAdmin:
    """The administrator made at the first start.

    Attributes:
        username: What to sign in with.
        password: Made at random: to be shown once, it is kept nowhere. `None`: the operator's own.
    """

    username: str
    password: str | None


def make_first_admin(
    users: UserRepository, username: str, password: str | None
) -> FirstAdmin | None:
    """Make an administrator where there are no users yet.

    Args:
        users: Where to.
        username: Their name.
        password: Their password; `None`: a random one.

    Returns:
        Who was made; `None`: there are users already.
    """
    if users.find_oldest_admin() is not None:
        return None
    chosen = password or make_password()
    made = users.add_user(
        username,
        hash_password(chosen),
        is_admin=True,
        is_active=True,
        permissions=[],
        only_as_first=True,
    )
    if made is None:
        return None
    logger.info("made the first administrator, %r", username)
    return FirstAdmin(username, None if password else chosen)


class AuthService:
    """Signing in, and looking after users.

    Args:
        users: Who there is.
        signer: Makes their tokens.
    """

    def __init__(self, users: UserRepository, signer: TokenSigner) -> None:
        self.users = users
        self.signer = signer

    def sign_in(self, username: str, password: str) -> IssuedToken:
        """Return a token for the user with this name and password.

        Raises:
            Unauthorized: They do not belong together. The answer, and how long it takes, is the
                same for a user who is not there or not active.
        """
        user = self.users.find_user_by_name(username)
        is_right = verify_password(user.password_hash if user else None, password)
        if user is None or not is_right or not user.is_active:
            raise Unauthorized("the user name or the password is wrong")
        if is_outdated(user.password_hash):
            self.users.update_user(user.id, password_hash=hash_password(password))
        return self.signer.sign(_identity_of(user, SIGN_IN_CLIENT))

    def refresh(self, identity: Identity) -> IssuedToken:
        """Return a new token for who is signed in, with what they may do now.

        Raises:
            Unauthorized: The user is gone or no longer active.
        """
        client_id = identity.client_id if identity is not OPERATOR else SIGN_IN_CLIENT
        return self.signer.sign(_identity_of(self.find_signed_in(identity), client_id))

    def issue_local_token(self, admin_username: str) -> IssuedToken:
        """Return a token for who works on the server's own machine: the admin's, without its rights.

        Args:
            admin_username: Whose, where they are an active admin; else the oldest one's.

        Raises:
            UnknownUser: There is no administrator yet.
        """
        named = self.users.find_user_by_name(admin_username)
        is_usable = named is not None and named.is_admin and named.is_active
        user = named if is_usable else self.users.find_oldest_admin()
        if user is None:
            raise UnknownUser("there is no administrator yet: start the server once")
        return self.signer.sign(_identity_of(user, LOCAL_CLIENT))

    def find_signed_in(self, identity: Identity) -> User:
        """Return the user behind a token, as they are now.

        Raises:
            Unauthorized: They are gone or no longer active.
        """
        if identity is OPERATOR:
            user = self.users.find_oldest_admin()
        else:
            user = self.users.find_user(int(identity.sub)) if identity.sub.isdecimal() else None
        if user is None or not user.is_active:
            raise Unauthorized("the user is gone or no longer active")
        return user

    def current_rights(self, identity: Identity) -> Identity:
        """Return what the user behind a token may do now: a token may be older than a demotion.

        Raises:
            Unauthorized: They are gone or no longer active.
        """
        return _identity_of(self.find_signed_in(identity), identity.client_id)

    def create_user(self, new: NewUser) -> User:
        """Add a user.

        Raises:
            NameTaken: Another one has this name.
            EverythingIsAdmins: `*` is granted to somebody who is no admin.
        """
        user = self.users.add_user(
            new.username,
            hash_password(new.password),
            is_admin=new.is_admin,
            is_active=new.is_active,
            permissions=new.permissions,
        )
        assert user is not None
        return user

    def list_users(self, *, skip: int, limit: int) -> list[User]:
        """Return users in the order in which they came."""
        return self.users.list_users(skip=skip, limit=limit)

    def get_user(self, user_id: int) -> User:
        """Return one user.

        Raises:
            NotFound: There is no such user.
        """
        return _found(self.users.find_user(user_id), user_id)

    def update_user(self, user_id: int, changes: UserChanges) -> User:
        """Change what was sent of a user.

        Raises:
            NotFound: There is no such user.
            LastAdmin: No active admin would be left.
            EverythingIsAdmins: `*` is granted to somebody who is no admin.
        """
        sent = changes.model_fields_set
        changed = self.users.update_user(
            user_id,
            password_hash=hash_password(changes.password) if "password" in sent else None,
            is_admin=changes.is_admin if "is_admin" in sent else None,
            is_active=changes.is_active if "is_active" in sent else None,
            permissions=changes.permissions if "permissions" in sent else None,
        )
        return _found(changed, user_id)

    def delete_user(self, user_id: int) -> None:
        """Remove a user.

        Raises:
            NotFound: There is no such user.
            LastAdmin: No active admin would be left.
        """
        if not self.users.delete_user(user_id):
            raise _unknown(user_id)


def _identity_of(user: User, client_id: str) -> Identity:
    if client_id == LOCAL_CLIENT:
        return Identity(str(user.id), LOCAL_PERMISSIONS, is_admin=False, client_id=client_id)
    return Identity(str(user.id), frozenset(user.permissions), user.is_admin, client_id)


def _found(user: User | None, user_id: int) -> User:
    if user is None:
        raise _unknown(user_id)
    return user


def _unknown(user_id: int) -> NotFound:
    return NotFound(f"there is no user {user_id}")
