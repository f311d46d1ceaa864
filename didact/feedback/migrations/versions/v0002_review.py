"""The review queue: its items, and the exchanges that were made for one."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns of the queue; SQLite takes a reference only with the column itself."""
    reference = sa.ForeignKey("feedback_record.id")
    op.add_column("feedback_record", sa.Column("review", sa.String(64), reference), inline_references=True)
    op.add_column("feedback_record", sa.Column("wanted", sa.Integer))
    op.create_index("ix_feedback_record_review", "feedback_record", ["review"])
