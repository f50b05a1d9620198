"""The catalogue in MongoDB: documents as Spring Data writes them, changed in place.

A JVM movie service and the import tool may write the same collections.
"""

from movie.store.catalogue import MongoCatalogue
from movie.store.seed import load_seed
from movie.store.setup import prepare
from movie.store.views import MongoViews

__all__ = ["MongoCatalogue", "MongoViews", "load_seed", "prepare"]
