"""Shapes of bodies: `parse` on the way in, `dump` on the way out."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cloud.envelope import local_date_time
from cloud.schema import Body, Email, Int64, NotBlank, Text
from cloud.security import Principal
from identity.domain import (
    GENRES_LIMIT,
    PASSWORD_LIMIT,
    Profile,
    Session,
    TokenPair,
    User,
)


def _hashable(password: str) -> str:
    if len(password.encode()) > PASSWORD_LIMIT:
        raise ValueError(f"must have at most {PASSWORD_LIMIT} bytes")
    return password


Line = Annotated[str, Text()]
Genres = Annotated[list[Line], Field(max_length=GENRES_LIMIT)]
NewPassword = Annotated[NotBlank, Text(PASSWORD_LIMIT, 6), AfterValidator(_hashable)]


class ProfileRequest(Body):
    """The free text of a profile; null and missing both mean "not given"."""

    full_name: Line | None = None
    phone: Line | None = None
    country: Line | None = None
    date_of_birth: Line | None = None
    gender: Line | None = None
    age: Line | None = None
    avatar_url: Line | None = None
    genres: Genres | None = None

    def profile(self) -> Profile:
        """Read the profile of it."""
        return Profile(
            full_name=self.full_name,
            phone=self.phone,
            country=self.country,
            date_of_birth=self.date_of_birth,
            gender=self.gender,
            age=self.age,
            avatar_url=self.avatar_url,
            genres=None if self.genres is None else tuple(self.genres),
        )


class MembershipChanged(Body):
    """The event `membership.changed` of customer-service."""

    user_id: Int64
    version: Int64
    active: bool


class RegisterRequest(ProfileRequest):
    """A new account."""

    username: Annotated[NotBlank, Text(50, 3)]
    email: Annotated[Email, Text()] | None = None
    password: NewPassword = Field(repr=False)


class LoginRequest(Body):
    """A name, username or e-mail, and the password."""

    username: NotBlank
    password: NotBlank = Field(repr=False)


class RefreshTokenRequest(Body):
    """A refresh token."""

    refresh_token: NotBlank = Field(repr=False)


def dump_user(user: User) -> dict[str, Any]:
    """Write UserResponse."""
    profile = user.profile
    return {
        "id": user.id,
        "username": user.username,
        "email": user.email,
        "status": user.status,
        "roles": sorted(user.roles),
        "permissions": sorted(user.permissions),
        "lastLoginAt": local_date_time(user.last_login_at) if user.last_login_at else "",
        "createdAt": local_date_time(user.created_at),
        "fullName": profile.full_name,
        "avatarUrl": profile.avatar_url,
        "phone": profile.phone,
        "country": profile.country,
        "dateOfBirth": profile.date_of_birth,
        "gender": profile.gender,
        "age": profile.age,
        "genres": None if profile.genres is None else list(profile.genres),
    }


def dump_pair(pair: TokenPair) -> dict[str, Any]:
    """Write AuthResponse."""
    user, profile = pair.user, pair.user.profile
    return {
        "accessToken": pair.access,
        "refreshToken": pair.refresh,
        "tokenType": "Bearer",
        "expiresIn": pair.lifetime // timedelta(seconds=1),
        "userId": user.id,
        "username": user.username,
        "email": user.email,
        "roles": sorted(user.roles),
        "permissions": sorted(user.permissions),
        "fullName": profile.full_name,
        "avatarUrl": profile.avatar_url,
        "phone": profile.phone,
        "country": profile.country,
        "dateOfBirth": profile.date_of_birth,
    }


def dump_session(session: Session) -> dict[str, Any]:
    """Write SessionItem."""
    return {
        "id": session.id,
        "deviceInfo": session.device,
        "ipAddress": session.address,
        "lastAccessAt": local_date_time(session.last_seen_at),
        "createdAt": local_date_time(session.created_at),
    }


def dump_token(principal: Principal) -> dict[str, Any]:
    """Write TokenInfo of a token that was just found to be alive."""
    return {
        "userId": str(principal.user_id),
        "username": principal.username,
        "roles": sorted(principal.roles),
        "permissions": sorted(principal.permissions),
        "valid": True,
    }
