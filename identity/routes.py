"""HTTP in, one use case, HTTP out."""

from flask import Blueprint, Response, request

from cloud import web
from cloud.security import Principal
from identity import service
from identity.deps import Deps
from identity.domain import AccessToken, SessionId, UserId, Visit
from identity.schema import (
    LoginRequest,
    ProfileRequest,
    RefreshTokenRequest,
    RegisterRequest,
    dump_pair,
    dump_session,
    dump_token,
    dump_user,
)

bp = Blueprint("auth", __name__, url_prefix="/api/auth")


@bp.post("/register")
def register() -> Response:
    """Answer 201 with the account, 400 when a name is taken."""
    deps = web.current(Deps)
    body = RegisterRequest.parse(web.json_body())
    user = service.register(
        body.username,
        body.email,
        body.password,
        body.profile(),
        accounts=deps.accounts,
        trail=deps.trail,
        passwords=deps.passwords,
        visit=_visit(),
        now=deps.now(),
    )
    return web.created(dump_user(user), "Account created")


@bp.post("/login")
def login() -> Response:
    """Answer 200 with a pair of tokens; 400, always the same, when name or password is wrong."""
    deps = web.current(Deps)
    body = LoginRequest.parse(web.json_body())
    pair = service.login(
        body.username,
        body.password,
        accounts=deps.accounts,
        sessions=deps.sessions,
        live=deps.live,
        trail=deps.trail,
        passwords=deps.passwords,
        tokens=deps.tokens,
        lockout=deps.lockout,
        visit=_visit(),
        now=deps.now(),
    )
    return web.ok(dump_pair(pair), "Signed in")


@bp.post("/refresh")
def refresh() -> Response:
    """Answer 200 with a new pair, 400 when the token is spent."""
    deps = web.current(Deps)
    body = RefreshTokenRequest.parse(web.json_body())
    pair = service.refresh(
        body.refresh_token,
        sessions=deps.sessions,
        live=deps.live,
        trail=deps.trail,
        tokens=deps.tokens,
        visit=_visit(),
        now=deps.now(),
    )
    return web.ok(dump_pair(pair), "Token refreshed")


@bp.post("/logout")
def logout() -> Response:
    """Answer 200 when the session is over; the access token is optional, but never a bad one."""
    deps = web.current(Deps)
    caller = web.caller(strict=True)
    body = RefreshTokenRequest.parse(web.json_body())
    service.logout(
        body.refresh_token,
        _access_token(caller) if caller else None,
        sessions=deps.sessions,
        live=deps.live,
        trail=deps.trail,
        visit=_visit(),
        now=deps.now(),
    )
    return web.ok(None, "Signed out")


@bp.post("/logout-all")
@web.authenticated
def logout_all() -> Response:
    """Answer 200 when every session of the caller is over."""
    deps = web.current(Deps)
    service.logout_all(
        _access_token(web.principal()),
        sessions=deps.sessions,
        live=deps.live,
        visit=_visit(),
        now=deps.now(),
    )
    return web.ok(None, "Signed out everywhere")


@bp.get("/me")
@web.authenticated
def me() -> Response:
    """Answer 200 with the caller's account."""
    return web.ok(dump_user(web.current(Deps).accounts.get_user(_user_id())))


@bp.get("/validate")
@web.authenticated
def validate() -> Response:
    """Answer 200 for a live token, 401 for any other."""
    return web.ok(dump_token(web.principal()), "Token is valid")


@bp.put("/profile")
@web.authenticated
def update_profile() -> Response:
    """Answer 200 with the account as it is now."""
    deps = web.current(Deps)
    body = ProfileRequest.parse(web.json_body())
    user = service.update_profile(
        _user_id(), body.profile(), accounts=deps.accounts, visit=_visit(), now=deps.now()
    )
    return web.ok(dump_user(user), "Profile updated")


@bp.get("/sessions")
@web.authenticated
def list_sessions() -> Response:
    """Answer 200 with the caller's live sessions, newest first."""
    deps = web.current(Deps)
    live = deps.sessions.list_active(_user_id(), deps.now())
    return web.ok([dump_session(session) for session in live])


def _user_id() -> UserId:
    return UserId(web.principal().user_id)


def _visit() -> Visit:
    device = request.headers.get("X-Device-Info", "")
    return Visit.of(web.client_ip(), request.headers.get("User-Agent", ""), device)


def _access_token(principal: Principal) -> AccessToken:
    sid = principal.sid or ""
    session_id = SessionId(int(sid)) if sid.isdecimal() else None
    return AccessToken(principal.jti, UserId(principal.user_id), session_id, principal.expires_at)
