"""Stripe for tests: stripe-mock judges every request, and a desk in front of it keeps books.

stripe-mock knows Stripe's OpenAPI and refuses what Stripe would; but it forgets at once what it has
made. The desk remembers intents and idempotency keys, and declines as Stripe's test cards do.
"""

import fcntl
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, Response, jsonify, request

from tests.serving import Serving

STRIPE_MOCK = "github.com/stripe/stripe-mock@v0.203.0"
_HOP = {"Host", "Connection", "Content-Length"}
_BIN = Path(__file__).parents[2] / ".data" / "bin"


def stripe_mock() -> Path:
    """Build stripe-mock, once for a checkout; without Go there is nothing to test against."""
    found = _BIN / "stripe-mock"
    _BIN.mkdir(parents=True, exist_ok=True)
    with (_BIN / "stripe-mock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found.exists():
            return found
        go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
        if go is None:
            pytest.skip("GO IS MISSING: the Stripe provider was NOT tested on this machine")
        home = {"HOME": str(Path.home()), "PATH": "/usr/bin:/bin", "GOBIN": str(_BIN)}
        subprocess.run(  # noqa: S603 - a fixed program
            [go, "install", STRIPE_MOCK], check=True, env=home, timeout=600
        )
    return found


class Desk(Serving):
    """Stripe's desk, on a real socket.

    Attributes:
        asked: method, path, form and headers of every request.
        fault: `silent`, `broken` or `key`: what is wrong with it.
    """

    def __init__(self, mock: str) -> None:
        self._mock = mock
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.intents: dict[str, dict[str, Any]] = {}
        self.fault: str | None = None
        self._kept: dict[str, Response] = {}
        self._lock = threading.RLock()
        self._free = threading.Event()
        app = Flask("desk")
        app.add_url_rule("/<path:path>", view_func=self._serve, methods=["GET", "POST"])
        super().__init__(app)

    def close(self) -> None:
        self._free.set()
        super().close()

    def asked_for(self, name: str) -> list[tuple[dict[str, str], dict[str, str]]]:
        """Form and headers of the requests `METHOD path`."""
        return [(form, headers) for asked, form, headers in self.asked if asked == name]

    def _serve(self, path: str) -> Any:
        raw = request.get_data()  # before the form is read, which would use it up
        form, headers = request.form.to_dict(), dict(request.headers)
        self.asked.append((f"{request.method} {path}", form, headers))
        if self.fault == "silent":
            self._free.wait(10)
        if self.fault in {"silent", "broken"}:
            return jsonify(error={"type": "api_error", "message": "broken"}), 500
        if self.fault == "key":
            fault = {"type": "invalid_request_error", "message": "Invalid API Key provided"}
            return jsonify(error=fault), 401
        key = headers.get("Idempotency-Key")
        with self._lock:
            # As Stripe does: the same key, the same answer.
            if request.method == "POST" and key in self._kept:
                return self._kept[key]
            judged = requests.request(
                request.method,
                f"{self._mock}/{path}",
                data=raw,
                headers={k: v for k, v in headers.items() if k not in _HOP},
                timeout=10,
            )
            answer = Response(judged.content, judged.status_code, mimetype="application/json")
            if judged.status_code == 200:
                answer = self._answer(path.split("/")[1:], form, judged.json())
            if key:
                self._kept[key] = answer
            return answer

    def _answer(self, path: list[str], form: dict[str, str], fixture: dict[str, Any]) -> Any:  # noqa: PLR0911 - one for each thing that Stripe has
        match path:
            case ["payment_intents"]:
                made = f"pi_{len(self.intents) + 1}"
                self.intents[made] = {
                    "id": made,
                    "client_secret": f"{made}_secret_x",
                    "amount": int(form["amount"]),
                    "amount_received": 0,
                    "currency": form["currency"],
                    "customer": form["customer"],
                    "status": "requires_payment_method",
                    "last_payment_error": None,
                    "latest_charge": None,
                }
                return jsonify(fixture | self.intents[made])
            case ["payment_intents", known, *verb]:
                if known not in self.intents:
                    return _refused("resource_missing", "intent")
                return self._intent(self.intents[known], verb, form, fixture)
            case ["customers"]:
                return jsonify(fixture | {"id": f"cus_{len(self.asked)}"})
            case ["ephemeral_keys"]:
                return jsonify(fixture | {"secret": f"ek_{form['customer']}"})
            case ["refunds"]:
                intent = self.intents[form["payment_intent"]]
                if intent["amount_received"] == 0:
                    return _refused("charge_already_refunded")
                intent["amount_received"] = 0
                return jsonify(fixture | {"id": f"re_{intent['id']}", "status": "succeeded"})
        return jsonify(fixture)

    def _intent(
        self, intent: dict[str, Any], verb: list[str], form: dict[str, str], fixture: Any
    ) -> Any:
        if verb and intent["status"] in {"succeeded", "canceled"}:
            return _refused("payment_intent_unexpected_state")
        if verb == ["cancel"]:
            intent["status"] = "canceled"
        if verb == ["confirm"]:
            return self._confirm(intent, form["payment_method"], fixture)
        return jsonify(fixture | intent)

    def _confirm(self, intent: dict[str, Any], method: str, fixture: Any) -> Any:
        if method == "pm_card_chargeDeclined":
            reason = {"type": "card_error", "code": "card_declined", "charge": "ch_declined"}
            reason["message"] = "Your card was declined."
            intent["last_payment_error"] = reason
            return jsonify(error=reason), 402
        if method == "pm_card_authenticationRequired":
            intent["status"] = "requires_action"
        elif method == "pm_card_visa":
            self.pay(intent["id"])
        else:
            return _refused("resource_missing", "payment_method")
        return jsonify(fixture | intent)

    def pay(self, intent_id: str) -> None:
        """Let the buyer confirm on his device."""
        intent = self.intents[intent_id]
        charge = intent_id.replace("pi_", "ch_")
        intent |= {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "latest_charge": charge,
            "last_payment_error": None,
        }


def _refused(code: str, param: str | None = None) -> Any:
    fault = {"type": "invalid_request_error", "code": code, "param": param, "message": code}
    return jsonify(error=fault), 400
