"""`/api/notifications/devices`, `…/preferences`: where and how the caller wants to be reached."""

from flask import Blueprint, Response

from cloud import web
from notification.deps import Deps
from notification.domain import UserId
from notification.schema import (
    DeviceRequest,
    PreferencesRequest,
    dump_device,
    dump_preferences,
)

bp = Blueprint("people", __name__, url_prefix="/api/notifications")


def _caller() -> UserId:
    return UserId(web.principal().user_id)


@bp.get("/devices")
@web.authenticated
def devices() -> Response:
    """Answer with the caller's devices, the one that registered last first."""
    return web.ok([dump_device(each) for each in web.current(Deps).devices.of_user(_caller())])


@bp.post("/devices")
@web.authenticated
def register_device() -> Response:
    """Answer 201 with the device; a token that somebody else registered is the caller's now."""
    deps, body = web.current(Deps), DeviceRequest.parse(web.json_body())
    found = deps.devices.register(_caller(), body.token, body.platform, now=deps.now())
    return web.created(dump_device(found))


@bp.delete("/devices/<device_id>")
@web.authenticated
def unregister_device(device_id: str) -> Response:
    """Answer 200 whatever the id; only the caller's own is gone."""
    web.current(Deps).devices.unregister(_caller(), device_id)
    return web.ok()


@bp.get("/preferences")
@web.authenticated
def preferences() -> Response:
    """Answer with the caller's choices."""
    return web.ok(dump_preferences(web.current(Deps).preferences.of_user(_caller())))


@bp.put("/preferences")
@web.authenticated
def choose() -> Response:
    """Answer with the choices as they are from now on."""
    chosen = PreferencesRequest.parse(web.json_body()).preferences()
    web.current(Deps).preferences.keep(_caller(), chosen)
    return web.ok(dump_preferences(chosen))
