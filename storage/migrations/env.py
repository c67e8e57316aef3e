"""What Alembic runs around the revisions. The connection is given by ``storage.versions``, its transaction is open."""

from alembic import context


def run() -> None:
    # transactional_ddl: SQLite can do it, too, now that we begin its transactions ourselves.
    context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


run()
