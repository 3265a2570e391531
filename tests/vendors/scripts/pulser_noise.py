"""Print a noise model of Pulser with one chance of reading the ground state as excited."""

import json
import sys

from pulser import NoiseModel

model = NoiseModel(p_false_pos=float(sys.argv[1]), runs=50, samples_per_run=20)
print(json.dumps(json.loads(model.to_abstract_repr())))
