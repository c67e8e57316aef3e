"""The first schema: people, trust groups, what came in, posts and their way out, the bot's own memory.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _organisations()
    _contacts()
    _keys()
    _addresses()
    _matrix_ids()
    _groups()
    _members()
    _mails()
    _mail_bodies()
    _events()
    _sync_positions()
    _message_indexes()
    _posts()
    _post_events()
    _sealed_bodies()
    _deliveries()
    _identities()
    _secrets()
    _notices()
    _audit()


def _where(condition: sa.TextClause) -> dict[str, Any]:
    """A partial index, on both databases."""
    return {"sqlite_where": condition, "postgresql_where": condition}


def _organisations() -> None:
    op.create_table(
        "organisations",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("ident", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organisations"),
        sa.UniqueConstraint("ident", name="uq_organisations_ident"),
        sqlite_autoincrement=True,
    )


def _contacts() -> None:
    op.create_table(
        "contacts",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_folded", sa.Text(), nullable=False),
        sa.Column("organisation_id", ID),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name="fk_contacts_organisation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_contacts"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_contacts_name_folded", "contacts", ["name_folded"])
    op.create_index("ix_contacts_organisation_id", "contacts", ["organisation_id"])


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("contact_id", ID, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", TIME),
        sa.ForeignKeyConstraint(["contact_id"], ["contacts.id"], name="fk_keys_contact_id"),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_keys"),
        sa.UniqueConstraint("contact_id", "fingerprint", name="uq_keys_contact_id_fingerprint"),
    )


def _addresses() -> None:
    op.create_table(
        "addresses",
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("contact_id", ID, nullable=False),
        sa.Column("fingerprint", sa.Text()),
        sa.ForeignKeyConstraint(
            ["contact_id", "fingerprint"],
            ["keys.contact_id", "keys.fingerprint"],
            name="fk_addresses_contact_id_fingerprint",
        ),
        sa.ForeignKeyConstraint(["contact_id"], ["contacts.id"], name="fk_addresses_contact_id"),
        sa.PrimaryKeyConstraint("address", name="pk_addresses"),
        sa.UniqueConstraint("contact_id", "address", name="uq_addresses_contact_id_address"),
    )


def _matrix_ids() -> None:
    op.create_table(
        "matrix_ids",
        sa.Column("matrix_id", sa.Text(), nullable=False),
        sa.Column("contact_id", ID, nullable=False),
        sa.ForeignKeyConstraint(["contact_id"], ["contacts.id"], name="fk_matrix_ids_contact_id"),
        sa.PrimaryKeyConstraint("matrix_id", name="pk_matrix_ids"),
        sa.UniqueConstraint("contact_id", "matrix_id", name="uq_matrix_ids_contact_id_matrix_id"),
    )


def _groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_folded", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("key_fingerprint", sa.Text(), nullable=False),
        sa.Column("key_data", sa.LargeBinary(), nullable=False),
        sa.Column("key_expires_at", TIME),
        sa.Column("federate", sa.Boolean(), nullable=False),
        sa.Column("room_token", sa.Text(), nullable=False),
        sa.Column("room_id", sa.Text()),
        sa.Column("room_pin", sa.Text()),
        sa.Column("stopped", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
        sa.UniqueConstraint("address", name="uq_groups_address"),
        sa.UniqueConstraint("key_fingerprint", name="uq_groups_key_fingerprint"),
        sa.UniqueConstraint("name_folded", name="uq_groups_name_folded"),
        sa.UniqueConstraint("room_id", name="uq_groups_room_id"),
        sa.UniqueConstraint("room_token", name="uq_groups_room_token"),
        sqlite_autoincrement=True,
    )


def _members() -> None:
    op.create_table(
        "members",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("group_id", ID, nullable=False),
        sa.Column("contact_id", ID, nullable=False),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("address", sa.Text()),
        sa.Column("matrix_id", sa.Text()),
        sa.CheckConstraint("door <> 'mail' OR address IS NOT NULL", name="ck_members_mail_has_address"),
        sa.CheckConstraint("door <> 'room' OR matrix_id IS NOT NULL", name="ck_members_room_has_matrix_id"),
        sa.ForeignKeyConstraint(
            ["contact_id", "address"],
            ["addresses.contact_id", "addresses.address"],
            name="fk_members_contact_id_address",
        ),
        sa.ForeignKeyConstraint(
            ["contact_id", "matrix_id"],
            ["matrix_ids.contact_id", "matrix_ids.matrix_id"],
            name="fk_members_contact_id_matrix_id",
        ),
        sa.ForeignKeyConstraint(["contact_id"], ["contacts.id"], name="fk_members_contact_id"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_members_group_id"),
        sa.PrimaryKeyConstraint("id", name="pk_members"),
        sa.UniqueConstraint("group_id", "contact_id", name="uq_members_group_id_contact_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_members_contact_id", "members", ["contact_id"])


def _mails() -> None:
    op.create_table(
        "mails",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("group_id", ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("leased_until", TIME),
        sa.Column("code", sa.Text()),
        sa.CheckConstraint("(state = 'queued') = (due_at IS NOT NULL)", name="ck_mails_due"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_mails_group_id"),
        sa.PrimaryKeyConstraint("id", name="pk_mails"),
        sa.UniqueConstraint("group_id", "digest", name="uq_mails_group_id_digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_mails_due", "mails", ["due_at", "id"], **_where(sa.text("due_at IS NOT NULL")))
    op.create_index("ix_mails_lane", "mails", ["group_id", "id"], **_where(sa.text("state = 'queued'")))


def _mail_bodies() -> None:
    op.create_table(
        "mail_bodies",
        sa.Column("mail_id", ID, autoincrement=False, nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["mail_id"], ["mails.id"], name="fk_mail_bodies_mail_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("mail_id", name="pk_mail_bodies"),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("event", sa.Text()),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("session_id", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("leased_until", TIME),
        sa.Column("code", sa.Text()),
        sa.CheckConstraint("(state IN ('queued', 'waiting')) = (due_at IS NOT NULL)", name="ck_events_due"),
        sa.CheckConstraint("due_at IS NULL OR event IS NOT NULL", name="ck_events_event_kept"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("room_id", "event_id", name="uq_events_room_id_event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_due", "events", ["due_at", "id"], **_where(sa.text("due_at IS NOT NULL")))
    op.create_index("ix_events_lane", "events", ["room_id", "id"], **_where(sa.text("state = 'queued'")))
    op.create_index("ix_events_session", "events", ["session_id"], **_where(sa.text("state = 'waiting'")))


def _sync_positions() -> None:
    op.create_table(
        "sync_positions",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("position", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_sync_positions"),
    )


def _message_indexes() -> None:
    op.create_table(
        "message_indexes",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("message_index", ID, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "message_index", name="pk_message_indexes"),
    )


def _posts() -> None:
    op.create_table(
        "posts",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("group_id", ID, nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("author_id", ID),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("author_message_id", sa.Text()),
        sa.Column("event_id", sa.Text()),
        sa.Column("thread_root", sa.Text()),
        sa.Column("parent_id", ID),
        sa.Column("signature_id", sa.Text()),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("sealed_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["author_id"], ["members.id"], name="fk_posts_author_id"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_posts_group_id"),
        sa.ForeignKeyConstraint(["parent_id"], ["posts.id"], name="fk_posts_parent_id"),
        sa.PrimaryKeyConstraint("id", name="pk_posts"),
        sa.UniqueConstraint("group_id", "event_id", name="uq_posts_group_id_event_id"),
        sa.UniqueConstraint("group_id", "message_id", name="uq_posts_group_id_message_id"),
        sa.UniqueConstraint("group_id", "signature_id", name="uq_posts_group_id_signature_id"),
        sa.UniqueConstraint("reference", name="uq_posts_reference"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_posts_author_id", "posts", ["author_id"])
    op.create_index("ix_posts_author_message", "posts", ["group_id", "author_message_id"])
    op.create_index("ix_posts_parent_id", "posts", ["parent_id"])


def _post_events() -> None:
    op.create_table(
        "post_events",
        sa.Column("group_id", ID, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("post_id", ID, nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_post_events_group_id"),
        sa.ForeignKeyConstraint(["post_id"], ["posts.id"], name="fk_post_events_post_id"),
        sa.PrimaryKeyConstraint("group_id", "event_id", name="pk_post_events"),
    )
    op.create_index("ix_post_events_post_id", "post_events", ["post_id"])


def _sealed_bodies() -> None:
    op.create_table(
        "sealed_bodies",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("post_id", ID, nullable=False),
        sa.Column("packet", sa.LargeBinary(), nullable=False),
        sa.Column("group_session_key", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["post_id"], ["posts.id"], name="fk_sealed_bodies_post_id"),
        sa.PrimaryKeyConstraint("id", name="pk_sealed_bodies"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_sealed_bodies_post_id", "sealed_bodies", ["post_id"])


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("post_id", ID, nullable=False),
        sa.Column("group_id", ID, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("member_id", ID),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("sealed_id", ID),
        sa.Column("session_key", sa.LargeBinary()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("leased_until", TIME),
        sa.Column("code", sa.Text()),
        sa.CheckConstraint("(state = 'queued') = (due_at IS NOT NULL)", name="ck_deliveries_due"),
        sa.CheckConstraint("(target = 'mail') = (member_id IS NOT NULL)", name="ck_deliveries_whom"),
        sa.CheckConstraint(
            "due_at IS NULL OR (sealed_id IS NOT NULL AND session_key IS NOT NULL)", name="ck_deliveries_sealed"
        ),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_deliveries_group_id"),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name="fk_deliveries_member_id"),
        sa.ForeignKeyConstraint(["post_id"], ["posts.id"], name="fk_deliveries_post_id"),
        sa.ForeignKeyConstraint(
            ["sealed_id"], ["sealed_bodies.id"], name="fk_deliveries_sealed_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("post_id", "lane", name="uq_deliveries_post_id_lane"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_counts", "deliveries", ["group_id", "state"])
    op.create_index(
        "ix_deliveries_due", "deliveries", ["target", "due_at", "id"], **_where(sa.text("due_at IS NOT NULL"))
    )
    op.create_index("ix_deliveries_lane", "deliveries", ["lane", "id"], **_where(sa.text("state = 'queued'")))
    op.create_index("ix_deliveries_member_id", "deliveries", ["member_id"])
    op.create_index("ix_deliveries_sealed_id", "deliveries", ["sealed_id"])


def _identities() -> None:
    op.create_table(
        "identities",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("master_key", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("pinned_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_identities"),
    )


def _secrets() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("box", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )


def _notices() -> None:
    op.create_table(
        "notices",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("told_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_notices"),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("group_id", ID),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_audit_group_id"),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_recent", "audit", ["group_id", "id"])
