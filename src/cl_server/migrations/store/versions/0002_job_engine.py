"""What the job engine keeps beyond the jobs: attempts, pauses and limits, duties, counts.

`queue_entries` and `workers` stay as they are: library users make tables with `create_all`, which
adds no column.
"""

import sqlalchemy as sa
from alembic import op

from cl_server.migrations.tables import create_table

revision = "0002_job_engine"
down_revision = "0001_jobs_and_entities"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# A row there lives for seconds, so vacuum must not wait until a fifth of the table is dead.
VACUUM_OFTEN = (
    "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500, "
    "autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0"
)


def upgrade() -> None:
    """Create the tables, and have PostgreSQL clean up the hot ones often."""
    create_job_attempts()
    create_task_settings()
    create_duties()
    create_job_counts()
    if op.get_bind().dialect.name == "postgresql":
        for table in ("queue_entries", "job_events", "workers", "duties"):
            op.execute(f"ALTER TABLE {table} SET ({VACUUM_OFTEN})")


def create_job_attempts() -> None:
    """Create `job_attempts`: attempts that failed or left a log."""
    create_table(
        "job_attempts",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True, nullable=False),
        sa.Column("entry_id", ROW_ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(255)),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("traceback", sa.Text),
        sa.Column("output", sa.Text),
        sa.CheckConstraint(
            "outcome IN ('completed', 'error', 'timeout', 'crash', 'lost', 'cancelled', "
            "'postponed')",
            name="ck_job_attempts_outcome",
        ),
    )
    op.create_index("ix_job_attempts_entry_id", "job_attempts", ["entry_id"], if_not_exists=True)


def create_task_settings() -> None:
    """Create `task_settings`: pauses and limits per task type."""
    create_table(
        "task_settings",
        sa.Column("task_type", sa.String(255), primary_key=True, nullable=False),
        sa.Column("max_running", sa.Integer),
        sa.Column("paused_at", sa.BigInteger),
        sa.Column("paused_by", sa.String(255)),
        sa.Column("pause_reason", sa.Text),
        sa.CheckConstraint("max_running > 0", name="ck_task_settings_max_running"),
    )


def create_duties() -> None:
    """Create `duties`: who holds which maintenance duty."""
    create_table(
        "duties",
        sa.Column("name", sa.String(50), primary_key=True, nullable=False),
        sa.Column("holder", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("cursor", sa.BigInteger, server_default="0", nullable=False),
    )


def create_job_counts() -> None:
    """Create `job_counts`: ended jobs per minute, task type and outcome."""
    create_table(
        "job_counts",
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False, nullable=False),
        sa.Column("task_type", sa.String(255), primary_key=True, nullable=False),
        sa.Column("outcome", sa.String(20), primary_key=True, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
    )
