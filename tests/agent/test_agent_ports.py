"""The sockets of an agent's broker: the supervisor keeps them open."""

from __future__ import annotations

import socket

import pytest

from orchestrator.agent.plan import AgentSettings, HttpProbe, planned


def test_the_broker_s_sockets_stay_open_while_it_is_away(tmp_path) -> None:
    settings = AgentSettings(state_dir=tmp_path, prefect_url="http://127.0.0.1:9/api")
    settings.folder.prepare()
    plan = planned(settings)
    broker = next(child for child in plan.children if child.name == "broker")
    port = int(plan.addresses["broker"].rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))
    place = tmp_path / "broker.sock"
    assert place.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as early, socket.create_connection(("127.0.0.1", port)):
        early.connect(str(place))  # both wait for the next broker
    assert set(broker.sockets) == {listening.descriptor for listening in plan.sockets}
    api, page = broker.sockets
    assert broker.arguments[-2:] == (f"--listen=fd:{api}", f"--listen=fd:{page}")
    for listening in plan.sockets:
        listening.close()
    assert not place.exists()


def test_a_probe_asks_over_a_unix_socket(tmp_path) -> None:
    probe = HttpProbe(url="http://localhost/health", socket=tmp_path / "b.sock")
    assert not probe.answers(1.0)
    import threading

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "b.sock"))
        listening.listen(1)
        for code, well in ((b"200 OK", True), (b"503 Service Unavailable", False)):

            def serve(code: bytes = code) -> None:
                connection, _ = listening.accept()
                with connection:
                    assert connection.recv(4096).startswith(
                        b"GET /health HTTP/1.1\r\nHost: localhost"
                    )
                    connection.sendall(b"HTTP/1.1 " + code + b"\r\nContent-Length: 0\r\n\r\n")

            thread = threading.Thread(target=serve)
            thread.start()
            assert probe.answers(60.0) is well
            thread.join()
