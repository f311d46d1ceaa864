"""Runs the migrations on the connection that the store hands over, inside its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="feedback_version")
context.run_migrations()
