"""Event logs: scanning, checking, histories, catalogue, frequencies."""

from vitrina.log.catalogue import Catalogue
from vitrina.log.histories import Histories

__all__ = ["Catalogue", "Histories"]
