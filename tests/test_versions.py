import pytest

from hn_datasets.errors import ArgumentError
from hn_datasets.release.versions import Version, parse_version


@pytest.mark.parametrize(
    ("text", "expected"), [("1.0.0", Version(1, 0, 0)), ("v0.10.2", Version(0, 10, 2)), ("minor", "minor")]
)
def test_versions_and_steps_are_read(text, expected):
    assert parse_version(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1", "1.0", "1.0.0.0", "1.0.0-rc1", "01.0.0", "1.0.x", "latest", " 1.0.0", 1, None]
)
def test_what_is_no_version_is_refused(text):
    with pytest.raises(ArgumentError, match=r"Expected a version such as '1\.0\.0'"):
        parse_version(text)


def test_versions_compare_by_number_and_count_up():
    assert Version(1, 9, 9) < Version(1, 10, 0) < Version(2, 0, 0)
    steps = {part: str(Version(1, 2, 3).bump(part)) for part in ("major", "minor", "patch")}
    assert steps == {"major": "2.0.0", "minor": "1.3.0", "patch": "1.2.4"}
    assert Version(1, 2, 3).tag == "v1.2.3"
    assert Version.find("v1.2.3") == Version(1, 2, 3)
