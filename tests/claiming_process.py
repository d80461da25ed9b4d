"""What the processes of `test_claiming_processes.py` run: `claim` all there is, or a `mix`.

    python claiming_process.py URL {claim|alone:FOLDER|mix:ROUNDS} COUNT

It makes that many processes, lets them begin together, and prints as JSON what each of them did:
`{"said": [...], "error": "a traceback" or null}`. They are forked from one that has imported all
that they need, since eight imports at once take longer than the test itself.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.errors import ClaimLost, IllegalTransition
from cl_server_shared import SQLAlchemyJobRepository
from job_backends import complete, engine_for, give_back


def claim_all(repository: SQLAlchemyJobRepository, said: list[str]) -> None:
    """Claim one job after another and complete it, until there is none."""
    while True:
        claimed = repository.fetch_next_jobs(["t"], 1)
        if not claimed:
            return
        (one,) = claimed
        said.append(one.job.job_id)
        complete(repository, one.claim, {})


def claim_alone(repository: SQLAlchemyJobRepository, said: list[str], folder: Path) -> None:
    """Claim and complete until all is done; fail where another holds a job at the same time."""
    total = int((folder / "total").read_text())
    while len(list(folder.glob("done-*"))) < total:
        for claimed in repository.fetch_next_jobs(["t"], 5):
            said.append(claimed.job.job_id)
            (folder / "running").mkdir()  # fails where it is there
            (folder / "running").rmdir()
            complete(repository, claimed.claim, {})
            (folder / f"done-{claimed.job.job_id}").touch()


def mix(repository: SQLAlchemyJobRepository, number: int, said: list[str], rounds: int) -> None:
    """Do everything to the same few jobs at once; only the refusals of the contract are expected."""
    chance = random.Random(number)
    for turn in range(rounds):
        repository.add_job(Job(job_id=f"{number}-{turn}", task_type="t"), priority=turn % 10)
        for claimed in repository.fetch_next_jobs(["t"], chance.randint(1, 5)):
            act = chance.randrange(6)
            try:
                repository.report_progress(claimed.claim, 50)
                if act == 0:
                    repository.fail_job(claimed.claim, "no", retryable=False)
                elif act == 1:
                    repository.fail_job(claimed.claim, "again")
                elif act == 2:
                    give_back(repository, claimed.claim)
                elif act == 3:
                    repository.update_job(claimed.job.job_id, status="completed")
                else:
                    complete(repository, claimed.claim, {})
            except ClaimLost:
                said.append("lost")
        other = f"{chance.randrange(8)}-{chance.randint(0, turn)}"
        try:
            if chance.random() < 0.1:
                repository.delete_job(other)
            else:
                repository.update_job(other, status="cancelled")
        except (ClaimLost, IllegalTransition):
            pass
        if turn % 10 == 9:
            repository.rescue_expired_jobs()
            repository.release_instance()
    repository.release_instance()


def work(url: str, what: str, number: int, begin: Any, results: Any) -> None:
    """Be one of the processes."""
    said: list[str] = []
    error = None
    try:
        engine = engine_for(url)
        repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
        repository.fetch_next_job(["nothing"])  # it is registered before the others begin
        begin.wait(60)
        if what == "claim":
            claim_all(repository, said)
        elif what.startswith("alone:"):
            claim_alone(repository, said, Path(what.split(":", 1)[1]))
        else:
            mix(repository, number, said, rounds=int(what.split(":")[1]))
        repository.release_instance()
        engine.dispose()
    except Exception:
        begin.abort()
        error = traceback.format_exc()
    results.put({"said": said, "error": error})


def main() -> None:
    url, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    forking = multiprocessing.get_context("fork")
    begin, results = forking.Barrier(count), forking.SimpleQueue()
    processes = [
        forking.Process(target=work, args=[url, what, number, begin, results], daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    print(json.dumps([results.get() for _ in processes]))
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
