"""Event logs: scanning, checking, histories, catalogue, frequencies."""

from vitrina.log.catalogue import Catalogue
from vitrina.log.checks import CheckReport
from vitrina.log.columns import Columns
from vitrina.log.event_log import EventLog, scan_log
from vitrina.log.frequencies import CountMin, Frequencies
from vitrina.log.histories import Histories

__all__ = [
    "Catalogue",
    "CheckReport",
    "Columns",
    "CountMin",
    "EventLog",
    "Frequencies",
    "Histories",
    "scan_log",
]
