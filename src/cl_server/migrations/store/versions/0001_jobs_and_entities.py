"""The jobs, as the library's `create_all` makes them too, and the store's own tables."""

import sqlalchemy as sa
from alembic import op

from cl_server.migrations.tables import create_table

revision = "0001_jobs_and_entities"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
POSTGRESQL = "postgresql"


def upgrade() -> None:
    """Create every table of the first release."""
    create_jobs()
    create_queue_entries()
    create_job_options()
    create_job_events()
    create_workers()
    create_entities()
    create_storage_folders()


def create_jobs() -> None:
    """Create `jobs`: the lasting record."""
    create_table(
        "jobs",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("task_type", sa.String(255), nullable=False),
        sa.Column("params", sa.Text, server_default="{}", nullable=False),
        sa.Column("status", sa.String(20), server_default="queued", nullable=False),
        sa.Column("progress", sa.Integer, server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("task_output", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("retry_count", sa.Integer, server_default="0", nullable=False),
        sa.Column("max_retries", sa.Integer, server_default="3", nullable=False),
        sa.Column("created_by", sa.String(255)),
        sa.CheckConstraint(
            "status IN ('queued', 'processing', 'completed', 'error', 'cancelled')",
            name="ck_jobs_status",
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name="ck_jobs_progress"),
        sa.CheckConstraint(
            "(status IN ('completed', 'error', 'cancelled')) = (completed_at IS NOT NULL)",
            name="ck_jobs_ended_if_and_only_if_completed_at",
        ),
        sa.CheckConstraint(
            "status <> 'processing' OR started_at IS NOT NULL", name="ck_jobs_started_at"
        ),
        sa.CheckConstraint("max_retries BETWEEN 0 AND 50", name="ck_jobs_max_retries"),
        sa.CheckConstraint("retry_count BETWEEN 0 AND max_retries", name="ck_jobs_retry_count"),
        sqlite_autoincrement=True,
    )
    create_index("jobs", "job_id", unique=True)
    create_index("jobs", "status")
    create_index("jobs", "created_at")
    create_index("jobs", "created_by")


def create_queue_entries() -> None:
    """Create `queue_entries`: what still has to run."""
    create_table(
        "queue_entries",
        sa.Column(
            "id",
            ROW_ID,
            sa.ForeignKey("jobs.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("job_id", sa.String(255), nullable=False),
        sa.Column("task_type", sa.String(255), nullable=False),
        sa.Column("priority", sa.Integer, server_default="5", nullable=False),
        sa.Column("enqueued_at", sa.BigInteger, nullable=False),
        sa.Column("rank", sa.BigInteger),
        sa.Column("available_at", sa.BigInteger),
        sa.Column("claimed_by", sa.BigInteger),
        sa.Column("claim_seq", sa.Integer, server_default="0", nullable=False),
        sa.Column("cancel_requested", sa.Integer, server_default="0", nullable=False),
        sa.Column("timeout_seconds", sa.Float),
        sa.CheckConstraint("priority BETWEEN 0 AND 10", name="ck_queue_entries_priority"),
        sa.CheckConstraint(
            "(rank IS NULL) = (available_at IS NOT NULL)", name="ck_queue_entries_due_or_not"
        ),
        sa.CheckConstraint(
            "claimed_by IS NULL OR rank IS NOT NULL", name="ck_queue_entries_claimed_is_due"
        ),
        sa.CheckConstraint("cancel_requested IN (0, 1)", name="ck_queue_entries_cancel_requested"),
        sa.CheckConstraint("timeout_seconds > 0", name="ck_queue_entries_timeout_seconds"),
    )
    create_index("queue_entries", "job_id", unique=True)
    create_index("queue_entries", "enqueued_at")
    create_partial_index(
        "ix_queue_entries_claim",
        "queue_entries",
        ["task_type", "rank", "id"],
        "claimed_by IS NULL AND rank IS NOT NULL",
    )
    for column in ("available_at", "claimed_by"):
        create_partial_index(
            f"ix_queue_entries_{column}", "queue_entries", [column], f"{column} IS NOT NULL"
        )


def create_job_options() -> None:
    """Create `job_options`: what was asked for beyond the defaults."""
    create_table(
        "job_options",
        sa.Column(
            "id",
            ROW_ID,
            sa.ForeignKey("jobs.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("priority", sa.Integer, server_default="5", nullable=False),
        sa.Column("timeout_seconds", sa.Float),
        sa.Column("idempotency_key", sa.String(255)),
        sa.UniqueConstraint("idempotency_key"),
    )


def create_job_events() -> None:
    """Create `job_events`: the outbox, and what `/events` replays."""
    if op.get_bind().dialect.name == POSTGRESQL:
        op.execute("CREATE SEQUENCE IF NOT EXISTS job_events_position_seq")
    create_table(
        "job_events",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True, nullable=False),
        sa.Column("entry_id", ROW_ID, nullable=False),
        sa.Column("event_type", sa.String(20), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("acknowledged_at", sa.BigInteger),
        sa.Column("position", sa.BigInteger),
        sa.CheckConstraint(
            "event_type IN ('queued', 'started', 'retrying', 'completed', 'failed', 'cancelled')",
            name="ck_job_events_event_type",
        ),
        sqlite_autoincrement=True,
    )
    create_index("job_events", "entry_id")
    create_partial_index(
        "ix_job_events_unacknowledged", "job_events", ["id"], "acknowledged_at IS NULL"
    )
    if op.get_bind().dialect.name == POSTGRESQL:
        create_partial_index(
            "ix_job_events_position",
            "job_events",
            ["position"],
            "position IS NOT NULL",
            unique=True,
        )
        create_partial_index(
            "ix_job_events_without_position", "job_events", ["id"], "position IS NULL"
        )


def create_workers() -> None:
    """Create `workers`: a row per live worker instance."""
    create_table(
        "workers",
        sa.Column(
            "instance_id", sa.BigInteger, primary_key=True, autoincrement=False, nullable=False
        ),
        sa.Column("label", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("capabilities", sa.Text, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("running", sa.Integer, server_default="0", nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("renewed_at", sa.BigInteger, nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger, nullable=False),
    )
    create_index("workers", "lease_expires_at")


def create_entities() -> None:
    """Create `entities`: media files and collections."""
    create_table(
        "entities",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True, nullable=False),
        sa.Column("is_collection", sa.Boolean, nullable=False),
        sa.Column("label", sa.String(255)),
        sa.Column("description", sa.Text),
        sa.Column("parent_id", ROW_ID, sa.ForeignKey("entities.id")),
        sa.Column("added_date", sa.BigInteger, nullable=False),
        sa.Column("updated_date", sa.BigInteger, nullable=False),
        sa.Column("create_date", sa.BigInteger),
        sa.Column("added_by", sa.String(255)),
        sa.Column("updated_by", sa.String(255)),
        sa.Column("file_name", sa.String(255)),
        sa.Column("file_size", sa.BigInteger),
        sa.Column("height", sa.Integer),
        sa.Column("width", sa.Integer),
        sa.Column("duration", sa.Float),
        sa.Column("mime_type", sa.String(255)),
        sa.Column("type", sa.String(20)),
        sa.Column("extension", sa.String(20)),
        sa.Column("md5", sa.String(32)),
        sa.Column("sha256", sa.String(64)),
        sa.CheckConstraint(
            "is_collection = (sha256 IS NULL)", name="ck_entities_collection_or_file"
        ),
        sa.CheckConstraint(
            "type IN ('image', 'video', 'audio', 'text', 'other')", name="ck_entities_type"
        ),
        sqlite_autoincrement=True,
    )
    create_index("entities", "sha256", unique=True)
    for column in ("label", "parent_id", "md5"):
        create_index("entities", column)


def create_storage_folders() -> None:
    """Create `storage_folders`: which folders belong to this database."""
    create_table(
        "storage_folders",
        sa.Column("kind", sa.String(20), primary_key=True, nullable=False),
        sa.Column("marker", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def create_index(table: str, column: str, *, unique: bool = False) -> None:
    """Create the index of one column, as `index=True` names it."""
    op.create_index(f"ix_{table}_{column}", table, [column], unique=unique, if_not_exists=True)


def create_partial_index(
    name: str, table: str, columns: list[str], condition: str, *, unique: bool = False
) -> None:
    """Create an index of only those rows that meet a condition."""
    where = sa.text(condition)
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=where,
        postgresql_where=where,
        if_not_exists=True,
    )
