"""Read waveforms as Pulser does; print their samples."""

import json
import sys
from pathlib import Path

from pulser.json.abstract_repr.deserializer import _deserialize_waveform

stated = json.loads(Path(sys.argv[1]).read_text("utf-8"))
waves = [_deserialize_waveform(one, {}) for one in stated]
print(json.dumps([[float(value) for value in wave.samples.as_array()] for wave in waves]))
