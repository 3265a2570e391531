"""A trained decoder: a network with the model whose matching it corrects, and its file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._decoder.experiments import Bits, unpacked
from flows._decoder.matching import soft_inputs
from flows._decoder.networks import Grid, Shape, initial, logits
from flows._inputs import InputError

__all__ = ["Trained", "content_of", "is_decoder", "load", "save"]

_FORMAT = "hpcqc decoder 1"
_CHUNK = 4096
_LARGEST_BYTES = 1 << 28


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Trained:
    """A network. model: whose gaps are its inputs. title: of the experiment it learned from."""

    shape: Shape
    weights: Mapping[str, NDArray[np.float32]]
    model: str
    title: str

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(sum(weight.size for weight in self.weights.values()))

    def log_odds(self, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the log-odds that the observable flipped, for packed events (shots,)."""
        found = [np.zeros(0, dtype=np.float32)]
        for start in range(0, len(packed), _CHUNK):
            events = unpacked(packed[start : start + _CHUNK], self.shape.detectors)
            soft = soft_inputs(self.model, events)
            found.append(logits(np, self.shape, self.weights, events.astype(np.float32), soft))
        return np.concatenate(found)

    def flips(self, packed: NDArray[np.uint8]) -> Bits:
        """Return whether the observable flipped (shots,)."""
        answer: Bits = self.log_odds(packed) > 0
        return answer


def content_of(decoder: Trained) -> bytes:
    """Return the bytes of a file that `load` reads."""
    described = {
        "format": _FORMAT,
        "kind": decoder.shape.kind,
        "detectors": decoder.shape.detectors,
        "width": decoder.shape.width,
        "title": decoder.title,
        "model": decoder.model,
    }
    content = io.BytesIO()
    arrays: dict[str, Any] = {
        "described": np.frombuffer(json.dumps(described).encode(), dtype=np.uint8),
        "grid": decoder.shape.grid.detector,
    }
    for name, weight in decoder.weights.items():
        arrays[f"weight_{name}"] = np.asarray(weight)
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def save(decoder: Trained, path: str | Path) -> None:
    """Write a decoder to a file that `load` reads; raise `InputError` if it cannot be written."""
    try:
        Path(path).expanduser().write_bytes(content_of(decoder))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a file to write") from None


def load(path: str | Path) -> Trained:
    """Read a decoder; raise `InputError` if the file is not one, or damaged."""
    file = Path(path).expanduser()
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{path}: more than {_LARGEST_BYTES} bytes; expected a decoder")
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as found:
            described = json.loads(found["described"].tobytes())
            if described["format"] != _FORMAT:
                raise ValueError(described["format"])
            weights = {
                name.removeprefix("weight_"): found[name]
                for name in found.files
                if name.startswith("weight_")
            }
            shape = Shape(
                kind=described["kind"],
                detectors=int(described["detectors"]),
                width=int(described["width"]),
                grid=Grid(detector=found["grid"]),
            )
            expected = {name: weight.shape for name, weight in initial(shape, 0).items()}
            if {name: weight.shape for name, weight in weights.items()} != expected:
                raise ValueError("weights")
            model, title = str(described["model"]), str(described["title"])
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; expected a file that flows.decoder saved"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, EOFError):
        raise InputError(
            f"{path}: not a decoder, or damaged; expected a file that flows.decoder saved"
        ) from None
    _check_model(path, model, shape)
    return Trained(shape=shape, weights=weights, model=model, title=title)


def _check_model(path: str | Path, model: str, shape: Shape) -> None:
    import stim

    try:
        found = stim.DetectorErrorModel(model)
    except (ValueError, IndexError):
        raise InputError(f"{path}: its error model is damaged; save the decoder again") from None
    grid = shape.grid.detector
    known = sorted(grid[grid >= 0].tolist()) == list(range(shape.detectors))
    if found.num_detectors != shape.detectors or found.num_observables != 1 or not known:
        raise InputError(
            f"{path}: a network for {shape.detectors} detectors with a model of "
            f"{found.num_detectors}; expected the same; save the decoder again"
        )


def is_decoder(path: str | Path) -> bool:
    """Whether a file begins as those do that `save` writes; False if it cannot be read."""
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False
