"""The broker over HTTP: the application, its guards and the server that runs it."""

from orchestrator.broker.api.app import ApiSettings, create_app
from orchestrator.broker.api.serving import Listener, serve

__all__ = ["ApiSettings", "Listener", "create_app", "serve"]
