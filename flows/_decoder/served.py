"""Decoders for `hpcqc realtime serve`, each from its file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows._decoder.trained import is_decoder, load
from flows._inputs import InputError, read_lines, require_extra
from orchestrator.realtime.sessions import Decoder

__all__ = ["correlated", "matching", "network", "of_content"]

_EXTRA = ("decoder", ("stim", "pymatching"))


def network(path: str) -> Decoder:
    """Return the network of a file that `flows.decoder` saved."""
    require_extra(*_EXTRA)
    found = load(path)

    def decode(syndromes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        packed = np.packbits(syndromes, bitorder="little")[None, :]
        return found.flips(packed).astype(np.uint8)

    decode(np.zeros(found.shape.detectors, dtype=np.uint8))  # what is built once
    return Decoder(syndromes=found.shape.detectors, observables=1, decode=decode, title=found.title)


def matching(path: str) -> Decoder:
    """Return matching on a detector error model of Stim's, or on that of a saved network."""
    return _matching(path, correlated=False)


def correlated(path: str) -> Decoder:
    """Return correlated matching on a detector error model, as `matching`."""
    return _matching(path, correlated=True)


def _matching(path: str, *, correlated: bool) -> Decoder:
    require_extra(*_EXTRA)
    import pymatching
    import stim

    text = load(path).model if is_decoder(path) else _text(path)
    try:
        model = stim.DetectorErrorModel(text)
        found = pymatching.Matching.from_detector_error_model(model, enable_correlations=correlated)
    except (ValueError, IndexError) as error:  # the latter from Stim, for an unknown instruction
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: {reason}; expected a detector error model of Stim") from None
    if model.num_detectors < 1 or model.num_observables < 1:
        raise InputError(
            f"{path}: {model.num_detectors} detectors and {model.num_observables} observables; "
            "expected at least one of each"
        )
    decode: Callable[..., NDArray[np.uint8]] = found.decode

    def decoded(syndromes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return decode(syndromes, enable_correlations=correlated)

    decoded(np.zeros(model.num_detectors, dtype=np.uint8))
    return Decoder(
        syndromes=model.num_detectors,
        observables=model.num_observables,
        decode=decoded,
        title=Path(path).name,
    )


def of_content(kind: str, content: bytes) -> Decoder:
    """Return a decoder of one of these kinds from the bytes of its file."""
    with tempfile.NamedTemporaryFile(prefix="hpcqc-decoder-") as file:
        file.write(content)
        file.flush()
        return {"network": network, "matching": matching, "correlated": correlated}[kind](file.name)


def _text(path: str) -> str:
    return "\n".join(line.text for line in read_lines(path))
