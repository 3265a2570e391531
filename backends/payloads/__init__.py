"""What a backend's ``start`` carries: payloads of any kind, and those of Qiskit's primitives."""

from backends.annealing.wire import AnnealingProblem, AnnealingSamples
from backends.payloads.analog import AnalogCounts, AnalogItem, AnalogPayload
from backends.payloads.annealing import AnnealingPayload
from backends.payloads.estimator import EstimatorPayload, FrozenEstimatorPub
from backends.payloads.kind import Payload, PayloadKind, PayloadLimits
from backends.payloads.pubs import SEEDS, PubPayload, Values
from backends.payloads.registry import (
    kind_names,
    load_kinds,
    payload_from_bytes,
    payload_from_untrusted,
    payload_kind,
)
from backends.payloads.sampler import MOST_SHOTS, SEED_STRIDE, FrozenSamplerPub, SamplerPayload
from backends.quadratic_models import BinaryQuadraticModel
from backends.shapes import ItemShape, Piece

__all__ = [
    "MOST_SHOTS",
    "SEEDS",
    "SEED_STRIDE",
    "AnalogCounts",
    "AnalogItem",
    "AnalogPayload",
    "AnnealingPayload",
    "AnnealingProblem",
    "AnnealingSamples",
    "BinaryQuadraticModel",
    "EstimatorPayload",
    "FrozenEstimatorPub",
    "FrozenSamplerPub",
    "ItemShape",
    "Payload",
    "PayloadKind",
    "PayloadLimits",
    "Piece",
    "PubPayload",
    "SamplerPayload",
    "Values",
    "kind_names",
    "load_kinds",
    "payload_from_bytes",
    "payload_from_untrusted",
    "payload_kind",
]
