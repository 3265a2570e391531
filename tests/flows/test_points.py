"""Files of points: every accepted form gives the same points, all others are refused by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows._inputs import InputError
from flows._points import from_table, generated, nearest, sampled
from tests.errors import naming

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "clustering-mis"
LINES = [f"{x},{x * x / 4}" for x in range(12)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3, st.integers(0, 4)),
        min_size=10,
        max_size=20,
    ),
    separator=st.sampled_from([",", ";", "\t", ", "]),
    named=st.booleans(),
    comment=st.sampled_from(["", "# measured\n", "\n"]),
    quoted=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_every_form_of_a_table_gives_its_points(
    rows, separator, named, comment, quoted, end, tmp_path
) -> None:
    mark = '"' if quoted and separator != ", " else ""
    lines = [separator.join(f"{mark}{cell}{mark}" for cell in row) for row in rows]
    heading = [separator.join(["a", "b", "c", "Cluster"])] if named else []
    file = tmp_path / "points.csv"
    file.write_bytes((comment + end.join([*heading, *lines]) + end).encode())
    found = from_table(str(file))
    width = 3 if named else 4
    np.testing.assert_array_equal(found.coordinates, [row[:width] for row in rows])
    assert found.axes == (("a", "b", "c") if named else ("x1", "x2", "x3", "x4"))
    assert found.truth == (tuple(str(row[3]) for row in rows) if named else None)
    assert np.isfinite(found.scaled()).all()
    assert np.abs(found.scaled()).max() <= 1


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the public files in {SHARED}")
@pytest.mark.parametrize(
    ("name", "size", "axes", "labels"),
    [
        ("cluster_points_article", 788, ("x", "y"), 7),
        ("cluster_points_80k", 80_000, ("Feature 1", "Feature 2"), 8),
    ],
)
def test_the_published_points_are_read(name, size, axes, labels) -> None:
    found = from_table(str(SHARED / f"{name}.csv"))
    assert (len(found), found.axes) == (size, axes)
    assert len(set(found.truth or ())) == labels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", naming("empty")),
        ("# only this\n", naming("comments")),
        ("\n".join(LINES[:9]), naming(9, 10)),
        ("\n".join(["x,y", *LINES[:9]]), naming(9, 10)),
        ("\n".join([*LINES, "1,2,3"]), naming("line 13", "1,2,3", "2 columns")),
        ("\n".join([*LINES, "1"]), naming("line 13", "2 columns")),
        ("\n".join([*LINES, "1,nan"]), naming("line 13", "nan")),
        ("\n".join([*LINES, "1,1e999"]), naming("line 13", "1e999")),
        ("\n".join([*LINES, "1,"]), naming("line 13")),
        ("\n".join([*LINES, "1,two"]), naming("line 13", "1,two")),
        ("\n".join(["x,2", *LINES]), naming("line 1", "x,2")),
        ("\n".join(["x,x", *LINES]), naming("line 1", "x,x")),
        ("\n".join(["x,", *LINES]), naming("line 1")),
        ("\n".join(["label", *map(str, range(12))]), naming("line 2", "coordinates")),
        ("\n".join(["x;y,z", *LINES]), naming("line 1", "separator")),
        ("\n".join(['"1,2', *LINES]), naming("line 1", "quotes")),
        ("\n".join(["x,label", *LINES[:11], "3,"]), naming("line 13", "label")),
        ("\n".join(f"{x},5;{x},2" for x in range(12)), naming("line 1", "separator")),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(text, said, tmp_path) -> None:
    file = tmp_path / "points.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        from_table(str(file))


def test_a_sample_is_in_the_files_order_and_the_same_again() -> None:
    points = generated(4)
    few = sampled(points, 40, 7)
    rows = [np.flatnonzero((points.coordinates == row).all(axis=1))[0] for row in few.coordinates]
    assert rows == sorted(set(rows))
    assert len(rows) == 40
    assert few.truth == tuple((points.truth or ())[row] for row in rows)
    np.testing.assert_array_equal(few.coordinates, sampled(points, 40, 7).coordinates)
    assert sampled(points, len(points), 7) is points


def test_the_others_get_the_label_of_the_nearest() -> None:
    points = generated(4)
    few = sampled(points, 40, 7)
    labels = np.arange(40) % 5
    distances = np.linalg.norm(points.coordinates[:, np.newaxis] - few.coordinates, axis=2)
    np.testing.assert_array_equal(nearest(points, few, labels), labels[distances.argmin(axis=1)])
