"""Evolve sequences with Pulser's QuTiP backend; print their durations and probabilities."""

import json
import sys
from pathlib import Path

import numpy as np
from pulser import Sequence
from pulser.backend import StateResult
from pulser_simulation import QutipBackendV2, QutipConfig

found = []
for text in json.loads(Path(sys.argv[1]).read_text("utf-8")):
    sequence = Sequence.from_abstract_repr(text)
    config = QutipConfig(observables=[StateResult(evaluation_times=[1.0])])
    state = QutipBackendV2(sequence, config=config).run().final_state.to_qobj().full().ravel()
    # Pulser's first basis state of an atom is the Rydberg state.
    chances = (np.abs(state) ** 2)[::-1]
    found.append({"duration_ns": sequence.get_duration(), "probabilities": chances.tolist()})
print(json.dumps(found))
