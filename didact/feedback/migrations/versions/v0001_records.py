"""Exchanges and the judgements on them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the table."""
    record = "feedback_record.id"
    op.create_table(
        "feedback_record",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("key", sa.String(200), unique=True),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("type", sa.String(16), nullable=False, index=True),
        sa.Column("kind", sa.String(16)),
        sa.Column("annotator", sa.String(64), index=True),
        sa.Column("exchange", sa.String(64), sa.ForeignKey(record), index=True),
        sa.Column("replaces", sa.String(64), sa.ForeignKey(record), unique=True),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
