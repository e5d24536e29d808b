from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from fusion_lab.tracking.names import LONGEST, safe_name, safe_parts, truncated

TEXT = st.text(max_size=300)


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_every_name_becomes_one_that_mlflow_takes(name):
    safe = safe_name(name)
    _validate_metric_name(safe)
    _validate_param_name(safe)
    assert 0 < len(safe) <= LONGEST
    assert safe_name(safe) == safe


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="a2 /:", max_size=4), unique=True, max_size=12))
def test_different_names_stay_different(names):
    safe = safe_parts(names)
    assert list(safe) == names
    assert len(set(safe.values())) == len(names)
    assert not any("/" in part for part in safe.values())


def test_long_names_with_the_same_beginning_stay_different():
    first, second = safe_name("a" * 400 + "x"), safe_name("a" * 400 + "y")
    assert first != second


@given(st.text(max_size=20), st.integers(1, 20))
def test_truncated_text_is_a_beginning_within_the_limit(text, limit):
    short = truncated(text, limit)
    assert len(short) <= limit
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))
