"""The unit of work: everything that is remembered, within one transaction."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from storage.audit import Audit
from storage.bounces import Bounces
from storage.contacts import Contacts, Organisations
from storage.deliveries import Deliveries
from storage.events import Events
from storage.groups import Groups
from storage.identities import Identities
from storage.mails import Mails
from storage.members import Members
from storage.notices import Notices
from storage.posts import Posts
from storage.queue import Queue
from storage.retention import Retention
from storage.secrets import Sealer, Secrets
from storage.witness import Witness


class Store:
    """What ``Database.transaction()`` gives: use it inside that block and no longer."""

    def __init__(self, connection: AsyncConnection, sealer: Sealer) -> None:
        self.organisations = Organisations(connection)
        self.contacts = Contacts(connection)
        self.groups = Groups(connection)
        self.members = Members(connection)
        self.mails = Mails(connection)
        self.events = Events(connection)
        self.posts = Posts(connection)
        self.deliveries = Deliveries(connection)
        self.bounces = Bounces(connection)
        self.queue = Queue(connection)
        self.retention = Retention(connection)
        self.identities = Identities(connection)
        self.witness = Witness(connection)
        self.secrets = Secrets(connection, sealer)
        self.notices = Notices(connection)
        self.audit = Audit(connection)
