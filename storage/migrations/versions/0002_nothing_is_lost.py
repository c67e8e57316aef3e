"""Bounces, paused addresses, what was told of deliveries that failed, and the witness against replays of a backup.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("addresses", sa.Column("paused_at", TIME))
    op.add_column("deliveries", sa.Column("told", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("deliveries", sa.Column("elsewhere", sa.Text()))
    _unfinished_index()
    _undelivered_index()
    _bounces()
    _witness()


def _unfinished_index() -> None:
    unfinished = sa.text("state <> 'done'")
    op.create_index(
        "ix_deliveries_unfinished",
        "deliveries",
        ["created_at", "id"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )


def _undelivered_index() -> None:
    undelivered = sa.text("state IN ('buried', 'bounced') AND NOT told")
    op.create_index(
        "ix_deliveries_undelivered",
        "deliveries",
        ["group_id", "id"],
        sqlite_where=undelivered,
        postgresql_where=undelivered,
    )


def _bounces() -> None:
    op.create_table(
        "bounces",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("delivery_id", ID, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bounces"),
        sa.UniqueConstraint("delivery_id", name="uq_bounces_delivery_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bounces_address_at", "bounces", ["address", "at"])


def _witness() -> None:
    op.create_table(
        "witness",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("count", ID, nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_witness"),
    )
