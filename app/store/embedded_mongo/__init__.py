"""A real MongoDB server that Weir starts, shares and stops when no MONGODB_URI is configured.

One process owns the server of a data directory (gunicorn's master, or a command that found none running);
every other process attaches through the URI file. `docs/embedded-mongodb.md` tells the whole story.
"""

from app.store.embedded_mongo.errors import EmbeddedMongoError
from app.store.embedded_mongo.handle import Handle, acquire, has_database, running_uri
from app.store.embedded_mongo.server import EmbeddedMongo

__all__ = [
    "EmbeddedMongo",
    "EmbeddedMongoError",
    "Handle",
    "acquire",
    "has_database",
    "running_uri",
]
