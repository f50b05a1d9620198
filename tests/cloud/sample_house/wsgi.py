"""Serves what the tests ask for: health, who answers, what the registry lists."""

import os
import time
from pathlib import Path

from flask import Flask, Response, jsonify, request

from cloud.config import environment
from cloud.eureka import view
from cloud.eureka.folder import PREPARED, run_folder

live = environment("tests.cloud.sample_house")
run = run_folder(live.properties)
app = Flask(__name__)


@app.get("/actuator/health/readiness")
def readiness() -> tuple[Response, int]:
    ready = (run / PREPARED).exists() and not Path(run / "sick").exists()
    return jsonify(status="UP" if ready else "DOWN"), 200 if ready else 503


@app.get("/who")
def who() -> Response:
    return jsonify(pid=os.getpid(), ppid=os.getppid())


@app.get("/instances/<service>")
def instances(service: str) -> Response:
    return jsonify([instance.instance_id for instance in view(live).instances(service)])


@app.get("/slow")
def slow() -> Response:
    time.sleep(float(request.args["seconds"]))  # noqa: TID251 - being slow is the point
    return jsonify(pid=os.getpid())


@app.route("/echo", methods=["GET", "POST", "DELETE"])
def echo() -> Response:
    return jsonify(
        method=request.method,
        headers=dict(request.headers),
        args=request.args,
        json=request.get_json(silent=True),
    )
