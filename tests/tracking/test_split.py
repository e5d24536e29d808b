import pytest

from fusion_lab.contracts import DataError
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.experiment import Materials, resolve
from fusion_lab.tracking.split import facts_bytes, read_facts


def test_facts_of_a_split_come_back_as_they_were():
    experiment = resolve({"name": "tiny", "data": {"domain": "synthetic", "rows": 40}, "folds": {"holdout": 0.2}}, "")
    materials = Materials.load(experiment)
    folds = materials.folds
    facts = FoldFacts.of(folds, materials.dataset.provenance.digest, 3)
    assert read_facts(facts_bytes(facts)) == facts
    assert facts.names == folds.names and facts.digest == folds.digest and facts.holdout == folds.holdout.sum()
    assert [sum(sizes) for sizes in zip(facts.train, facts.val, facts.test, strict=True)] == [
        len(materials.dataset) - facts.holdout
    ] * len(folds)


def test_keys_of_a_later_version_are_left_out():
    assert read_facts(b'{"protocol": "kfold", "later": 1}') == FoldFacts("kfold")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_what_is_no_such_file_is_refused(content):
    with pytest.raises(DataError, match="folds.json: expected facts of a split"):
        read_facts(content)
