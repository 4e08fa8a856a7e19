"""Serving: the HTTP API, the console and the online state around `Pipeline.recommend`."""

from vitrina.serve.app import create_app, run
from vitrina.serve.folder import Papers, open_service
from vitrina.serve.service import Service
from vitrina.serve.settings import Settings
from vitrina.serve.state import State

__all__ = ["Papers", "Service", "Settings", "State", "create_app", "open_service", "run"]
