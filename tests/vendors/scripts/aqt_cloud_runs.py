"""Runs circuits with qiskit-aqt-provider in the cloud: URL, file with the control token, folder.

The client checks the signature of its token, so this script signs one with a key of its own, serves
that key on loopback, and has the server accept the token.
"""

import http.server
import json
import sys
import threading
from pathlib import Path

import httpx
import jwt
from aqt_connector import ArnicaConfig
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from qiskit import QuantumCircuit, transpile
from qiskit_aqt_provider import AQTProvider

url, control_file, folder = sys.argv[1:]

key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
public = json.loads(RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "1", "use": "sig"}


class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = json.dumps({"keys": [public]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


keys = http.server.HTTPServer(("127.0.0.1", 0), Keys)
threading.Thread(target=keys.serve_forever, daemon=True).start()

config = ArnicaConfig(Path(folder))
config.arnica_url = f"{url}/api"
config.oidc_config.jwks_url = f"http://127.0.0.1:{keys.server_port}/"
claims = {
    "iss": config.oidc_config.issuer,
    "aud": config.arnica_url,
    "sub": "judge",
    "iat": 1_700_000_000,
    "exp": 4_000_000_000,
}
token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "1"})
Path(folder, "access_token").write_text(token, encoding="utf-8")
httpx.post(
    f"{url}/rehearsal/token",
    content=token,
    headers={"Authorization": f"Bearer {Path(control_file).read_text(encoding='utf-8')}"},
).raise_for_status()

bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()

flipped = QuantumCircuit(3)
flipped.x(0)
flipped.measure_all()

turned = []
for step in range(10):
    circuit = QuantumCircuit(1)
    circuit.rx(step * 3.141592653589793 / 9, 0)
    circuit.measure_all()
    turned.append(circuit)

with AQTProvider() as provider:
    cloud = provider.cloud(config)
    workspaces = cloud.fetch_workspaces()
    backend = workspaces.get_by_id("rehearsal").get_backend("ibex-q1")

    def counts(circuits):
        job = backend.run(transpile(circuits, backend, seed_transpiler=1), shots=1000)
        return job.result().get_counts()

    print(
        json.dumps(
            {
                "qubits": backend.num_qubits,
                "bell": counts(bell),
                "flipped": counts(flipped),
                "turned": counts(turned),
            }
        )
    )
